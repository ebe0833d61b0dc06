"""Asking the pools of a campaign, before it begins, what only their workers know."""

import asyncio
import math
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Executor, Future, wait
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ParamSpec, TypeVar

import psutil

from surveyor.buckets import BucketAccess
from surveyor.campaign import CheckedCampaign, check_theory
from surveyor.doctor.probe import Question, WorkerView, look_around, temporary_part
from surveyor.doctor.results import CheckResult, Subject, fault, fault_of, remark
from surveyor.doctor.worker_checks import WORKER_CHECKS, Asked, stages_of, wants_gpu
from surveyor.errors import InputError, PoolFailed, SurveyorError
from surveyor.labels import LevelOfTheory, load_theory
from surveyor.models.choice import check_model_parameters, with_contents
from surveyor.object_storage import ObjectStorage, prove
from surveyor.pools.choice import Pools, folder_of, open_pools
from surveyor.pools.ec2_site import EC2Site
from surveyor.pools.machine import find_capacity
from surveyor.pools.machines import QueueSilent
from surveyor.pools.pool_folder import PoolFolder
from surveyor.pools.site import Site, WorkersSite
from surveyor.pools.site_machines import machines_of
from surveyor.pools.sites import JobQueueSite, LocalSite, SchedulerSite
from surveyor.pools.worker_check import CODE, PACKAGES, versions
from surveyor.pools.workspace import Border, Workspace
from surveyor.works.workspaces import bucket_of, workspace_of

P = ParamSpec("P")
T = TypeVar("T")

ANSWER_S = 300.0  # for a worker that is there: a program of many ranks takes its time to start, so does torch
POLL_S = 0.5
END_S = 60.0
LOOK_S = 5.0  # how often the queue is asked; each answer costs the cluster's controller something
UNANSWERED = (SurveyorError, ImportError, OSError)  # what asking a worker may raise

# What is to be edited where a reference cannot be computed, by what is said of it.
LINES = (
    ("was not found", "codes: {cp2k: {command: /FULL/PATH/cp2k.psmp}}"),
    ("--version", "codes: {cp2k: {command: …}}  # one that starts CP2K there, as tried by hand"),
    ("data directory", "codes: {cp2k: {data_directory: FOLDER}}"),
    ("the scratch of CP2K", "codes: {cp2k: {scratch: FOLDER}}  # one that every worker has"),
)


@dataclass(frozen=True, slots=True, eq=False)
class _Opened:
    """A pool that is open, and what its worker was asked.

    All is asked at once: between two questions a job that has nothing to do may end.
    """

    subject: Subject
    name: str
    state: Callable[[], str]
    began: float
    question: Question
    view: Future[WorkerView]
    theory: Future[LevelOfTheory] | None
    engine: Future[None] | None

    @property
    def site(self) -> Site:
        return self.subject.sites[self.name]


def examine_pools(
    subject: Subject, folders: Mapping[str, Path], bucket: ObjectStorage | None = None
) -> Iterator[CheckResult]:
    """Check a worker of each pool of a campaign.

    Args:
        subject: the campaign.
        folders: the folders that all pools have to see, by purpose.
        bucket: a part of the bucket that all pools have to see.
    """
    of_closing: list[CheckResult] = []
    with ExitStack() as stack:
        pools = []
        for name in subject.parameters.pools.names:
            site = subject.sites.get(name)
            if site is None or (isinstance(site, WorkersSite) and "run directory" not in folders):
                lacks = "where it is, is not known" if site is None else "its process needs the run directory"
                yield remark("worker", name, f"not asked, as {lacks}")
                continue
            subject.on_progress(f"opening pool {name}")
            try:
                pools.append(stack.enter_context(_opened(subject, name, folders, bucket, of_closing)))
            except InputError as error:
                yield _no_worker(subject, name, error)
        deadline = time.monotonic() + subject.wait_s
        for pool in pools:
            yield from _hear(pool, deadline)
        subject.on_progress("closing pools")
    yield from of_closing


@contextmanager
def _opened(
    subject: Subject,
    name: str,
    folders: Mapping[str, Path],
    bucket: ObjectStorage | None,
    of_closing: list[CheckResult],
) -> Iterator[_Opened]:
    site, run_directory = subject.sites[name], folders.get("run directory")
    folder = None if run_directory is None else run_directory / "pools"
    question = _question(subject, name, folders, bucket)
    pools = Pools(sampling=name, labelling=name, training=name)
    used = _small(site) if _opened_by_hand(subject, name) is None else site
    try:
        with ExitStack() as stack:
            pool: Executor = stack.enter_context(open_pools(pools, {name: used}, folder, subject.by_hand)).labelling
            if (address := workspace_of(site)) is not None:
                part = stack.enter_context(_part_of_workspace(address, subject.accesses.get(name)))
                border = Border(name, part, subject.directory.path, checkpoint_s=math.inf)
                question, pool = replace(question, workspace=part), stack.enter_context(Workspace(pool, border))
            began = time.time()
            view = _submitted(pool, look_around, question)
            is_open = not view.done() or view.exception() is None
            theory = _asked_theory(subject, name, pool) if is_open else None
            engine = _asked_engine(subject, name, pool) if is_open else None
            yield _Opened(subject, name, _queue(subject, name, folder), began, question, view, theory, engine)
    except PoolFailed as error:
        of_closing.append(fault("closing", name, str(error), "end that process and cancel these jobs by hand"))
    finally:
        if folder is not None:
            _see_off(folder_of(name, folder))


def _question(subject: Subject, name: str, folders: Mapping[str, Path], bucket: ObjectStorage | None) -> Question:
    site = subject.sites[name]
    return Question(
        answer=f"from-{name.replace('/', '-')}",
        folders=folders if workspace_of(site) is None else {},
        scratch=site.scratch if isinstance(site, JobQueueSite) else None,
        wants_gpu=wants_gpu(subject.parameters, name, site),
        bucket=bucket,
    )


@contextmanager
def _part_of_workspace(address: str, access: BucketAccess | None) -> Iterator[ObjectStorage]:
    """Prove that a workspace keeps its promises, and give a temporary part of it."""
    storage = bucket_of(address, access)
    prove(storage)
    with temporary_part(storage) as part:
        yield part


def _see_off(folder: PoolFolder) -> None:
    """Wait for the end of a pool's process, which may have been interrupted at its start: it writes into the folder."""
    ours = [each for each in psutil.Process().children() if str(folder.path) in _command(each)]
    for process in ours:
        with suppress(psutil.NoSuchProcess):
            process.terminate()
    psutil.wait_procs(ours, timeout=END_S)


def _command(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.Error:
        return []  # it is gone


def _submitted(pool: Executor, function: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
    """Submit a function; if that fails, return a failed future, so that the pool is still closed properly."""
    try:
        return pool.submit(function, *args, **kwargs)
    except SurveyorError as error:
        failed: Future[T] = Future()
        failed.set_exception(error)
        return failed


def _asked_theory(subject: Subject, name: str, pool: Executor) -> Future[LevelOfTheory] | None:
    if subject.checked is None or "labelling" not in stages_of(subject.parameters, name):
        return None  # a campaign file with a fault has been told
    return _submitted(pool, subject.checked.reference.resolve)


def _asked_engine(subject: Subject, name: str, pool: Executor) -> Future[None] | None:
    if stages_of(subject.parameters, name) == ["labelling"]:
        return None
    try:
        parameters = with_contents(subject.parameters.model)
    except InputError:
        return None  # told as a fault of the campaign file
    return _submitted(pool, check_model_parameters, parameters)


def _small(site: Site) -> Site:
    """Return a site that gives one worker."""
    match site:
        case WorkersSite():
            return site.model_copy(update={"min_jobs": 0, "max_jobs": 1})
        case LocalSite():
            find_capacity(site)  # for the whole of it
            return site.model_copy(
                update={
                    "cores": site.cores_per_worker,
                    "memory_GB": site.memory_per_worker_GB,
                    "gpus": site.gpus_per_worker or None,
                }
            )
    return site


def _queue(subject: Subject, name: str, folder: Path | None) -> Callable[[], str]:
    """Return a function that describes the state of the job of a pool."""
    site = subject.sites[name]
    if not isinstance(site, WorkersSite) or folder is None:
        return lambda: "no worker yet"
    used = _opened_by_hand(subject, name) or folder_of(name, folder)
    return lambda: job_state(name, site, used)


def _opened_by_hand(subject: Subject, name: str) -> PoolFolder | None:
    """Return the folder of a pool that the user has opened by hand; None where it is not open."""
    folder = None if subject.by_hand is None else folder_of(name, subject.by_hand)
    return folder if folder is not None and folder.read_holder() is not None else None


def _hear(opened: _Opened, deadline: float) -> Iterator[CheckResult]:
    """Say what the worker of a pool sees, and what follows for its stages."""
    subject, name = opened.subject, opened.name
    if not _is_done(opened, opened.view, deadline):
        yield _still_waiting(opened)
        return
    try:
        view = opened.view.result()
    except UNANSWERED as error:
        yield _no_worker(subject, name, error)
        return
    asked = Asked(subject.parameters, name, opened.site, opened.question, view, max(0.0, view.time - opened.began))
    for check in WORKER_CHECKS:
        yield from check(asked)
    if opened.theory is not None and subject.checked is not None:
        yield from _check_theory(opened, opened.theory, subject.checked)
    if opened.engine is not None:
        yield from _check_engine(opened, opened.engine)


def _is_done(opened: _Opened, future: Future[T], deadline: float) -> bool:
    """Wait for a worker's answer, and say whether it came in time."""
    next_look = time.monotonic()
    while not wait([future], POLL_S).done:
        now = time.monotonic()
        if now > deadline:
            return not future.cancel()
        if now > next_look:
            opened.subject.on_progress(f"pool {opened.name}: {opened.state()}")
            next_look = now + LOOK_S
    return True


def _still_waiting(opened: _Opened) -> CheckResult:
    name, minutes = opened.name, opened.subject.wait_s / 60
    found = f"no worker within {minutes:g} min: {opened.state()}"
    if isinstance(opened.site, WorkersSite):
        return remark("worker", name, f"{found}; wait longer (--wait-minutes), or look when it has begun")
    address = opened.site.address if isinstance(opened.site, SchedulerSite) else name
    return fault("worker", name, found, f"dask worker {address} --nthreads 1  # where the pool has its machines")


def _no_worker(subject: Subject, name: str, error: Exception) -> CheckResult:
    site, said = subject.sites[name], str(error)
    if "versions differ" in said or "the same versions" in said:
        same = " ".join(f"{package}=={versions()[package]}" for package in PACKAGES)
        line = f"pip install {same}  # in the environment of pool {name}, or name another one in its block (python)"
        if CODE in said:
            line = f"pip install SOURCE  # the same code of surveyor in the environment of pool {name} as here"
    elif isinstance(site, EC2Site):
        line = f"edit block {name}  # image, types, subnets, security groups, prologue or python, as the message says"
    elif isinstance(site, WorkersSite):
        line = f"edit block {name}  # queue, account, directives, prologue or python, as the message says"
    elif isinstance(site, SchedulerSite):
        line = f"dask scheduler  # so that it listens at {site.address}; or name another pool in {subject.file}"
    else:
        line = f"edit block {name}  # cores, memory and GPUs of a worker"
    return fault("worker", name, said, line)


def job_state(name: str, site: WorkersSite, folder: PoolFolder) -> str:
    """Return the state of the jobs of a pool in the queue."""
    jobs = folder.read_jobs()
    try:
        shown = asyncio.run(machines_of(name, site, folder.path).look(jobs))
    except (QueueSilent, PoolFailed) as error:
        return f"the queue does not answer: {error}"
    states = [
        f"job {job} is {entry.state}{f' ({entry.reason})' if entry.reason else ''}" for job, entry in shown.items()
    ]
    return ", ".join(states) or "no job in the queue yet"


def _answer(opened: _Opened, future: Future[T]) -> T:
    """Return the answer of an available worker."""
    if not _is_done(opened, future, time.monotonic() + ANSWER_S):
        raise PoolFailed(f"pool {opened.name} gave no answer within {ANSWER_S:.0f} s; see whether its worker is alive")
    return future.result()


def _check_theory(opened: _Opened, asked: Future[LevelOfTheory], checked: CheckedCampaign) -> Iterator[CheckResult]:
    subject, name = opened.subject, opened.name
    try:
        theory = _answer(opened, asked)
        check_theory(subject.parameters, checked.walkers, theory)
    except UNANSWERED as error:
        yield fault_of(error, "reference", name, _line_for_reference(subject, str(error)))
        return
    program = f"{theory.content.get('program', theory.name)} {theory.content.get('version', '')}".strip()
    yield CheckResult("reference", name, f"{program}; level of theory {theory.name} ({theory.digest[:12]})")
    yield from _check_frozen(subject, name, theory)


def _line_for_reference(subject: Subject, said: str) -> str:
    chosen = subject.parameters.reference
    if chosen.cp2k is None:
        return f"edit reference in {subject.file}"
    return next((line for text, line in LINES if text in said), f"edit {chosen.cp2k.input or subject.file}")


def _check_frozen(subject: Subject, name: str, theory: LevelOfTheory) -> Iterator[CheckResult]:
    path = subject.directory.theory
    if path.exists() and not theory.is_same_as(load_theory(path)):
        found = f"another level of theory than the one with which the campaign in {subject.directory.path} began"
        line = "run_directory: FOLDER  # a new one; or restore the program, its input and its data files"
        yield fault("reference", name, found, line)


def _check_engine(opened: _Opened, asked: Future[None]) -> Iterator[CheckResult]:
    subject, name = opened.subject, opened.name
    (kind,) = subject.parameters.model.model_dump(exclude_none=True)
    try:
        _answer(opened, asked)
        yield CheckResult("model", name, f"{kind}: its engine is there, and knows its options")
    except UNANSWERED as error:
        yield fault_of(error, "model", name, f"edit model in {subject.file}, or the environment of pool {name}")
