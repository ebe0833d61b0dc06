"""Figures of the models: predictions, learning curves, and trainings."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

from surveyor.learning.audits import Audit
from surveyor.progress import GenerationErrors
from surveyor.report.parity import ParityPoints
from surveyor.report.style import (
    BLUE,
    FONT_SIZE,
    GREY,
    MAX_SHAPES,
    ORANGE,
    VERMILLION,
    add_legend,
    dress,
    new_figure,
    scale_errors,
    span,
    whole_numbers,
)
from surveyor.report.tables import number

COLOURS = {"train": BLUE, "valid": ORANGE, "test": VERMILLION}
MARKERS = {"train": "o", "valid": "^", "test": "s"}


@dataclass(frozen=True, slots=True)
class _Property:
    field: str  # of ParityPoints
    title: str
    unit: str  # as in the tables
    factor: float = 1.0  # to that unit

    def of(self, points: ParityPoints) -> np.ndarray:
        pairs: np.ndarray = self.factor * getattr(points, self.field)
        return pairs

    def error(self, pairs: np.ndarray) -> str:
        rmse = float(np.sqrt(np.mean(np.square(pairs[:, 1] - pairs[:, 0]))))
        return f"{number(rmse)} {self.unit}"


PROPERTIES = (
    _Property("energies", "Energy", "meV/atom"),
    _Property("forces", "Forces", "meV/Å", 1e3),
    _Property("stresses", "Stress", "MPa", 1e3),
)


RATE = "learning_rate"
TRAINING_PANELS = (
    ("loss", "loss (engine's unit)", 1.0),
    ("energy_rmse", "energy RMSE (meV/atom)", 1e3),
    ("forces_rmse", "forces RMSE (meV/Å)", 1e3),
    (RATE, "learning rate", 1.0),
)


@dataclass(frozen=True, slots=True)
class History:
    """The course of a training.

    Attributes:
        generation: whose model was trained; None outside of a campaign.
        epochs: the fields of each `Epoch`.
    """

    generation: int | None
    epochs: Sequence[Mapping[str, Any]]  # Any: numbers and None


def parity_figure(points: Sequence[ParityPoints]) -> Figure:
    """Return predictions against labels, and below them the differences, of energy, forces and stress, if any."""
    available = [each for each in PROPERTIES if any(len(each.of(one)) for one in points)]
    figure = new_figure(3.0 * max(len(available), 1), 4.3)
    grid = figure.subplots(2, max(len(available), 1), squeeze=False, height_ratios=(3, 1.1), sharex="col")
    for (upper, lower), each in zip(grid.T, available, strict=False):
        _parity(upper, lower, each, [(one.name, each.of(one)) for one in points])
    return figure


def _parity(upper: Axes, lower: Axes, kind: _Property, sets: Sequence[tuple[str, np.ndarray]]) -> None:
    dress(upper, x="", y=f"model ({kind.unit})", title=kind.title)
    dress(lower, x=f"reference ({kind.unit})", y=f"difference\n({kind.unit})")
    sets = [(name, pairs) for name, pairs in sets if len(pairs)]
    limits = span(np.concatenate([pairs.ravel() for _, pairs in sets]))
    upper.plot(limits, limits, color=GREY, linewidth=0.8, zorder=1)
    lower.axhline(0, color=GREY, linewidth=0.8, zorder=1)
    for name, pairs in sets:
        style: dict[str, Any] = {  # Any: options of matplotlib
            "linestyle": "none",
            "marker": MARKERS[name],
            "color": COLOURS[name],
            "markeredgewidth": 0,
            "markersize": 3.6 if len(pairs) < 300 else 2.2,
            "alpha": 0.75 if len(pairs) < 300 else 0.4,
            "rasterized": len(pairs) > MAX_SHAPES,
        }
        upper.plot(pairs[:, 0], pairs[:, 1], label=f"{name}: {kind.error(pairs)}", **style)
        lower.plot(pairs[:, 0], pairs[:, 1] - pairs[:, 0], **style)
    upper.set(xlim=limits, ylim=limits)
    upper.set_box_aspect(1)
    legend = add_legend(upper, place="upper left")  # the points lie along the diagonal
    for handle in legend.legend_handles:
        if handle is not None:
            handle.set_alpha(1)


def learning_curve_figure(rows: Sequence[GenerationErrors]) -> Figure:
    """Return the errors of the models against the number of labels from which they were trained.

    A model is measured on the structures of the next generation, before that one is trained, and on the final test set;
    as long as there is none, on the test set of its own generation.
    """
    is_compared = any(row.final_forces_meV_per_A is not None for row in rows)
    test = ("final", "on the final test set") if is_compared else ("test", "on the test set of that time")
    figure = new_figure(7.0, 2.9)
    panels = figure.subplots(1, 2)
    quantities = (
        ("energy_meV_per_atom", "energy RMSE (meV/atom)", "Energy"),
        ("forces_meV_per_A", "forces RMSE (meV/Å)", "Forces"),
    )
    for axes, (field, label, title) in zip(panels, quantities, strict=True):
        dress(axes, x="labels requested when the model was trained", y=label, title=title)
        for name, text, colour, marker in (
            ("before", "on new structures, before training", BLUE, "o"),
            (*test, VERMILLION, "s"),
        ):
            x, y = _curve(rows, name, field)
            if x:
                axes.plot(x, y, color=colour, marker=marker, markersize=4, linewidth=1.2, label=text)
        _draw_intervals(axes, rows, field)
        if axes.lines:
            scale_errors(axes)
            add_legend(axes)
        whole_numbers(axes)
    return figure


def _draw_intervals(axes: Axes, rows: Sequence[GenerationErrors], field: str) -> None:
    """Draw the 95 % intervals of the errors before training, as far as they are known."""
    name = f"before_{field.split('_')[0]}_95"
    known = [(row.n_labels, ends) for row, after in pairwise(rows) if (ends := getattr(after, name)) is not None]
    if known:
        x, low, high = [n for n, _ in known], [ends[0] for _, ends in known], [ends[1] for _, ends in known]
        axes.fill_between(x, low, high, color=BLUE, alpha=0.15, linewidth=0)
        axes.vlines(x, low, high, color=BLUE, linewidth=0.8)  # seen where a single one is known, too


def _curve(rows: Sequence[GenerationErrors], name: str, field: str) -> tuple[list[int], list[float]]:
    """Return numbers of labels and errors; errors before training are those of the model of the generation before."""
    values = [getattr(row, f"{name}_{field}") for row in rows]
    models = rows
    if name == "before":
        values, models = values[1:], rows[:-1]
    pairs = [(row.n_labels, value) for row, value in zip(models, values, strict=True) if value]
    return [n_labels for n_labels, _ in pairs], [value for _, value in pairs]


def coverage_figure(audits: Sequence[Audit]) -> Figure:
    """Return the largest error of the force on an atom of each audit against the largest uncertainty stated for it.

    Args:
        audits: those without an uncertainty, or whose error is no finite number, are left out.
    """
    pairs = np.array(
        [(each.uncertainty, each.largest_error) for each in audits if each.uncertainty and each.largest_error]
    ).reshape(-1, 2)
    figure = new_figure(3.6, 3.4)
    axes = figure.subplots()
    dress(axes, x="largest stated uncertainty (meV/Å)", y="largest error (meV/Å)", title="Stated uncertainty")
    axes.set(xscale="log", yscale="log")
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(LogLocator(subs=(1, 3)))
        axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axis.set_minor_locator(NullLocator())
    is_covered = pairs[:, 1] <= pairs[:, 0]
    for name, chosen, colour, marker in (
        ("within the uncertainty", pairs[is_covered], BLUE, "o"),
        ("larger", pairs[~is_covered], VERMILLION, "^"),
    ):
        style: dict[str, Any] = {"linestyle": "none", "markeredgewidth": 0, "markersize": 4, "alpha": 0.75}
        axes.plot(*chosen.T, color=colour, marker=marker, label=f"{name}: {len(chosen)}", **style)
    if len(pairs):
        limits = [0.8 * float(pairs.min()), 1.25 * float(pairs.max())]
        axes.plot(limits, limits, color=GREY, linewidth=0.8, zorder=1)
        axes.set(xlim=limits, ylim=limits)
    axes.set_box_aspect(1)
    add_legend(axes, place="upper left")
    return figure


def training_figure(histories: Sequence[History]) -> Figure:
    """Return the courses of trainings on the validation sets, and their learning rates where these are known.

    Args:
        histories: a line for each, from dark to light.
    """
    quantities = [
        each for each in TRAINING_PANELS if each[0] != RATE or any(_course(one, RATE)[0] for one in histories)
    ]
    figure = new_figure(7.6, 2.6 if len(quantities) == 3 else 4.6)
    panels = figure.subplots(1, 3) if len(quantities) == 3 else figure.subplots(2, 2).ravel()
    last = max((history.generation or 0 for history in histories), default=0)
    for axes, quantity in zip(panels, quantities, strict=True):
        _draw_courses(axes, histories, quantity, last)
    if panels[0].lines and any(history.generation is not None for history in histories):
        _name_generations(panels[0], last)
    return figure


def _draw_courses(axes: Axes, histories: Sequence[History], quantity: tuple[str, str, float], last: int) -> None:
    """Draw a quantity of each training by epoch.

    Args:
        axes: to draw in.
        histories: a line for each.
        quantity: field of an epoch, label of the axis, and factor to its unit.
        last: number of the last generation, which is the lightest.
    """
    field, label, factor = quantity
    dress(axes, x="epoch", y=label)
    for history in histories:
        x, y = _course(history, field)
        if x:
            colour = colormaps["viridis"](0.85 * (history.generation or 0) / max(last, 1))
            marker, name = "o" if len(x) < 4 else "", str(history.generation)
            values = [factor * value for value in y]
            axes.plot(x, values, color=colour, linewidth=1.0, marker=marker, markersize=3, label=name)
    if axes.lines:
        scale_errors(axes)
    if field == RATE and axes.get_yscale() == "linear":
        axes.set_ylim(bottom=0)  # a constant is not magnified
    whole_numbers(axes)


def _course(history: History, field: str) -> tuple[list[int], list[float]]:
    """Return the numbers of epochs, from 1, and their values of a field."""
    epochs = [epoch for epoch in history.epochs if epoch.get(field)]
    return [epoch["number"] + 1 for epoch in epochs], [epoch[field] for epoch in epochs]


def _name_generations(axes: Axes, last: int) -> None:
    legend = axes.legend(fontsize=FONT_SIZE - 1, frameon=False, title="generation", ncols=1 + last // 8)
    legend.get_title().set_fontsize(FONT_SIZE - 1)
