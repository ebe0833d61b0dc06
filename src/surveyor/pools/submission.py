"""Options for the submission of functions to pools."""

from collections.abc import Callable
from concurrent.futures import Executor, Future
from dataclasses import dataclass
from enum import IntEnum
from typing import ParamSpec, Protocol, TypeVar, runtime_checkable

P = ParamSpec("P")
T = TypeVar("T")


class Priority(IntEnum):
    """Order of functions that wait for the same workers: the one with the larger number begins first."""

    SAMPLING = 0
    LABELLING = 1
    TRAINING = 2


@dataclass(frozen=True, slots=True)
class SubmitOptions:
    """Options for the submission of a function to a pool.

    Attributes:
        key: name of the result, such as the key of a label and its store. Work under a key continues when its submitter
            dies, and submitting the same key while it runs joins it. None for work that ends with its submitter.
        time_limit_s: time limit in seconds. A job with less walltime left does not start the function.
        priority: whether it begins before others that wait for the same workers.
        outputs: how the full paths of the files begin that it writes and leaves, such as `/run/model/`. A pool whose
            workers do not see them brings them; see `surveyor.pools.workspace.workspace`.
        continues: whether a repeated call continues from these files, which are then kept on the way.
    """

    key: str | None = None
    time_limit_s: float | None = None
    priority: Priority = Priority.SAMPLING
    outputs: tuple[str, ...] = ()
    continues: bool = False


@runtime_checkable
class TakesOptions(Protocol):
    """An executor that heeds options."""

    def submit_with(
        self, options: SubmitOptions, function: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs
    ) -> Future[T]:
        """Submit a function under options."""


def submit_with(
    executor: Executor, options: SubmitOptions, function: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs
) -> Future[T]:
    """Submit a function to any executor; under options, where it heeds them."""
    if isinstance(executor, TakesOptions):
        return executor.submit_with(options, function, *args, **kwargs)
    return executor.submit(function, *args, **kwargs)
