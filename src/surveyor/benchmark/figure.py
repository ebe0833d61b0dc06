"""Figure of the learning curves of a benchmark."""

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from surveyor.benchmark.comparison import METRICS, Comparison
from surveyor.benchmark.parameters import Arm
from surveyor.report.style import (
    BLUE,
    GREEN,
    GREY,
    ORANGE,
    VERMILLION,
    add_legend,
    dress,
    new_figure,
    scale_errors,
)

COLOURS: dict[Arm, str] = {
    "random": GREY,
    "walkers": ORANGE,
    "farthest": GREEN,
    "informative": BLUE,
    "committee": VERMILLION,
}
DRAWN = METRICS[:2] + METRICS[3:]


def curves_figure(comparisons: Sequence[Comparison], n_labels: Sequence[int]) -> Figure:
    """Return the errors of all arms against the number of labels: a row for each metric, a column for each test set.

    Lines are geometric means over seeds; bands are the 95 % intervals of these means.

    Args:
        comparisons: comparisons on all test sets.
        n_labels: numbers of labels.
    """
    tests = list(dict.fromkeys(each.test for each in comparisons))
    figure = new_figure(max(2.6 * len(tests), 4.0), 2.2 * len(DRAWN))
    panels = figure.subplots(len(DRAWN), len(tests), squeeze=False, sharex=True)
    for row, metric in zip(panels, DRAWN, strict=True):
        for axes, test in zip(row, tests, strict=True):
            matching = [each for each in comparisons if (each.test, each.metric) == (test, metric.field)]
            _draw(axes, matching, n_labels, f"{metric.title}\n({metric.unit})" if axes is row[0] else "")
    for axes, test in zip(panels[0], tests, strict=True):
        axes.set_title(test, fontsize=9, loc="left", fontweight="bold")
    for axes in panels[-1]:
        axes.set_xlabel("labels", fontsize=8)
    add_legend(panels[0][0])
    return figure


def _draw(axes: Axes, comparisons: Sequence[Comparison], n_labels: Sequence[int], name: str) -> None:
    dress(axes, x="", y=name)
    for each in comparisons:
        colour, values = COLOURS[each.arm], [mean.value for mean in each.means]
        axes.plot(n_labels, values, color=colour, marker="o", markersize=3, linewidth=1.2, label=each.arm)
        low, high = [mean.low or mean.value for mean in each.means], [mean.high or mean.value for mean in each.means]
        axes.fill_between(n_labels, low, high, color=colour, alpha=0.15, linewidth=0)
    scale_errors(axes)
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(FixedLocator([float(n) for n in n_labels]))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.xaxis.set_minor_locator(NullLocator())
