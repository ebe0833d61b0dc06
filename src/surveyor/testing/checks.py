"""Assertions of the conformance suites; they work without pytest, which rewrites assert statements."""

from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike


def check_equal(name: str, found: Any, expected: Any) -> None:  # Any: whatever can be compared
    """Check that a property has the value expected."""
    if found != expected:
        raise AssertionError(f"{name}: found {found!r}, expected {expected!r}")


def check_close(name: str, found: ArrayLike, expected: ArrayLike, tolerance: float) -> None:
    """Check that numbers differ by at most a tolerance, which NaN never does."""
    difference = float(np.max(np.abs(np.asarray(found, dtype=float) - np.asarray(expected, dtype=float)), initial=0.0))
    if not difference <= tolerance:
        raise AssertionError(
            f"{name}: found {np.asarray(found).tolist()}, expected {np.asarray(expected).tolist()}; "
            f"they differ by {difference:.3g}, allowed are {tolerance:.3g}"
        )


def check_that(name: str, found: float, relation: Literal["at least", "at most"], limit: float) -> None:
    """Check a number against a limit."""
    holds = found >= limit if relation == "at least" else found <= limit
    if not holds:
        raise AssertionError(f"{name}: found {found:.6g}, expected {relation} {limit:.6g}")
