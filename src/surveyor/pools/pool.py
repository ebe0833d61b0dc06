"""A pool: where one stage of a campaign runs, seen as a `concurrent.futures.Executor`."""

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import CancelledError, Executor, Future, wait
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

IN_FLIGHT = 2  # functions handed over per function that can run: one more than runs, so that no worker waits for its next
RECOUNT_S = 2.0  # how often a full pool asks how many workers it has now


@dataclass(frozen=True, slots=True)
class Attachment:
    """A connection to a running Dask cluster.

    Attributes:
        client: the client; its closing cancels what it submitted.
        count: returns how many functions can run at once now.
        hint: says what to look at when a worker was lost.
        detach: releases whatever else was opened for this connection.
        least: functions that are handed over even where fewer can run, so that a cluster that grows sees the demand.
    """

    client: Client
    count: Callable[[], int]
    hint: Callable[[], str]
    detach: Callable[[], None]
    least: int = 1

    @property
    def is_alive(self) -> bool:
        """Whether functions can be submitted through it."""
        return bool(self.client.status == "running")

    def close(self) -> None:
        """Close the client, then release the rest."""
        self.client.close()
        self.detach()


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
            key = f"{name_of(function)}-{uuid4().hex}"
            remote = attachment.client.submit(run_parcel, parcel, key=key, pure=False)
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
            _wait_for(pending)
        with self._attaching:
            attachment, self._attachment = self._attachment, None
        _abandon(self._pending)
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
            return self._attachment

    def _admit(self, future: Future[Any]) -> Attachment:  # Any: the result of whatever is submitted
        """Count a future as in flight, as soon as there is room for it."""
        while True:
            attachment = self._attached()
            capacity = IN_FLIGHT * max(attachment.count(), attachment.least)
            with self._changed:
                if len(self._pending) < capacity:
                    self._pending.add(future)
                    break
                self._changed.wait(RECOUNT_S)
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
            lost = WorkerLost(f"{self._loss(error)} while {function} was to run on it. {attachment.hint()}")
            lost.__cause__ = error
            future.set_exception(lost)
        else:
            future.set_exception(error)

    def _loss(self, error: BaseException) -> str:
        if isinstance(error, KilledWorker):
            return f"a worker of pool {self.name} died (killed, out of memory, or crashed in compiled code)"
        return f"the connection to pool {self.name} was lost"


async def _result_of(remote: RemoteFuture) -> Any:  # Any: the result of whatever was submitted
    return unpack(await remote)


def _wait_for(futures: tuple[Future[Any], ...]) -> None:
    wait(futures)


def _abandon(futures: set[Future[Any]]) -> None:
    for future in tuple(futures):
        future.cancel()
        future.set_running_or_notify_cancel()
