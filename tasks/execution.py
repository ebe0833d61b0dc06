"""Running a domain function on a pool, from inside a task."""

import inspect
import logging
from collections.abc import Callable, Iterator
from concurrent.futures import Executor
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, ParamSpec, TypeVar

from prefect import Task, runtime
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State, TaskRun
from prefect.futures import PrefectFuture
from prefect.utilities.annotations import quote

from surveyor.errors import AttemptFailed, LabelClaimed, WorkerLost
from surveyor.labels import LabelStore
from surveyor.labels.claims import Claimant, Watch
from surveyor.pools.submission import SubmitOptions, submit_with

P = ParamSpec("P")
T = TypeVar("T")

_on_submission: ContextVar[Callable[[], None]] = ContextVar("on_submission", default=lambda: None)

logger = logging.getLogger(__name__)


def with_known_signature(function: Callable[P, T]) -> Callable[P, T]:
    """Return a function that knows its signature; to be applied before `task`.

    Prefect asks for the signature of a task's function several times in each run, and Python makes it anew each time.
    """
    function.__signature__ = inspect.signature(function)  # type: ignore[attr-defined]
    return function


def submit_unlinked(task: Task[P, T], /, *args: P.args, **kwargs: P.kwargs) -> PrefectFuture[T]:
    """Submit a task without having Prefect search its arguments for results of other tasks.

    Prefect recognizes a result by its identity. The empty tuple is always the same object, so a task whose result has
    one would be linked to each task whose argument has one; the run graph gives each linked task a row of its own.

    Args:
        task: the task.
        args: its arguments, which hold no future.
        kwargs: its keyword arguments, which hold no future.
    """
    submit: Any = task.submit  # Any: it takes quoted arguments
    future: PrefectFuture[T] = submit(*map(quote, args), **{name: quote(value) for name, value in kwargs.items()})
    return future


@contextmanager
def on_submission(action: Callable[[], None]) -> Iterator[None]:
    """Have tasks that are submitted in this block call an action when their function is on its pool.

    Args:
        action: called in the thread of the task; again when the task is retried.
    """
    token = _on_submission.set(action)
    try:
        yield
    finally:
        _on_submission.reset(token)


def run_on(pool: Executor | None, function: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
    """Run a function on a pool, wait, and return its result; without a pool, run it here.

    Args:
        pool: any executor, or None.
        function: importable on the pool.
        args: its arguments.
        kwargs: its keyword arguments.
    """
    return run_with(pool, SubmitOptions(), function, *args, **kwargs)


def run_with(
    pool: Executor | None, options: SubmitOptions, function: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs
) -> T:
    """Run a function on a pool, or join it where it is under way there; wait, and return its result.

    Args:
        pool: any executor, or None; only surveyor's own pools heed the options.
        options: the key under which the function can be joined, and how long it may take.
        function: importable on the pool.
        args: its arguments.
        kwargs: its keyword arguments.
    """
    if pool is None:
        _on_submission.get()()
        return function(*args, **kwargs)
    future = submit_with(pool, options, function, *args, **kwargs)
    _on_submission.get()()
    return future.result()


def run_unclaimed(store: LabelStore, function: Callable[[LabelStore], T]) -> T:
    """Run a function that computes labels; while others compute one of them, wait here, and not on a worker.

    Args:
        store: where the labels are kept.
        function: is given the store as this task uses it; called again when it raises `LabelClaimed`.
    """
    watch, work = Watch(store.claims), runtime.task_run.id  # all retries of a task are one work
    while True:
        try:
            return function(store.on_behalf_of(Claimant(work, watch.dead)))
        except LabelClaimed as claimed:
            logger.info("%s; this task waits for it", claimed)
            watch.wait(claimed.key)


def worker_was_lost(task: Task[..., Any], run: TaskRun, state: State) -> bool:  # Any: whatever the task returns
    """Return whether a task failed by its worker, which died or is not fit: the one reason to submit the same again."""
    try:
        state.result()
    except (WorkerLost, AttemptFailed):
        return True
    except Exception:  # noqa: BLE001 (whatever else the task raised is no reason to retry)
        return False
    return False


def retried(n_times: int) -> dict[str, Any]:  # Any: whatever `task` takes
    """Return options of a task that is submitted again when it loses its worker, and whose record is on disk.

    Args:
        n_times: how often; after 1 s, 10 s, and then each minute.
    """
    return {
        "retries": n_times,
        "retry_delay_seconds": [1.0, 10.0, *[60.0] * n_times][:n_times],
        "retry_condition_fn": worker_was_lost,
        "cache_policy": NO_CACHE,
    }
