"""A pool: where one stage of a campaign runs, seen as a `concurrent.futures.Executor`."""

import asyncio
import threading
from collections.abc import Callable
from concurrent import futures
from concurrent.futures import CancelledError, Executor, Future
from dataclasses import dataclass
from functools import partial
from typing import Any, ParamSpec, TypeVar
from uuid import uuid4

from distributed import Client, KilledWorker
from distributed import Future as RemoteFuture
from distributed.comm import CommClosedError

from surveyor.errors import WorkerLost
from surveyor.pools.parcel import name_of, pack, run_parcel, unpack

P = ParamSpec("P")
T = TypeVar("T")

IN_FLIGHT = 2  # functions in flight for each that can run, so that no worker waits for its next one
GROUP = "surveyor"  # Dask's name for the group of all calls, see `_enlarge_group`
RECOUNT_S = 2.0  # how often a full pool sees whether it has grown


@dataclass(frozen=True, slots=True)
class Attachment:
    """A connection to a running Dask cluster.

    Attributes:
        client: what submits; its closing cancels what it submitted.
        count: returns how many functions can run at once now; it must return at once.
        hint: says what to look at when a worker was lost.
        close: closes the client and whatever else was opened for this connection.
        least: functions that are handed over even where fewer can run, so that a cluster that grows sees the demand.
    """

    client: Client
    count: Callable[[], int]
    hint: Callable[[], str]
    close: Callable[[], None]
    least: int = 1

    @property
    def is_alive(self) -> bool:
        """Whether functions can be submitted through it."""
        return bool(self.client.status == "running")

    @property
    def capacity(self) -> int:
        """How many functions can be in flight."""
        return IN_FLIGHT * max(self.count(), self.least)


class Pool(Executor):
    """Runs functions on the workers of a Dask cluster.

    It attaches to its cluster when it is first used, and again when the connection was lost, so the object can be kept
    for a whole campaign. `submit` blocks while twice as many functions are in flight as can run at once. When a worker
    dies, the future of what it ran raises `WorkerLost`; exceptions of the function itself pass unchanged.

    Functions must be importable on the workers, or defined in the main script or notebook.

    Args:
        name: what the pool is called in parameters and messages.
        attach: opens a connection; raises `PoolFailed` where it cannot.
    """

    def __init__(self, name: str, attach: Callable[[], Attachment]) -> None:
        self.name = name
        self._attach = attach
        self._attachment: Attachment | None = None
        self._attaching = threading.Lock()
        self._kept: list[RemoteFuture] = []
        self._pending: set[Future[Any]] = set()  # Any: the result of whatever was submitted
        self._changed = threading.Condition()
        self._is_closed = False

    @property
    def address(self) -> str:
        """The address of the scheduler."""
        return str(self._attached().client.scheduler.address)

    @property
    def size(self) -> int:
        """How many functions can run at once now."""
        return self._attached().count()

    @property
    def capacity(self) -> int:
        """How many functions can be in flight before `submit` blocks."""
        return self._attached().capacity

    def open(self) -> None:
        """Attach now instead of at the first submission.

        Raises:
            PoolFailed: the pool cannot be opened.
        """
        self._attached()

    def submit(self, function: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """Have a function called on a worker; wait first while the pool is full.

        Args:
            function: what to call; it may be called again when its worker dies, so it must be idempotent.
            args: its arguments; large things should travel as paths.
            kwargs: its keyword arguments.

        Raises:
            InputError: the function or an argument cannot travel.
            PoolFailed: the pool cannot be opened.
            RuntimeError: the pool was shut down.
        """
        parcel = pack(function, args, kwargs)
        future: Future[T] = Future()
        attachment = self._admit(future)
        try:
            remote = attachment.client.submit(run_parcel, parcel, key=f"{GROUP}-{uuid4().hex}", pure=False)
            result = asyncio.run_coroutine_threadsafe(_result_of(remote), attachment.client.loop.asyncio_loop)
        except BaseException:
            future.cancel()  # nobody holds it, but it takes a place
            raise
        future.add_done_callback(lambda done: result.cancel() if done.cancelled() else None)
        result.add_done_callback(partial(self._settle, future, name_of(function), attachment))
        return future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Close the pool; it can be called several times.

        Args:
            wait: let what is in flight end first; otherwise it is abandoned and its futures are cancelled.
            cancel_futures: abandon what is in flight in any case.
        """
        with self._changed:
            self._is_closed = True
            self._changed.notify_all()
            pending = tuple(self._pending)
        if wait and not cancel_futures:
            futures.wait(pending)
        with self._attaching:
            attachment, self._attachment = self._attachment, None
            self._kept = []
        for future in pending:
            future.cancel()
        if attachment is not None:
            attachment.close()

    def _attached(self) -> Attachment:
        with self._attaching:
            if self._is_closed:
                raise RuntimeError(f"pool {self.name} was shut down: nothing can be submitted to it any more")
            if self._attachment is not None and not self._attachment.is_alive:
                self._attachment.close()
                self._attachment = None
            if self._attachment is None:
                self._attachment = self._attach()
                self._kept = _enlarge_group(self._attachment)
            return self._attachment

    def _admit(self, future: Future[Any]) -> Attachment:  # Any: the result of whatever is submitted
        """Count a future as in flight, as soon as there is room for it."""
        while True:
            attachment = self._attached()
            with self._changed:
                if not self._is_closed and len(self._pending) < attachment.capacity:
                    self._pending.add(future)
                    break
                self._changed.wait(0 if self._is_closed else RECOUNT_S)
        future.add_done_callback(self._release)
        return attachment

    def _release(self, future: Future[Any]) -> None:  # Any: the result of whatever was submitted
        with self._changed:
            self._pending.discard(future)
            self._changed.notify()

    def _settle(self, future: Future[T], function: str, attachment: Attachment, result: Future[T]) -> None:
        """Hand the outcome over to the future that the submitter holds."""
        if not future.set_running_or_notify_cancel():
            return  # cancelled by its holder, or because the pool closed
        error = CancelledError() if result.cancelled() else result.exception()
        if error is None:
            future.set_result(result.result())
        elif isinstance(error, KilledWorker | CommClosedError | CancelledError):
            lost = WorkerLost(f"{self._loss(error)} while {function} was to run there. {attachment.hint()}")
            lost.__cause__ = error
            future.set_exception(lost)
        else:
            future.set_exception(error)

    def _loss(self, error: BaseException) -> str:
        if isinstance(error, KilledWorker):
            return f"a worker of pool {self.name} died (killed, out of memory, or crashed in compiled code)"
        return f"the connection to pool {self.name} was lost"


def _enlarge_group(attachment: Attachment) -> list[RemoteFuture]:
    """Run a few calls of nothing, and return their results, to be held.

    What no worker is free for should stay with the scheduler: on a worker that dies it would fail too, unstarted. Dask
    does so within groups of tasks that are large against the cluster, and counts all that were in a group as long as a
    result of it is held.
    """
    keys = [f"{GROUP}-{uuid4().hex}" for _ in range(2 * attachment.count() + 1)]
    return [attachment.client.submit(int, key=key, pure=False) for key in keys] if len(keys) > 1 else []


async def _result_of(remote: RemoteFuture) -> Any:  # Any: the result of whatever was submitted
    return unpack(await remote)
