"""Statistics of learning curves: labels needed for an error, and means of ratios over seeds with their intervals."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

CONFIDENCE = 0.95


@dataclass(frozen=True, slots=True)
class Mean:
    """A geometric mean over seeds.

    Attributes:
        value: the mean.
        low: lower end of the 95 % interval of the true mean; None for a single seed.
        high: its upper end; None for a single seed.
        n: number of seeds.
    """

    value: float
    low: float | None
    high: float | None
    n: int


def geometric_mean(values: Sequence[float]) -> Mean:
    """Return the geometric mean of positive values, with the t-interval of the mean of their logarithms.

    Args:
        values: one of each seed; infinite ones have an infinite mean without an interval.

    Example:
        >>> geometric_mean([2.0, 8.0]).value
        4.0
    """
    logarithms = np.log(values)
    n, mean = len(logarithms), float(np.mean(logarithms))
    if n < 2 or not math.isfinite(mean):
        return Mean(math.exp(mean), None, None, n)
    from scipy.stats import t  # costs each process half a second

    half = float(t.ppf(0.5 + CONFIDENCE / 2, n - 1) * np.std(logarithms, ddof=1) / math.sqrt(n))
    return Mean(math.exp(mean), math.exp(mean - half), math.exp(mean + half), n)


@dataclass(frozen=True, slots=True)
class Needed:
    """The number of labels that a learning curve needs for an error.

    Attributes:
        n_labels: the number, interpolated; the largest number of the curve if the error is not reached.
        is_reached: whether the error is reached.
    """

    n_labels: float
    is_reached: bool


def error_at(n_labels: Sequence[int], errors: Sequence[float], n: float) -> float:
    """Return the lowest error of a learning curve up to a number of labels, by log-log interpolation.

    Args:
        n_labels: numbers of labels, increasing.
        errors: positive errors of the models trained on them; infinite for a model that failed.
        n: number of labels, within their range.
    """
    lowest = np.minimum.accumulate(np.asarray(errors, float))
    after = int(np.searchsorted(n_labels, n))
    if n_labels[after] == n or not math.isfinite(lowest[after - 1]):
        return float(lowest[after] if n_labels[after] == n else lowest[after - 1])
    pair = slice(after - 1, after + 1)
    return math.exp(np.interp(math.log(n), np.log(n_labels[pair]), np.log(lowest[pair])))


def labels_needed(n_labels: Sequence[int], errors: Sequence[float], target: float) -> Needed:
    """Return the smallest number of labels for an error, by log-log interpolation of the lowest error so far.

    Args:
        n_labels: numbers of labels, increasing.
        errors: positive errors of the models trained on them; infinite for a model that failed.
        target: the error.

    Example:
        >>> round(labels_needed([10, 40], [0.4, 0.1], 0.2).n_labels)
        20
    """
    lowest = np.minimum.accumulate(np.asarray(errors, float))
    reached = np.flatnonzero(lowest <= target)
    if not len(reached):
        return Needed(float(n_labels[-1]), is_reached=False)
    first = int(reached[0])
    if first == 0 or not math.isfinite(lowest[first - 1]):
        return Needed(float(n_labels[first]), is_reached=True)
    before, after = math.log(lowest[first - 1]), math.log(lowest[first])
    fraction = (before - math.log(target)) / (before - after)
    low, high = math.log(n_labels[first - 1]), math.log(n_labels[first])
    return Needed(math.exp(low + fraction * (high - low)), is_reached=True)


@dataclass(frozen=True, slots=True)
class Ratio:
    """Labels that the baseline needs, divided by the labels that an arm needs for the same error.

    Attributes:
        mean: over seeds.
        n_bounded: number of seeds in which the arm does not reach the error, whose ratio is only an upper bound.
    """

    mean: Mean
    n_bounded: int


def ratio_of_labels(
    n_labels: Sequence[int],
    baseline: Sequence[Sequence[float]],
    arm: Sequence[Sequence[float]],
    reference_labels: float,
) -> Ratio:
    """Return the ratio of labels for the error of the baseline at a number of labels, paired by seed.

    Args:
        n_labels: numbers of labels, increasing.
        baseline: errors of each seed at these numbers, shape (n_seeds, n_points).
        arm: the same of the arm, for the same seeds.
        reference_labels: number of labels of the baseline whose error is the target.
    """
    ratios, n_bounded = [], 0
    for ours, theirs in zip(baseline, arm, strict=True):
        target = error_at(n_labels, ours, reference_labels)
        needed = labels_needed(n_labels, theirs, target)
        ratios.append(labels_needed(n_labels, ours, target).n_labels / needed.n_labels)
        n_bounded += not needed.is_reached
    return Ratio(geometric_mean(ratios), n_bounded)
