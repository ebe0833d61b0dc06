"""Preflight of one pool without a campaign: one job is started, examined and ended."""

import time
from collections.abc import Callable, Generator, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

from surveyor.doctor.host_checks import check_hosts
from surveyor.doctor.opened_pools import UNANSWERED, OpenedPool, no_worker, opened_pool
from surveyor.doctor.preflight import HERE, proof_of, temporary_in, written
from surveyor.doctor.probe import Question, look_around
from surveyor.doctor.results import CheckResult, fault, fault_of, remark
from surveyor.doctor.worker_checks import (
    Asked,
    check_folders,
    check_scratch,
    check_worker,
    check_workspace,
    gpus_of,
)
from surveyor.doctor.workspaces import proven_part, through_workspace
from surveyor.errors import InputError, PoolFailed
from surveyor.pools.choice import folder_of
from surveyor.pools.ec2.site import EC2Site
from surveyor.pools.ec2.types import contradiction, kinds_of
from surveyor.pools.machines import QueueSilent
from surveyor.pools.pool_folder import PoolFolder
from surveyor.pools.site import Site, WorkersSite
from surveyor.pools.sites import JobQueueSite
from surveyor.pools.ssh.site import SSHSite
from surveyor.storage.buckets import BucketAccess
from surveyor.storage.object_storage import ObjectStorage
from surveyor.works.workspaces import bucket_of, workspace_of

CLOCKS_S = 30.0  # beyond this difference, times in logs and events of several machines mislead


def examine_pool(
    name: str,
    site: Site,
    folder: Path,
    *,
    by_hand: Path | None = None,
    access: BucketAccess | None = None,
    wait_s: float = 600.0,
    on_progress: Callable[[str], None] = lambda _: None,
) -> Iterator[CheckResult]:
    """Start one job of a pool, check the environment of its worker, end the job, and report its cost.

    A pool that was opened by hand is used, and stays open. No job is started if the pool has a workspace that is unfit.

    Args:
        name: name of the pool, such as ec2/gpu.
        site: its site.
        folder: a folder that workers without a workspace are to share with this machine; nothing is left in it.
        by_hand: folder of the pools that the user has opened by hand.
        access: how the bucket of its workspace is reached; None for the access that the environment gives.
        wait_s: maximum time to wait for the worker.
        on_progress: called with a description of each wait.
    """
    of_closing: list[CheckResult] = []
    with temporary_in(folder) as shared, ExitStack() as made:
        address = workspace_of(site)
        part = None if address is None else (yield from _check_workspace(name, address, access, made))
        question = Question(
            answer=f"from-{name.replace('/', '-')}",
            folders={"run directory": written(shared)} if address is None else {},
            scratch=site.scratch if isinstance(site, JobQueueSite) else None,
            wants_gpu=True,
        )
        gpus, pools = (yield from _check_machines(name, site, question, on_progress)), shared / "pools"
        if address is not None and part is None:
            return
        try:
            with opened_pool(name, site, pools, by_hand, on_progress, of_closing) as pool, ExitStack() as stack:
                seen = pool, question
                if part is not None:
                    seen = stack.enter_context(through_workspace(pool, question, part, shared))
                yield from _ask(*seen, wait_s, gpus)
                on_progress(f"closing pool {name}")
        except InputError as error:
            yield no_worker(name, site, error)
        yield from of_closing
        if isinstance(site, WorkersSite):
            yield from _check_cost(name, site, folder_of(name, pools))


def _check_workspace(
    name: str, address: str, access: BucketAccess | None, made: ExitStack
) -> Generator[CheckResult, None, ObjectStorage | None]:
    """Prove that the workspace of a pool keeps its promises; return a part of it to show to a worker."""
    try:
        part = made.enter_context(proven_part(address, access))
    except (InputError, OSError) as error:
        yield fault_of(error, "workspace", HERE, f"workspace: s3://BUCKET/PREFIX  # in block {name}")
        return None
    yield proof_of(bucket_of(address, access), "workspace")
    return part


def _check_machines(
    name: str, site: Site, question: Question, on_progress: Callable[[str], None]
) -> Generator[CheckResult, None, int]:
    """Check the machines of a pool as far as possible without a worker; return how many GPUs a worker should see."""
    if isinstance(site, SSHSite):
        on_progress(f"asking the machines of pool {name}")
        yield from check_hosts(name, site, question.folders, wants_gpu=False)
    if not isinstance(site, EC2Site):
        return gpus_of(site)
    result, gpus = _check_types(name, site)
    yield result
    return gpus


def _check_types(name: str, site: EC2Site) -> tuple[CheckResult, int]:
    """Check that the workers fit into each type of instances, and return also how many GPUs each of these has."""
    what = "instance types"
    try:
        kinds = kinds_of(site)
    except (PoolFailed, QueueSilent, InputError) as error:
        return remark(what, name, str(error)), 0
    found, gpus = "; ".join(map(str, kinds)), min((kind.gpus for kind in kinds), default=0)
    if (reason := contradiction(site, kinds)) is not None:
        return fault(what, name, reason, f"workers_per_job: 1  # in block {name}"), gpus
    return CheckResult(what, name, found), gpus


def _ask(pool: OpenedPool, question: Question, wait_s: float, gpus: int) -> Iterator[CheckResult]:
    asked = pool.submit(look_around, question)
    if not pool.is_done(asked, time.monotonic() + wait_s):
        yield pool.without_worker(wait_s)
        return
    try:
        view = asked.result()
    except UNANSWERED as error:
        yield no_worker(pool.name, pool.site, error)
        return
    seen = Asked(pool.name, pool.site, question, view, max(0.0, view.time - pool.began))
    for check in (check_worker, check_folders, check_workspace, check_scratch):
        yield from check(seen)
    yield _check_cards(seen, gpus)
    yield from _check_clock(pool)


def _check_cards(asked: Asked, asks: int) -> CheckResult:
    view = asked.view
    usable = "" if view.torch_gpus is None else f", torch can use {view.torch_gpus}"
    found = f"{view.host}: nvidia-smi lists {', '.join(view.gpus) or 'none'}{usable}"
    if asks > len(view.gpus):
        line = f"edit block {asked.pool}  # a worker should see {asks}: another queue or image, or fewer"
        return fault("GPUs", asked.pool, found, line)
    if view.gpus and view.torch_gpus == 0:
        line = f"{view.python} -m pip install torch  # a build for CUDA, and for the driver of {view.host}"
        return fault("GPUs", asked.pool, found, line)
    return CheckResult("GPUs", asked.pool, found)


def _check_clock(pool: OpenedPool) -> Iterator[CheckResult]:
    """Compare the clock of the worker with the clock here; the time of the answer bounds the error."""
    with suppress(*UNANSWERED):
        before = time.time()
        there = pool.answer(pool.submit(time.time))
        after = time.time()
        ahead = there - (before + after) / 2
        found = (
            f"{abs(ahead):.0f} s {'ahead of' if ahead > 0 else 'behind'} this machine, within {after - before:.1f} s"
        )
        if abs(ahead) > CLOCKS_S + (after - before):
            yield remark(
                "clock", pool.name, f"{found}; set both by NTP, as times in logs and reports mislead otherwise"
            )
        else:
            yield CheckResult("clock", pool.name, found)


def _check_cost(name: str, site: WorkersSite, folder: PoolFolder) -> Iterator[CheckResult]:
    """Report the cost of the job, if the site has a price."""
    spent = (folder.read_state() or {}).get("spent")
    if site.price is None or spent is None:
        return
    since = "request" if site.price.counts_pending else "begin"
    yield CheckResult("cost", name, f"{spent:.2f}, at {site.price.per_hour:g} per hour from the {since} to the end")
