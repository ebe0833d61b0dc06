"""Conformance suite of pools: those of surveyor, and those of others.

A `ProcessPoolExecutor` or a `ThreadPoolExecutor` passes `check_executor` and serves the domain as well. Neither passes
`check_pool`: they take any number of functions at once, and a process pool breaks as a whole when one process dies.
"""

import os
import time
from concurrent.futures import Executor
from pathlib import Path
from threading import Event, Thread

import numpy as np
from ase import Atoms
from ase.build import bulk

from surveyor.errors import WorkerLost
from surveyor.parameters import Parameters
from surveyor.pools.pool import Pool
from surveyor.testing.checks import check_close, check_equal, check_that

PATIENCE_S = 300.0  # a machine may be many times slower than usual
MANY_S = 60.0  # for a hundred small functions
POLL_S = 0.01
BLOCKED_S = 0.3  # a submission that has not returned after this is taken to wait


class Refused(Exception):
    """An exception raised on a worker, which has to come back unchanged."""


class Setting(Parameters):
    """A small class of parameters."""

    temperature_K: float = 300.0


def check_executor(executor: Executor, folder: Path) -> None:
    """Check the requirements of the domain on any executor: results, exceptions, arguments, concurrent work.

    Args:
        executor: with at least two workers.
        folder: an empty folder that the workers see too.

    Raises:
        AssertionError: something does not hold.
    """
    _check_results(executor)
    _check_exceptions(executor)
    _check_arguments(executor, folder)
    _check_parallel(executor, folder)
    _check_many(executor)


def check_pool(pool: Pool, folder: Path) -> None:
    """Check a pool: all that `check_executor` does, a bounded number in flight, and life after a worker's death.

    One of its workers is killed.

    Args:
        pool: with at least two workers.
        folder: an empty folder that the workers see too.

    Raises:
        AssertionError: something does not hold.
    """
    check_executor(pool, folder)
    check_bound(pool, folder)
    check_loss(pool)


def check_bound(pool: Pool, folder: Path) -> None:
    """Check that a full pool makes submitters wait, and continues when there is room.

    Args:
        pool: a pool without running work.
        folder: an empty folder that the workers can also read.
    """
    gate, capacity = folder / "gate", pool.capacity
    futures = [pool.submit(_wait_for, gate) for _ in range(capacity)]
    returned = Event()

    def submit_one_more() -> None:
        futures.append(pool.submit(_wait_for, gate))
        returned.set()

    thread = Thread(target=submit_one_more)
    thread.start()
    check_equal("a submission beyond the capacity returned", returned.wait(BLOCKED_S), False)
    gate.touch()
    thread.join(PATIENCE_S)
    check_equal("a submission returned when there was room", returned.is_set(), True)
    check_equal("functions that ended", sum(future.result(PATIENCE_S) for future in futures), capacity + 1)


def check_loss(pool: Pool) -> None:
    """Check that a dead worker is `WorkerLost` for its own functions, and does not affect others."""
    others = [pool.submit(_double, number) for number in range(pool.size)]
    error = pool.submit(_die).exception(PATIENCE_S)
    check_equal("what comes of a function whose worker died", type(error), WorkerLost)
    check_equal("the pool is named in the message", pool.name in str(error), True)
    check_equal(
        "results of others", [future.result(PATIENCE_S) for future in others], [2 * n for n in range(len(others))]
    )
    check_equal("a result after the death", pool.submit(_double, 21).result(PATIENCE_S), 42)


def _check_results(executor: Executor) -> None:
    check_equal("a result", executor.submit(_double, 21).result(PATIENCE_S), 42)
    check_equal("results of map", list(executor.map(_double, range(4))), [0, 2, 4, 6])
    check_equal("a keyword argument", executor.submit(int, "11", base=2).result(PATIENCE_S), 3)


def _check_exceptions(executor: Executor) -> None:
    error = executor.submit(_refuse, "no").exception(PATIENCE_S)
    check_equal("the type of an exception", type(error), Refused)
    check_equal("the message of an exception", str(error), "no")


def _check_arguments(executor: Executor, folder: Path) -> None:
    structure = bulk("Cu", cubic=True)
    file, setting, back = executor.submit(_give_back, folder / "file", Setting(), structure).result(PATIENCE_S)
    check_equal("a path", file, folder / "file")
    check_equal("parameters", setting, Setting())
    check_equal("a structure", back, structure)
    check_close("positions, bit for bit", back.positions, structure.positions, 0.0)
    error = executor.submit(_array_of, 1_000_000).result(PATIENCE_S)
    check_equal("the size of a large result", error.size, 1_000_000)


def _check_parallel(executor: Executor, folder: Path) -> None:
    """Check that functions run concurrently, with two that wait for each other."""
    left, right = folder / "left", folder / "right"
    futures = [executor.submit(_meet, left, right), executor.submit(_meet, right, left)]
    check_equal("two functions met", [future.result(2 * PATIENCE_S) for future in futures], [True, True])


def _check_many(executor: Executor) -> None:
    begin = time.monotonic()
    futures = [executor.submit(_double, number) for number in range(100)]
    check_equal("a hundred results", [future.result(PATIENCE_S) for future in futures], [2 * n for n in range(100)])
    check_that("seconds for a hundred small functions", time.monotonic() - begin, "at most", MANY_S)


def _double(number: int) -> int:
    return 2 * number


def _refuse(message: str) -> None:
    raise Refused(message)


def _give_back(file: Path, setting: Setting, structure: Atoms) -> tuple[Path, Setting, Atoms]:
    return file, setting, structure


def _array_of(size: int) -> np.ndarray:
    return np.zeros(size)


def _meet(mine: Path, other: Path) -> bool:
    mine.touch()
    return _wait_for(other)


def _wait_for(file: Path) -> bool:
    deadline = time.monotonic() + PATIENCE_S
    while not file.exists() and time.monotonic() < deadline:
        time.sleep(POLL_S)
    return file.exists()


def _die() -> None:
    os._exit(1)
