"""Statistics of few structures: intervals of errors, bounds of shares, and coverage of an uncertainty.

`scipy.stats` is imported where it is used, as it costs each process half a second.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

FEWEST = 20  # structures, below which there are too few to say anything
CONFIDENCE = 0.95
COVERED = 0.9  # of the errors, by a calibrated uncertainty
N_RESAMPLES = 999
MANY = 1000  # structures, above which both methods agree, and BCa takes seconds
BATCH = 64  # resamples in memory at once


@dataclass(frozen=True, slots=True)
class Estimate:
    """A root mean square error as far as a number of structures shows it, in the unit of the errors.

    Attributes:
        value: over these structures.
        low: lower end of the 95 % interval of the true value.
        high: its upper end.
        bound: upper bound: the true value is below it with 95 % confidence.
        n: number of structures.
    """

    value: float
    low: float
    high: float
    bound: float
    n: int


def estimate_rmse(errors: Sequence[float | None], weights: Sequence[float]) -> Estimate | None:
    """Return the root mean square of errors with its interval, by a bootstrap over structures (BCa, seeded).

    Args:
        errors: of each structure: absolute error, or root mean square over its components; None if it is not finite.
        weights: number of compared values of each structure, such as of its force components.

    Returns:
        The estimate; infinite if an error is. None for fewer structures than `FEWEST`.
    """
    n = len(errors)
    if n < FEWEST:
        return None
    values = np.array([math.inf if error is None else error for error in errors])
    squares, counts = np.square(values) * weights, np.array(weights, float)
    value = float(_root_mean_square(squares, counts))
    if not math.isfinite(value) or np.ptp(values) == 0:
        return Estimate(value, value, value, value, n)
    low, high, bound = _interval(squares, counts)
    return Estimate(value, low, high, bound, n)


def _root_mean_square(squares: np.ndarray, counts: np.ndarray, axis: int = -1) -> np.ndarray:
    root: np.ndarray = np.sqrt(squares.sum(axis=axis) / counts.sum(axis=axis))
    return root


def _interval(squares: np.ndarray, counts: np.ndarray) -> tuple[float, float, float]:
    """Return both ends of the interval, and the upper bound, which is lower than the upper end."""
    from scipy.stats import bootstrap

    resample = partial(
        bootstrap,
        (squares, counts),
        _root_mean_square,
        paired=True,
        vectorized=True,
        method="BCa" if len(squares) <= MANY else "percentile",
        confidence_level=CONFIDENCE,
        batch=BATCH,
        random_state=np.random.default_rng(0),
    )
    found = resample(n_resamples=N_RESAMPLES)
    ends = found.confidence_interval
    bound = resample(n_resamples=0, bootstrap_result=found, alternative="less").confidence_interval.high
    return float(ends.low), float(ends.high), float(bound)


def share_bound(n_found: int, n: int) -> float:
    """Return the upper 95 % bound of a share of which a sample of n shows some (Clopper and Pearson).

    Example:
        >>> round(share_bound(0, 30), 3)
        0.095
    """
    from scipy.stats import binomtest

    return float(binomtest(n_found, n, alternative="less").proportion_ci(CONFIDENCE, method="exact").high)


@dataclass(frozen=True, slots=True)
class Coverage:
    """Coverage of errors by an uncertainty.

    Attributes:
        n_covered: number of audits whose largest error is within the largest uncertainty.
        n: number of audits.
        expected: share of the audits that is to be covered.
        low: smallest share that chance makes likely.
        high: largest such share; both at 95 %.
        is_scaled: whether the uncertainty is scaled by what earlier audits show.
    """

    n_covered: int
    n: int
    expected: float
    low: float
    high: float
    is_scaled: bool

    @property
    def share(self) -> float:
        """Share of audits that are covered."""
        return self.n_covered / self.n

    @property
    def is_too_small(self) -> bool:
        """True if the uncertainty is stated too small; one that is too large misleads nobody."""
        return self.share < self.low


def coverage_of_bound(ratios: Sequence[float], expected: float) -> Coverage | None:
    """Return the coverage of an uncertainty that is stated as a bound.

    Args:
        ratios: largest error divided by largest uncertainty, of each audit.
        expected: share of the structures that the bound is to cover.

    Returns:
        The coverage; None if there are fewer audits than `FEWEST`.
    """
    if len(ratios) < FEWEST:
        return None
    from scipy.stats import binom

    return _coverage(ratios, 1.0, expected, binom(len(ratios), expected), is_scaled=False)


def coverage_of_scale(ratios: Sequence[float], earlier: Sequence[float]) -> Coverage | None:
    """Return the coverage of an uncertainty that is stated as a scale: split conformal prediction (Vovk et al., 2005).

    The factor is the error in units of the uncertainty that 90 % of the earlier audits do not exceed. If the new audits
    are like them, the number that is covered has a beta-binomial distribution, whatever the errors are.

    Args:
        ratios: largest error divided by largest uncertainty, of each audit.
        earlier: the same of audits before them, from which the factor is taken.

    Returns:
        The coverage; None if there are fewer than `FEWEST` of either.
    """
    n, n_earlier = len(ratios), len(earlier)
    if min(n, n_earlier) < FEWEST:
        return None
    from scipy.stats import betabinom

    rank = math.ceil(COVERED * (n_earlier + 1))
    chance = betabinom(n, rank, n_earlier + 1 - rank)
    return _coverage(ratios, sorted(earlier)[rank - 1], COVERED, chance, is_scaled=True)


def _coverage(ratios: Sequence[float], factor: float, expected: float, chance: Any, *, is_scaled: bool) -> Coverage:
    # Any: a distribution of SciPy, which has no types.
    n, tail = len(ratios), (1 - CONFIDENCE) / 2
    low, high = (float(chance.ppf(each)) / n for each in (tail, 1 - tail))
    return Coverage(sum(bool(ratio <= factor) for ratio in ratios), n, expected, low, high, is_scaled)
