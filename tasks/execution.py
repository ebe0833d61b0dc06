"""Running a domain function on a pool, from inside a task."""

from collections.abc import Callable
from concurrent.futures import Executor
from typing import Any, ParamSpec, TypeVar

from prefect import Task
from prefect.client.schemas.objects import State, TaskRun

from surveyor.errors import AttemptFailed, WorkerLost
from surveyor.pools.terms import Terms, submit_under

P = ParamSpec("P")
T = TypeVar("T")


def run_on(pool: Executor | None, function: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
    """Run a function on a pool and wait for what it returns; without a pool, run it here.

    Args:
        pool: any executor, or None.
        function: importable on the pool.
        args: its arguments.
        kwargs: its keyword arguments.
    """
    return run_under(pool, Terms(), function, *args, **kwargs)


def run_under(pool: Executor | None, terms: Terms, function: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
    """Run a function on a pool, or join it where it is under way there, and wait for what it returns.

    Args:
        pool: any executor, or None; only surveyor's own pools heed the terms.
        terms: the key under which the function can be joined, and how long it may take.
        function: importable on the pool.
        args: its arguments.
        kwargs: its keyword arguments.
    """
    if pool is None:
        return function(*args, **kwargs)
    return submit_under(pool, terms, function, *args, **kwargs).result()


def worker_was_lost(task: Task[..., Any], run: TaskRun, state: State) -> bool:  # Any: whatever the task returns
    """Say whether a task failed by its worker, which died or is not fit: the one reason to submit the same again."""
    try:
        state.result()
    except (WorkerLost, AttemptFailed):
        return True
    except Exception:  # noqa: BLE001 (whatever else the task raised is no reason to retry)
        return False
    return False
