"""Under which terms a function is submitted to a pool."""

from collections.abc import Callable
from concurrent.futures import Executor, Future
from dataclasses import dataclass
from typing import ParamSpec, Protocol, TypeVar, runtime_checkable

P = ParamSpec("P")
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Terms:
    """What a pool is told about a function beside its arguments.

    Attributes:
        key: names the result, such as the key of a label and its store. Work under a key goes on when its submitter
            dies, and whoever submits the same key while it is under way joins it. None for work that only its submitter
            wants.
        time_limit_s: so long may the function take; it is not started by a job that ends sooner.
    """

    key: str | None = None
    time_limit_s: float | None = None


@runtime_checkable
class TakesTerms(Protocol):
    """An executor that heeds terms."""

    def submit_under(self, terms: Terms, function: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """Submit a function under terms."""


def submit_under(
    executor: Executor, terms: Terms, function: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs
) -> Future[T]:
    """Submit a function to any executor; under terms, where it heeds them."""
    if isinstance(executor, TakesTerms):
        return executor.submit_under(terms, function, *args, **kwargs)
    return executor.submit(function, *args, **kwargs)
