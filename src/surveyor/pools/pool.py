"""A pool: where one stage of a campaign runs, seen as a `concurrent.futures.Executor`."""

import asyncio
import hashlib
import threading
from collections.abc import Callable, Iterator
from concurrent import futures
from concurrent.futures import CancelledError, Executor, Future
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, ParamSpec, TypeVar
from uuid import uuid4

from distributed import Client, KilledWorker, fire_and_forget
from distributed import Future as RemoteFuture
from distributed.client import ClosedClientError
from distributed.comm import CommClosedError

from surveyor.errors import PoolFailed, WorkerLost
from surveyor.pools.scheduler import KEPT
from surveyor.pools.submission import Priority, SubmitOptions
from surveyor.pools.transport import Raised, name_of, pack, run_packed, unpack
from surveyor.pools.worker_check import this_side

P = ParamSpec("P")
T = TypeVar("T")

IN_FLIGHT = 2  # functions in flight for each that can run, so that no worker waits for its next one
GROUP = "surveyor"  # Dask's name for the group of all calls
RECOUNT_S = 2.0  # how often a full pool sees whether it has grown


@dataclass(frozen=True, slots=True)
class Attachment:
    """A connection to a running Dask cluster.

    Attributes:
        client: client of the scheduler; closing it cancels its futures.
        count: returns the number of functions that can run at once now; it must not block.
        hint: returns advice for the case that a worker was lost.
        close: closes the client and everything else opened for this connection.
        least: number of functions to submit even if fewer can run, so that a growing cluster sees the demand.
        failure: returns why there will be no more workers, or None.
        waiting: returns what work waits for while there is no worker, such as a job in the queue; None with a worker.
    """

    client: Client
    count: Callable[[], int]
    hint: Callable[[], str]
    close: Callable[[], None]
    least: int = 1
    failure: Callable[[], str | None] = lambda: None
    waiting: Callable[[], str | None] = lambda: None

    @property
    def is_alive(self) -> bool:
        """True if functions can be submitted through the connection."""
        return bool(self.client.status == "running")

    @property
    def capacity(self) -> int:
        """Number of functions that can be in flight."""
        return IN_FLIGHT * max(self.count(), self.least)


class Pool(Executor):
    """A pool, which runs functions on the workers of a Dask cluster.

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
        self._is_opening = False
        self._pending: set[Future[Any]] = set()  # Any: the result of whatever was submitted
        self._waiting: list[Priority] = []  # of what waits for room
        self._lock = threading.RLock()
        self._room = {priority: threading.Condition(self._lock) for priority in Priority}  # waited for under it
        self._is_closed = False

    @property
    def address(self) -> str:
        """The address of the scheduler."""
        return str(self._attached().client.scheduler.address)

    @property
    def size(self) -> int:
        """Number of functions that can run at once now."""
        return self._attached().count()

    @property
    def capacity(self) -> int:
        """Number of functions that can be in flight before `submit` blocks."""
        return self._attached().capacity

    @property
    def waiting(self) -> str | None:
        """The resource for which the work of this process waits; None with a worker, or without work."""
        if self._is_opening:
            return f"pool {self.name} to open"
        attachment = self._attachment
        return attachment.waiting() if attachment is not None and self._pending else None

    def open(self) -> None:
        """Attach now instead of at the first submission.

        Raises:
            PoolFailed: the pool cannot be opened.
        """
        self._attached()

    def submit(self, function: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """Submit a function; block while the pool is full.

        Args:
            function: what to call; it may be called again when its worker dies, so it must be idempotent.
            args: its arguments; large things should travel as paths.
            kwargs: its keyword arguments.

        Raises:
            InputError: the function or an argument cannot travel.
            PoolFailed: the pool cannot be opened.
            WorkerLost: the connection was lost in this moment; it can be submitted again.
            RuntimeError: the pool was shut down.
        """
        return self.submit_with(SubmitOptions(), function, *args, **kwargs)

    def submit_with(
        self, options: SubmitOptions, function: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs
    ) -> Future[T]:
        """Submit a function; under a key, it is finished even when this process dies, and can be joined.

        Args:
            options: the key and the time limit. Where a function with the same key is under way on the pool, nothing is
                submitted, and the future is that of the function under way.
            function: what to call; see `submit`.
            args: its arguments.
            kwargs: its keyword arguments.
        """
        packed = pack(function, args, kwargs)
        future: Future[T] = Future()
        attachment = self._admit(future, options.priority)
        try:
            remote = _send(attachment.client, packed, options)
            result = asyncio.run_coroutine_threadsafe(_result_of(remote), attachment.client.loop.asyncio_loop)
        except BaseException as error:
            future.cancel()  # nobody holds it, but it takes a place
            if isinstance(error, ClosedClientError):
                raise WorkerLost(self._loss(error, name_of(function), attachment)) from error
            raise
        future.add_done_callback(lambda done: result.cancel() if done.cancelled() else None)
        result.add_done_callback(partial(self._settle, future, name_of(function), attachment))
        return future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Close the pool; it can be called several times, and does not wait for a pool that is still opening.

        Args:
            wait: let running work end first; otherwise it is abandoned and its futures are cancelled. Work submitted
                under a key continues without this process if the cluster does.
            cancel_futures: abandon running work in any case.
        """
        with self._lock:
            self._is_closed = True
            for room in self._room.values():
                room.notify_all()
            pending = tuple(self._pending)
        if wait and not cancel_futures:
            futures.wait(pending)
        for future in pending:
            future.cancel()
        self._replace(None)

    def _attached(self) -> Attachment:
        with self._attaching:
            self._check_open()
            attachment = self._attachment
            if attachment is None or not attachment.is_alive:
                attachment = self._attach_anew()
            if (failure := attachment.failure()) is not None:
                raise PoolFailed(failure)
            return attachment

    def _check_open(self) -> None:
        if self._is_closed:
            raise RuntimeError(f"pool {self.name} was shut down: nothing can be submitted to it any more")

    def _attach_anew(self) -> Attachment:
        self._replace(None)
        self._is_opening = True
        try:
            attachment = self._attach()
        finally:
            self._is_opening = False
        self._replace(attachment)
        if self._is_closed:  # it was shut down meanwhile, or is now, which does no harm
            self._replace(None)
            self._check_open()
        return attachment

    def _replace(self, attachment: Attachment | None) -> None:
        """Replace the current connection, which is closed, by another one or by none."""
        with self._lock:
            former, self._attachment = self._attachment, attachment
        if former is not None:
            former.close()

    def _admit(self, future: Future[Any], priority: Priority) -> Attachment:  # Any: the result of whatever is submitted
        """Count a future as in flight, as soon as there is room for it and nothing of a higher priority waits."""
        with self._waits(priority):
            while True:
                attachment = self._attached()
                with self._lock:
                    has_room = len(self._pending) < attachment.capacity and priority == max(self._waiting)
                    if has_room and not self._is_closed:
                        self._pending.add(future)
                        break
                    self._room[priority].wait(0 if self._is_closed else RECOUNT_S)
        future.add_done_callback(self._release)
        return attachment

    @contextmanager
    def _waits(self, priority: Priority) -> Iterator[None]:
        with self._lock:
            self._waiting.append(priority)
        try:
            yield
        finally:
            with self._lock:
                self._waiting.remove(priority)
                self._wake()

    def _release(self, future: Future[Any]) -> None:  # Any: the result of whatever was submitted
        with self._lock:
            self._pending.discard(future)
            self._wake()

    def _wake(self) -> None:
        """Wake one of those that wait for room, which then wakes the next; waking all would cost each of them time."""
        if self._waiting:
            self._room[max(self._waiting)].notify()

    def _settle(self, future: Future[T], function: str, attachment: Attachment, result: Future[T]) -> None:
        """Hand the outcome over to the future that the submitter holds."""
        if not future.set_running_or_notify_cancel():
            return  # cancelled by its holder, or because the pool closed
        error = CancelledError() if result.cancelled() else result.exception()
        if error is None:
            future.set_result(result.result())
        elif isinstance(error, KilledWorker | CommClosedError | CancelledError):
            reason = attachment.failure()
            lost = PoolFailed(reason) if reason else WorkerLost(self._loss(error, function, attachment))
            lost.__cause__ = error
            future.set_exception(lost)
        else:
            future.set_exception(error)

    def _loss(self, error: BaseException, function: str, attachment: Attachment) -> str:
        if isinstance(error, KilledWorker):
            what = f"a worker of pool {self.name} died (killed, out of memory, or crashed in compiled code)"
        else:
            what = f"the connection to pool {self.name} was lost"
        return f"{what} while {function} was to run there. {attachment.hint()}"


def key_of(options: SubmitOptions) -> str:
    """Return the key under which Dask knows a function; of one that cannot be joined, a new one each time."""
    digest = uuid4().hex if options.key is None else hashlib.sha256(options.key.encode()).hexdigest()[:32]
    return f"{GROUP}-{digest}"


def _send(client: Client, packed: bytes, options: SubmitOptions) -> RemoteFuture:
    # A scheduler of others takes workers whose versions nobody has compared.
    key, priority = key_of(options), int(options.priority)
    remote = client.submit(
        run_packed, packed, options.time_limit_s, this_side(), key=key, pure=False, priority=priority
    )
    if options.key is not None:
        fire_and_forget(remote)
    return remote


async def _result_of(remote: RemoteFuture) -> Any:  # Any: the result of whatever was submitted
    try:
        return unpack(await remote)
    except Raised as raised:
        raise raised.original() from raised
    except OSError as error:  # of a connection: those of functions come as `Raised`
        raise CommClosedError(str(error)) from error
    finally:
        # The error would be all that another attempt under the same key gets.
        if remote.status == "error":
            _forget(remote)
        remote.release()


def _forget(remote: RemoteFuture) -> None:
    """Make the scheduler forget work that it would finish even without its submitter."""
    remote.client._send_to_scheduler({"op": "client-releases-keys", "keys": [remote.key], "client": KEPT})
