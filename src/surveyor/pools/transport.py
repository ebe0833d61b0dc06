"""Calls and results as bytes; one that cannot travel is an error of its call alone, and never of the worker."""

import asyncio
import os
import pickle
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import cloudpickle  # type: ignore[import-untyped] # it has no types
from distributed import Reschedule, Worker, get_worker
from distributed.core import Status

from surveyor.errors import AttemptFailed, FunctionFailed, InputError, PoolFailed
from surveyor.pools.site import END_S, START_S
from surveyor.pools.worker_check import difference

DELIVERY_S = 1.0

# The job script sets them: seconds since the epoch, and how long the job may last.
JOB_BEGIN, JOB_WALLTIME_S = "SURVEYOR_JOB_BEGIN", "SURVEYOR_JOB_WALLTIME_S"


def name_of(function: Callable[..., object]) -> str:
    """Return the name of a function, also of one with some arguments given; of another callable, that of its class."""
    while isinstance(function, partial):
        function = function.func
    return str(getattr(function, "__name__", type(function).__name__))


def pack(function: Callable[..., object], args: Sequence[object], kwargs: Mapping[str, object]) -> bytes:
    """Return a call as bytes: functions of modules by name, those of the main script or notebook by value.

    Raises:
        InputError: something in it cannot travel.
    """
    return dumps((function, tuple(args), dict(kwargs)), f"the call of {name_of(function)}")


def unpack(content: bytes) -> Any:  # Any: whatever was packed
    """Return the value that was packed."""
    return pickle.loads(content)


class Raised(Exception):
    """An exception of a function, in a form that travels even where its class is not known.

    Args:
        content: the exception as bytes; None where it cannot be packed.
        text: its traceback.
    """

    def __init__(self, content: bytes | None, text: str) -> None:
        super().__init__(content, text)
        self.content = content
        self.text = text

    def __str__(self) -> str:
        return f"on the worker:\n{self.text}"

    @classmethod
    def by(cls, error: Exception) -> "Raised":
        """Return an exception in the form that travels."""
        text = "".join(traceback.format_exception(error))
        try:
            return cls(cloudpickle.dumps(error), text)
        except Exception:  # noqa: BLE001 (packing runs code of any class)
            return cls(None, text)

    def original(self) -> Exception:
        """Return the exception itself, or a `FunctionFailed` that describes it if its class is not known here."""
        try:
            error = unpack(self.content) if self.content is not None else None
        except Exception:  # noqa: BLE001 (unpacking runs code of any class)
            error = None
        if isinstance(error, Exception):
            return error
        return FunctionFailed(f"{self.text.strip().splitlines()[-1]}. The traceback of the worker:\n{self.text}")


def run_packed(
    packed: bytes,
    time_limit_s: float | None = None,
    sender: Mapping[str, Any] | None = None,  # Any: strings and versions
) -> bytes:
    """Make a call that was packed and return its packed result. It runs on the worker.

    Where the job of this worker ends before the call's time is up, the call goes back to the scheduler unstarted, and
    the worker leaves.

    Raises:
        PoolFailed: the sender has other versions, so that the call may not mean the same here.
        Raised: what the function raised.
    """
    if sender is not None and (complaint := difference(sender)) is not None:
        raise PoolFailed(complaint)
    if time_limit_s is not None and time_limit_s + END_S > time_left_s():
        _hand_back(time_limit_s)
    name = "the module of a function"
    try:
        function, args, kwargs = unpack(packed)
        name = name_of(function)
        return dumps(function(*args, **kwargs), f"the result of {name}")
    except SystemExit as error:  # it would end the worker
        raised = Raised.by(RuntimeError(f"{name} called sys.exit({error.code!r})"))
    except Exception as error:  # noqa: BLE001 (it is raised where it belongs)
        # Where nothing starts, everything fails at once, and a free worker is given the next. In a job that is being
        # ended, or on a broken node, it would have all of the queue.
        if isinstance(error, AttemptFailed) and error.is_worker_unfit and JOB_BEGIN in os.environ:
            _leave("programs do not start here")
        raised = Raised.by(error)
    raise raised  # here, where it has no context: that would travel with it


def time_left_s() -> float:
    """Return the remaining time of the job of this process in seconds; infinity without a job."""
    begin = os.environ.get(JOB_BEGIN)
    return float("inf") if begin is None else float(begin) + float(os.environ[JOB_WALLTIME_S]) - time.time()


def is_leaving() -> bool:
    """Return whether the worker of this call is to leave, as its machine is taken away; False without a worker."""
    try:
        return bool(get_worker().status == Status.closing_gracefully)
    except ValueError:
        return False


def _hand_back(time_limit_s: float) -> None:
    left, walltime = time_left_s(), float(os.environ[JOB_WALLTIME_S])
    if time_limit_s > walltime - START_S - END_S:
        raise PoolFailed(
            f"a function may take {time_limit_s:.0f} s, but a job lasts {walltime:.0f} s, of which {START_S:.0f} s are "
            f"for its start and {END_S:.0f} s for its end; lower the time limit, or raise walltime_minutes of the pool"
        )
    _leave(f"{time_limit_s:.0f} s are more than is left of this job")
    if get_worker().state.executed_count == 0:
        # The next job may be as slow, so this counts as an attempt, of which there is a bounded number.
        raise AttemptFailed(
            f"a function may take {time_limit_s:.0f} s, but only {left:.0f} of {walltime:.0f} s of a job were left "
            "when its worker began: its start took so long; raise walltime_minutes of the pool"
        )
    raise Reschedule()


def _leave(reason: str) -> None:
    """Make the worker leave the pool, and with it its job; if there is work, another job replaces it."""
    worker = get_worker()
    asyncio.run_coroutine_threadsafe(_pause_and_close(worker, reason), worker.loop.asyncio_loop)


async def _pause_and_close(worker: Worker, reason: str) -> None:
    worker.status = Status.paused  # nothing more is begun here
    # The outcome of the call goes first: otherwise it would be called again elsewhere, and nobody would know.
    await asyncio.sleep(DELIVERY_S)
    await worker.close_gracefully(reason=reason)


def dumps(value: object, what: str, pickled: Callable[[object], bytes] = cloudpickle.dumps) -> bytes:
    """Return a value as bytes.

    Args:
        value: the value.
        what: it is, for messages.
        pickled: returns the bytes.

    Raises:
        InputError: something in it cannot travel.
    """
    try:
        return bytes(pickled(value))
    except (TypeError, AttributeError, pickle.PicklingError) as error:
        raise InputError(
            f"{what} cannot travel to another process: {error}; use plain data, arrays, structures, parameters, paths"
        ) from error
