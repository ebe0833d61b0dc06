"""A pool opened for an examination, with at most one job, and the messages shown while its worker is awaited."""

import asyncio
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future, wait
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import ParamSpec, TypeVar

import psutil

from surveyor.doctor.results import CheckResult, fault, remark
from surveyor.errors import PoolFailed, SurveyorError
from surveyor.pools.choice import Pools, folder_of, open_pools
from surveyor.pools.clouds.rented_site import RentedSite
from surveyor.pools.kubernetes.site import KubernetesSite
from surveyor.pools.machine import find_capacity
from surveyor.pools.machines import QueueSilent
from surveyor.pools.pool_folder import PoolFolder
from surveyor.pools.site import Site, WorkersSite
from surveyor.pools.site_machines import machines_of
from surveyor.pools.sites import LocalSite, SchedulerSite
from surveyor.pools.worker_check import CODE, PACKAGES, versions

P = ParamSpec("P")
T = TypeVar("T")

ANSWER_S = 300.0  # for a worker that is there: a program of many ranks takes its time to start, so does torch
POLL_S = 0.5
END_S = 60.0
LOOK_S = 5.0  # how often the queue is asked; each answer costs the cluster's controller something
UNANSWERED = (SurveyorError, ImportError, OSError)  # what asking a worker may raise


@dataclass(frozen=True, slots=True, eq=False)
class OpenedPool:
    """A pool that is open for an examination.

    Attributes:
        name: name of the pool.
        site: its site, as campaigns use it.
        pool: the pool, which has one job at most if this examination has opened it.
        state: describes the state of its job.
        on_progress: called with a description of each wait.
        began: when it was opened, in seconds since the epoch.
    """

    name: str
    site: Site
    pool: Executor
    state: Callable[[], str]
    on_progress: Callable[[str], None]
    began: float

    def submit(self, function: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """Submit a function; if that fails, return a failed future, so that the pool is still closed properly."""
        try:
            return self.pool.submit(function, *args, **kwargs)
        except SurveyorError as error:
            failed: Future[T] = Future()
            failed.set_exception(error)
            return failed

    def is_done(self, future: Future[T], deadline: float) -> bool:
        """Wait for a worker's answer, and return whether it came in time.

        Args:
            future: the answer.
            deadline: in seconds of the monotonic clock.
        """
        next_look = time.monotonic()
        while not wait([future], POLL_S).done:
            now = time.monotonic()
            if now > deadline:
                return not future.cancel()
            if now > next_look:
                self.on_progress(f"pool {self.name}: {self.state()}")
                next_look = now + LOOK_S
        return True

    def answer(self, future: Future[T]) -> T:
        """Return the answer of an available worker.

        Raises:
            PoolFailed: it does not come.
        """
        if not self.is_done(future, time.monotonic() + ANSWER_S):
            raise PoolFailed(
                f"pool {self.name} gave no answer within {ANSWER_S:.0f} s; see whether its worker is alive"
            )
        return future.result()

    def without_worker(self, wait_s: float) -> CheckResult:
        """Return the result for a pool whose worker did not come in time.

        Args:
            wait_s: how long it was waited for.
        """
        found = f"no worker within {wait_s / 60:g} min: {self.state()}"
        if isinstance(self.site, WorkersSite):
            return remark("worker", self.name, f"{found}; wait longer (--wait-minutes), or look when it has begun")
        address = self.site.address if isinstance(self.site, SchedulerSite) else self.name
        return fault(
            "worker", self.name, found, f"dask worker {address} --nthreads 1  # where the pool has its machines"
        )


@contextmanager
def opened_pool(
    name: str,
    site: Site,
    folder: Path | None,
    by_hand: Path | None,
    on_progress: Callable[[str], None],
    of_closing: list[CheckResult],
) -> Iterator[OpenedPool]:
    """Open a pool with one job at most, and close it at the end; one that was opened by hand is used, and stays open.

    Args:
        name: name of the pool.
        site: its site.
        folder: folder for pools with jobs, which need one.
        by_hand: folder of the pools that the user has opened by hand.
        on_progress: called with a description of each wait.
        of_closing: takes the fault of a pool that does not close, with the ids of what is left of it.

    Raises:
        InputError: the pool cannot be opened with its settings.
    """
    used = _small(site) if _opened_by_hand(name, by_hand) is None else site
    stages = Pools(sampling=name, labelling=name, training=name)

    def note(said: str) -> None:
        of_closing.append(fault("closing", name, said, _line_for_closing(name, site)))

    try:
        with open_pools(stages, {name: used}, folder, by_hand, on_left=note) as opened:
            state = _state(name, site, folder, by_hand)
            yield OpenedPool(name, site, opened.labelling, state, on_progress, time.time())
    except PoolFailed as error:
        note(str(error))
    finally:
        if folder is not None:
            _see_off(folder_of(name, folder))


def _line_for_closing(name: str, site: Site) -> str:
    if isinstance(site, RentedSite | KubernetesSite):
        return f"surveyor pool sweep {name} --all  # with the permission to end them; or use the console of the cloud"
    return "end that process and cancel these jobs by hand"


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


def _state(name: str, site: Site, folder: Path | None, by_hand: Path | None) -> Callable[[], str]:
    """Return a function that describes the state of the job of a pool."""
    if not isinstance(site, WorkersSite) or folder is None:
        return lambda: "no worker yet"
    used = _opened_by_hand(name, by_hand) or folder_of(name, folder)
    return lambda: job_state(name, site, used)


def _opened_by_hand(name: str, by_hand: Path | None) -> PoolFolder | None:
    """Return the folder of a pool that the user has opened by hand; None where it is not open."""
    folder = None if by_hand is None else folder_of(name, by_hand)
    return folder if folder is not None and folder.read_holder() is not None else None


def job_state(name: str, site: WorkersSite, folder: PoolFolder) -> str:
    """Return the state of the jobs of a pool in the queue."""
    jobs = folder.read_jobs()
    try:
        entries = asyncio.run(machines_of(name, site, folder.path).look(jobs))
    except (QueueSilent, PoolFailed) as error:
        return f"the queue does not answer: {error}"
    states = [
        f"job {job} is {entry.state}{f' ({entry.reason})' if entry.reason else ''}" for job, entry in entries.items()
    ]
    return ", ".join(states) or "no job in the queue yet"


def no_worker(name: str, site: Site, error: Exception) -> CheckResult:
    """Return the fault of a pool without a worker, with its remedy."""
    said = str(error)
    if "versions differ" in said or "the same versions" in said:
        same = " ".join(f"{package}=={versions()[package]}" for package in PACKAGES)
        line = f"pip install {same}  # in the environment of pool {name}, or name another one in its block (python)"
        if CODE in said:
            line = f"pip install SOURCE  # the same code of surveyor in the environment of pool {name} as here"
    elif isinstance(site, WorkersSite):
        line = f"edit block {name}  # {site.causes}, as the message says"
    elif isinstance(site, SchedulerSite):
        line = f"dask scheduler  # so that it listens at {site.address}; or name another pool in the campaign file"
    else:
        line = f"edit block {name}  # cores, memory and GPUs of a worker"
    return fault("worker", name, said, line)
