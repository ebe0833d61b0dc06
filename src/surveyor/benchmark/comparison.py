"""Learning curves of a benchmark: comparison of the arms with random labels, and the table that shows it."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from surveyor.benchmark.benchmark import Benchmark
from surveyor.benchmark.parameters import BASELINE, Arm
from surveyor.benchmark.points import FORCES_95
from surveyor.benchmark.statistics import Mean, Ratio, error_at, geometric_mean, ratio_of_labels


@dataclass(frozen=True, slots=True)
class Metric:
    """A measure of the error of a model.

    Attributes:
        field: name in the record of a point.
        title: name for people.
        unit: unit in tables and figures.
    """

    field: str
    title: str
    unit: str


METRICS = (
    Metric("forces_rmse", "forces RMSE", "meV/Å"),
    Metric(FORCES_95, "95 % of forces", "meV/Å"),
    Metric("energy_rmse", "energy RMSE", "meV/atom"),
    Metric("energy_rmse_without_offset", "energy RMSE without mean", "meV/atom"),
)
MILLI = 1e3

Errors = list[list[float]]  # of each seed, at each number of labels; infinite for a model that failed


def curves_of(benchmark: Benchmark) -> dict[str, dict[str, dict[Arm, Errors]]]:
    """Return the errors of all points, by test set, field of the metric, and arm, in meV/Å or meV/atom."""
    parameters = benchmark.parameters
    errors = {
        arm: [
            [benchmark.point(arm, number, n).errors() for n in range(1, len(parameters.n_labels) + 1)]
            for number in range(parameters.n_seeds)
        ]
        for arm in parameters.arms
    }
    return {
        test.name: {
            metric.field: {
                arm: [[_milli(point[test.name][metric.field]) for point in curve] for curve in of_arm]
                for arm, of_arm in errors.items()
            }
            for metric in METRICS
        }
        for test in parameters.tests
    }


def _milli(value: float | None) -> float:
    return math.inf if value is None else MILLI * value


@dataclass(frozen=True, slots=True)
class Comparison:
    """An arm on a test set, by one metric.

    Attributes:
        test: name of the test set.
        metric: field of the metric.
        arm: the arm.
        means: mean error at each number of labels.
        at_reference: mean error at the reference number of labels.
        ratio: labels that random needs for its own error there, divided by those that the arm needs.
    """

    test: str
    metric: str
    arm: Arm
    means: tuple[Mean, ...]
    at_reference: Mean
    ratio: Ratio


def compare(
    curves: Mapping[str, Mapping[str, Mapping[Arm, Errors]]], n_labels: Sequence[int], reference_labels: int
) -> list[Comparison]:
    """Return the comparison of each arm with random, on each test set and by each metric.

    Args:
        curves: errors as `curves_of` returns them.
        n_labels: numbers of labels, increasing.
        reference_labels: number of labels of random whose error is the target.
    """
    return [
        Comparison(
            test=test,
            metric=metric,
            arm=arm,
            means=tuple(geometric_mean(errors) for errors in zip(*of_arm, strict=True)),
            at_reference=geometric_mean([error_at(n_labels, errors, reference_labels) for errors in of_arm]),
            ratio=ratio_of_labels(n_labels, by_arm[BASELINE], of_arm, reference_labels),
        )
        for test, by_metric in curves.items()
        for metric, by_arm in by_metric.items()
        for arm, of_arm in by_arm.items()
    ]


def table_of(comparisons: Sequence[Comparison], reference_labels: int) -> list[list[str]]:
    """Return the table of results as text, with its header first: a row for each test set and arm.

    Args:
        comparisons: the comparisons.
        reference_labels: number of labels of the errors.
    """
    first = METRICS[0]
    header = ["test set", "arm", f"{first.title} at {reference_labels} labels ({first.unit})"]
    header += [f"ratio: {metric.title}" for metric in METRICS]
    found = {(each.test, each.arm, each.metric): each for each in comparisons}
    rows = dict.fromkeys((each.test, each.arm) for each in comparisons)
    return [header, *([*row, *_cells([found[*row, metric.field] for metric in METRICS])] for row in rows)]


def _cells(comparisons: Sequence[Comparison]) -> list[str]:
    return [f"{comparisons[0].at_reference.value:.3g}", *map(ratio_in_words, comparisons)]


def ratio_in_words(comparison: Comparison) -> str:
    """Return a ratio of labels with its interval, such as "1.32 (1.10 to 1.58)"; "≤" marks bounds."""
    if comparison.arm == BASELINE:
        return "1"
    mean, n_bounded = comparison.ratio.mean, comparison.ratio.n_bounded
    interval = "" if mean.low is None or mean.high is None else f" ({mean.low:.2f} to {mean.high:.2f})"
    bounded = f", {n_bounded} of {mean.n} not reached" if n_bounded else ""
    return f"{'≤ ' if n_bounded else ''}{mean.value:.2f}{interval}{bounded}"


def markdown_of(table: Sequence[Sequence[str]]) -> str:
    """Return a table in Markdown."""
    header, *rows = table
    rule = ["--"] * len(header)
    return "\n".join(f"| {' | '.join(row)} |" for row in [header, rule, *rows])
