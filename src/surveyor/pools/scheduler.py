"""The Dask scheduler of surveyor's own pools."""

import time
from collections.abc import Mapping
from typing import Any

from distributed import Scheduler
from distributed.core import Status
from distributed.diagnostics.plugin import SchedulerPlugin

NOTICE = "surveyor_notice"  # name of the request by which a machine says that it is taken away
KEPT = "fire-and-forget"  # as whose wish Dask notes what is to be finished even when its submitter is gone

SETTINGS: Mapping[str, Any] = {  # Any: whatever Dask's configuration holds
    # A death is reported at once; whether to try again is decided above.
    "distributed.scheduler.allowed-failures": 0,
    # What no worker is free for stays with the scheduler, and so outlives the death of a worker.
    "distributed.scheduler.worker-saturation": 1.0,
    # A worker in compiled code that does not release the interpreter is not dead; a dead one is noticed by its process.
    "distributed.scheduler.worker-ttl": None,
    "distributed.worker.profile.enabled": False,
    # Pages of Dask are open to everybody who reaches them.
    "distributed.scheduler.http.routes": [],
}


class PoolScheduler(Scheduler):  # type: ignore[misc]  # it is untyped
    """A scheduler that hands a function to a worker only when the worker is free.

    Dask does so by itself only within groups of tasks that are large against the cluster; what it gave to a busy worker
    would fail unstarted when that worker dies.

    Args:
        asks_why: whether a worker that is lost at work stays until somebody has found out why: what it ran has failed
            only if its machine was not taken away.
        options: those of Dask.
    """

    def __init__(self, *, asks_why: bool = False, **options: Any) -> None:  # Any: those of Dask
        super().__init__(**options)
        self.asks_why = asks_why
        self.lost: dict[str, float] = {}  # addresses of such workers, and since when, in seconds of the monotonic clock
        self.names_seen: set[str] = set()  # of all workers that ever connected, however soon they left
        self.n_finished = 0  # functions that have returned
        self.taken: dict[str, float] = {}  # jobs whose machines are taken away, and when, in seconds since the epoch
        self.handlers[NOTICE] = self._note_taken
        self.add_plugin(_NoteEnds(self))
        self.add_plugin(_NoteWorkers(self.names_seen))

    def _note_taken(self, job: str, at: float) -> None:
        self.taken.setdefault(job, at)

    def is_rootish(self, ts: Any) -> bool:  # Any: Dask's state of a task
        """Return whether a task may wait at the scheduler."""
        return not (ts.resource_restrictions or ts.worker_restrictions or ts.host_restrictions)

    async def remove_worker(self, address: str, *, stimulus_id: str, expected: bool = False, close: bool = True) -> Any:
        """Remove a worker; keep one that was lost at work, if the cause can be found out."""
        worker = self.workers.get(address)
        if expected or worker is None or not worker.processing or not self._can_ask:
            self.lost.pop(address, None)
            return await super().remove_worker(address, stimulus_id=stimulus_id, expected=expected, close=close)
        if address not in self.lost:
            self.lost[address] = time.monotonic()
            self.handle_worker_status_change("paused", worker, stimulus_id)  # nothing more is given to it
        return "OK"

    async def fail_worker(self, address: str, stimulus_id: str) -> None:
        """Remove a worker whose machine was not taken away, and fail its functions."""
        self.lost.pop(address, None)
        await super().remove_worker(address, stimulus_id=stimulus_id, close=False)

    async def add_worker(self, comm: Any, **options: Any) -> None:  # Any: those of Dask
        """Take a worker on; where it replaces a lost one of its name, its machine is there."""
        former = self.aliases.get(options["name"])
        if former in self.lost:
            await self.fail_worker(former, "was-replaced")
        await super().add_worker(comm, **options)

    @property
    def _can_ask(self) -> bool:
        return self.asks_why and bool(self.status == Status.running)

    @property
    def n_connected(self) -> int:
        """Number of connected workers, without those that are lost."""
        return len(self.workers.keys() - self.lost.keys())

    @property
    def n_unfinished(self) -> int:
        """Number of functions that wait or run."""
        return len(self.queued) + len(self.unrunnable) + sum(len(worker.processing) for worker in self.workers.values())

    @property
    def n_attached(self) -> int:
        """Number of connected clients."""
        return len(self.clients) - 1  # one of them stands for what is kept


class _NoteEnds(SchedulerPlugin):  # type: ignore[misc]  # it is untyped
    """Plugin that counts returned functions, and frees the key of a failure once its clients have received it."""

    def __init__(self, scheduler: PoolScheduler) -> None:
        self.scheduler = scheduler

    def transition(self, key: Any, start: str, finish: str, *_args: Any, **_kwargs: Any) -> None:
        if (start, finish) == ("processing", "memory"):
            self.scheduler.n_finished += 1
        if finish == "erred" and key in self.scheduler.tasks:
            self.scheduler.loop.add_callback(self._forget, key)

    def _forget(self, key: Any) -> None:
        task = self.scheduler.tasks.get(key)
        if task is not None and task.state == "erred":
            self.scheduler.client_releases_keys([key], client=KEPT)


class _NoteWorkers(SchedulerPlugin):  # type: ignore[misc]  # it is untyped
    def __init__(self, names: set[str]) -> None:
        self.names = names

    def add_worker(self, scheduler: Scheduler, worker: str) -> None:
        self.names.add(str(scheduler.workers[worker].name))
