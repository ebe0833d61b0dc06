"""Checks that the environment of a pool's worker suits the stages of the pool."""

import re
import shlex
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from surveyor.doctor.probe import Question, WorkerView
from surveyor.doctor.results import FIELDS, CheckResult, fault, remark
from surveyor.models.mace_parameters import MACEParameters
from surveyor.models.nequip_parameters import NequIPParameters
from surveyor.pools.choice import LOCAL
from surveyor.pools.gcp.site import GCPSite
from surveyor.pools.kubernetes.site import KubernetesSite
from surveyor.pools.machine import HIDDEN
from surveyor.pools.site import BorderSite, Site
from surveyor.pools.sites import JobQueueSite, LocalSite, SLURMSite
from surveyor.reference.cp2k_code import CP2KCode
from surveyor.storage import FolderStorage
from surveyor.words import number_of
from surveyor.works.campaign import CampaignParameters

LEAST_GB = 1.0  # of free space: a training of MACE keeps some hundred MB of checkpoints
LAUNCHERS = ("mpirun", "mpiexec", "orterun", "srun", "prun")
RANKS = re.compile(r"(?:^|\s)(?:-np|-n|--np|--ntasks)[\s=]*(\d+)\b")


@dataclass(frozen=True, slots=True)
class Asked:
    """A worker that has described its environment.

    Attributes:
        pool: name of the pool.
        site: site of the pool.
        question: the request to the worker.
        view: its environment.
        waited_s: time to open the pool and to get the answer, including the time in the queue.
    """

    pool: str
    site: Site
    question: Question
    view: WorkerView
    waited_s: float


@dataclass(frozen=True, slots=True)
class AskedForCampaign(Asked):
    """A worker of a campaign that has described its environment.

    Attributes:
        parameters: parameters of the campaign.
    """

    parameters: CampaignParameters


def stages_of(parameters: CampaignParameters, pool: str) -> list[str]:
    """Return the stages that run on a pool."""
    return [stage for stage, name in parameters.pools.model_dump().items() if name == pool]


def check_worker(asked: Asked) -> Iterator[CheckResult]:
    """Say where the worker runs, and with which versions."""
    view = asked.view
    stages = (
        f", for {', '.join(stages_of(asked.parameters, asked.pool))}" if isinstance(asked, AskedForCampaign) else ""
    )
    versions = ", ".join(f"{name} {version}" for name, version in view.versions.items())
    found = f"on {view.host} after {asked.waited_s:.0f} s{stages}: {versions} ({view.python})"
    yield CheckResult("worker", asked.pool, found)


def check_folders(asked: Asked) -> Iterator[CheckResult]:
    """Check that the worker and this process see the same folders, and can write into them."""
    host = asked.view.host
    for name, folder in asked.question.folders.items():
        path, seen = folder.parent, asked.view.folders[name]
        if not seen.is_shared:
            found = f"{host} does not see what was written here into {path}"
            line = f"{FIELDS[name]}: FOLDER  # on a disk that {host} shares with this machine"
        elif seen.complaint:
            found = f"{host} cannot write into {path}: {seen.complaint}"
            line = f"{FIELDS[name]}: FOLDER  # that {host} can write to; or repair {path} there"
        elif FolderStorage(folder).get(asked.question.answer) is None:
            found = f"what {host} wrote into {path} is not seen here"
            line = f"{FIELDS[name]}: FOLDER  # on a disk that {host} shares with this machine"
        else:
            yield _space(name, asked.pool, f"{path}: shared and writable", seen.free_GB, FIELDS[name])
            continue
        yield fault(name, asked.pool, found, line)


def check_bucket(asked: AskedForCampaign) -> Iterator[CheckResult]:
    """Check that the worker can use the bucket of the label store."""
    store, host = asked.parameters.label_store, asked.view.host
    if asked.question.bucket is None:
        return
    if asked.view.bucket:
        line = f"storage: KIND/NAME  # a block whose endpoint and credentials serve {host}, which needs obstore, too"
        yield fault("label store", asked.pool, f"{host} cannot use {store}: {asked.view.bucket}", line)
    else:
        yield CheckResult("label store", asked.pool, f"{store}: shared and writable")


def check_workspace(asked: Asked) -> Iterator[CheckResult]:
    """Check that the worker can use the workspace of its pool."""
    workspace, host = asked.question.workspace, asked.view.host
    if workspace is None:
        return
    address = asked.site.workspace if isinstance(asked.site, BorderSite) else workspace
    if asked.view.workspace:
        line = f"workspace: s3://BUCKET/PREFIX  # in block {asked.pool}; with access for {host}, which needs obstore"
        yield fault("workspace", asked.pool, f"{host} cannot use {address}: {asked.view.workspace}", line)
    else:
        yield CheckResult("workspace", asked.pool, f"{address}: shared and writable")
    if not isinstance(asked, AskedForCampaign) or "labelling" not in stages_of(asked.parameters, asked.pool):
        return
    if isinstance(store := asked.parameters.label_store, Path):
        yield fault("label store", asked.pool, f"{host} does not see the folder {store}", "labels: s3://BUCKET/labels")


def check_scratch(asked: Asked) -> Iterator[CheckResult]:
    """Check the folder that the worker has for itself."""
    path, seen = asked.question.scratch, asked.view.scratch
    if path is None or seen is None:
        return
    if seen.complaint:
        line = f"scratch: FOLDER  # in block {asked.pool}; one that {asked.view.host} can write to"
        yield fault("scratch", asked.pool, f"{asked.view.host} cannot write into {path}: {seen.complaint}", line)
    else:
        yield _space("scratch", asked.pool, f"{path}: writable", seen.free_GB, "scratch")


def _space(check: str, where: str, found: str, free: float | None, field: str) -> CheckResult:
    if free is None or free >= LEAST_GB:
        return CheckResult(check, where, found if free is None else f"{found}, {free:.0f} GB are free")
    line = f"{field}: FOLDER  # with more space, or free some; expected at least {LEAST_GB:g} GB"
    return fault(check, where, f"{found}, but only {free:.2f} GB are free", line)


def check_cores(asked: AskedForCampaign) -> Iterator[CheckResult]:
    """Check the MPI ranks and threads of the reference against the cores of the worker."""
    cores = min(asked.view.cores, cores_of(asked.site) or asked.view.cores)
    short = _shortage(asked)
    is_labelling = "labelling" in stages_of(asked.parameters, asked.pool)
    codes = asked.parameters.codes
    if not is_labelling or asked.parameters.reference.cp2k is None or codes.cp2k_block is not None:
        yield (
            CheckResult("cores", asked.pool, f"a worker has {cores}")
            if not short
            else remark("cores", asked.pool, short)
        )
        return
    code = codes.cp2k_code
    ranks = ranks_of(code, asked.site)
    if ranks is None:
        found = f"a worker has {cores}; `{code.command}` does not say how many ranks it starts"
        yield remark("cores", asked.pool, found)
        return
    needed = ranks * code.omp_threads
    processes = f"{number_of(ranks, 'rank')} of {number_of(code.omp_threads, 'thread')}"
    found = f"{processes}: {number_of(needed, 'core')}; {short or f'a worker has {cores}'}"
    if needed > cores:
        yield fault("cores", asked.pool, found, _line_for_cores(asked, needed))
        return
    yield remark("cores", asked.pool, found) if short else CheckResult("cores", asked.pool, found)
    if isinstance(asked.site, SLURMSite) and "mpirun" in code.command and ranks > asked.site.tasks_per_job:
        found = f"Open MPI's mpirun finds {number_of(asked.site.tasks_per_job, 'slot')} there, for {ranks} ranks"
        yield fault("slots", asked.pool, found, f"tasks_per_job: {ranks}  # in block {asked.pool}")


def _shortage(asked: AskedForCampaign) -> str:
    """Say how many cores a block asks for, where its worker has fewer; return nothing where it has them."""
    asks, has = cores_of(asked.site), asked.view.cores
    return f"block {asked.pool} asks for {asks}, {asked.view.host} has {has}" if asks is not None and asks > has else ""


def cores_of(site: Site) -> int | None:
    """Return how many cores a worker of a site has by its settings; None where they do not say."""
    if isinstance(site, KubernetesSite):
        return site.cores // site.workers_per_job
    return site.cores_per_worker if isinstance(site, LocalSite | JobQueueSite) else None


def ranks_of(code: CP2KCode, site: Site) -> int | None:
    """Return the number of processes that a command starts; None if neither the command nor the site tells."""
    if "{ranks}" in code.command:
        return code.ranks
    stated = RANKS.search(code.command)
    if stated is not None:
        return int(stated[1])
    if not any(Path(word).name in LAUNCHERS for word in shlex.split(code.command)):
        return 1
    return site.tasks_per_job if isinstance(site, SLURMSite) else None


def _line_for_cores(asked: AskedForCampaign, needed: int) -> str:
    fewer = "or fewer ranks in codes: {cp2k: …}"
    match asked.site:
        case JobQueueSite() if _shortage(asked):
            return f"queue: …  # in block {asked.pool}, one whose nodes give a worker {needed} cores; {fewer}"
        case LocalSite() if _shortage(asked):
            return f"pools: {{labelling: …}}  # a pool on a machine with {needed} cores; {fewer}"
        case JobQueueSite() as site:
            return f"cores_per_job: {needed * site.workers_per_job}  # in block {asked.pool}; {fewer}"
        case LocalSite() if asked.pool != LOCAL:
            return f"cores_per_worker: {needed}  # in block {asked.pool}; {fewer}"
        case LocalSite():
            return f"pools: {{labelling: local/NAME}}  # a block with cores_per_worker: {needed}; {fewer}"
    return f"pools: {{labelling: …}}  # a pool whose workers have {needed} cores; {fewer}"


def check_gpus(asked: AskedForCampaign) -> Iterator[CheckResult]:
    """Check that the worker sees GPUs, where its site or the model asks for them."""
    view = asked.view
    if not asked.question.wants_gpu:
        return
    is_hidden = view.visible is not None and view.visible in HIDDEN
    variable = f"CUDA_VISIBLE_DEVICES is {view.visible!r}" if view.visible is not None else "no CUDA_VISIBLE_DEVICES"
    listed = f"nvidia-smi lists {len(view.gpus)}"
    usable = "" if view.torch_gpus is None else f", torch can use {view.torch_gpus}"
    asks = f"block {asked.pool} asks for {gpus_of(asked.site)}; " if gpus_of(asked.site) else ""
    found = f"{asks}{view.host}: {listed}{usable}, {variable}"
    if not view.gpus or is_hidden:
        yield fault("GPUs", asked.pool, found, _line_for_gpus(asked))
    elif view.torch_gpus == 0:
        line = f"{view.python} -m pip install torch  # a build for CUDA, and for the driver of {view.host}"
        yield fault("GPUs", asked.pool, found, line)
    else:
        yield CheckResult("GPUs", asked.pool, found)


def _line_for_gpus(asked: AskedForCampaign) -> str:
    cpu = "or model: {mace: {device: cpu}}" if wants_cuda(asked.parameters) else "or none, to train on cores"
    if isinstance(asked.site, JobQueueSite) and asked.site.gpus_per_job:
        return f"queue: …  # in block {asked.pool}, one whose nodes have GPUs; {cpu}"
    if isinstance(asked.site, JobQueueSite):
        return f"gpus_per_job: 1  # in block {asked.pool}, and queue: one with GPUs; {cpu}"
    if isinstance(asked.site, LocalSite) and asked.pool != LOCAL and not asked.site.gpus_per_worker:
        return f"gpus_per_worker: 1  # in block {asked.pool}, on a machine with GPUs; {cpu}"
    stages = " and ".join(stages_of(asked.parameters, asked.pool))
    return f"pools: {{…}}  # for {stages}, a pool with GPUs; {cpu}"


def wants_gpu(parameters: CampaignParameters, pool: str, site: Site) -> bool:
    """Return whether the worker of a pool should see GPUs: its site asks for them, or the model that it runs does."""
    runs_model = stages_of(parameters, pool) != ["labelling"]
    return gpus_of(site) > 0 or (runs_model and wants_cuda(parameters))


def gpus_of(site: Site) -> int:
    """Return how many GPUs a site asks for."""
    match site:
        case LocalSite():
            return site.gpus_per_worker
        case JobQueueSite():
            return site.gpus_per_job
        case KubernetesSite():
            return site.gpus
        case GCPSite() if site.accelerator is not None:
            return site.n_accelerators
    return 0


def wants_cuda(parameters: CampaignParameters) -> bool:
    """Return whether the model runs on GPUs alone."""
    chosen = parameters.model.of_each.chosen
    return isinstance(chosen, MACEParameters | NequIPParameters) and chosen.device == "cuda"


WORKER_CHECKS: tuple[Callable[[AskedForCampaign], Iterator[CheckResult]], ...] = (
    check_worker,
    check_folders,
    check_bucket,
    check_workspace,
    check_scratch,
    check_cores,
    check_gpus,
)
