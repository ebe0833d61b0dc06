"""Figures of the course of a campaign: walkers, failures, and wall times."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import BoundaryNorm, ListedColormap
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator

from surveyor.report.style import (
    BLUE,
    FONT_SIZE,
    GREEN,
    INK,
    MAX_SHAPES,
    ORANGE,
    PURPLE,
    SKY,
    VERMILLION,
    add_legend,
    dress,
    new_figure,
    unit_of_time,
    whole_numbers,
)
from surveyor.report.tables import Manifest, walkers_of

STAGES = {"sampling": BLUE, "labelling": ORANGE, "evaluation": GREEN, "training": PURPLE}
FATES = {"not moved": "#F2F2F2", "continues": SKY, "reset": VERMILLION, "no sample": "#555555"}


def walkers_figure(manifests: Sequence[Manifest], temperatures_K: Sequence[float]) -> Figure:
    """Return the temperatures of the walkers in each generation, and which of them were reset.

    Args:
        manifests: of the complete generations; in one of them at least, walkers moved.
        temperatures_K: of the thermostats.
    """
    samples = [(each["number"], sample) for each in manifests for sample in walkers_of(each)]
    n_walkers = 1 + max(sample["index"] for _, sample in samples)
    figure = new_figure(7.0, 2.5 + min(4.0, 0.9 + 0.14 * n_walkers))
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(2.5, min(4.0, 0.9 + 0.14 * n_walkers)))
    dress(upper, x="", y="temperature (K)", title="Temperatures")
    for number, temperature in enumerate(temperatures_K):
        label = None if number else "thermostat"
        upper.axhline(temperature, color=INK, linestyle="--", linewidth=0.9, label=label, zorder=3)
    for fate in ("continues", "reset"):
        _temperatures(upper, [one for one in samples if _fate(one[1]) == fate], n_walkers, fate)
    if upper.lines or upper.containers:
        add_legend(upper, place="outside")
    _fates(lower, samples, n_walkers, [each["number"] for each in manifests if walkers_of(each)])
    return figure


def _fate(sample: Mapping[str, Any]) -> str:
    is_candidate = sample.get("is_near_duplicate") or sample.get("role") == "candidate"
    is_missing = sample["label_key"] is None and not is_candidate
    return "no sample" if is_missing else str(sample["fate"])


def _temperatures(axes: Axes, samples: Sequence[tuple[int, Mapping[str, Any]]], n_walkers: int, fate: str) -> None:
    measured = [(number, sample) for number, sample in samples if sample.get("temperature_K") is not None]
    if not measured:
        return
    # Walkers stand side by side within their generation.
    x = [number + 0.7 * ((sample["index"] + 0.5) / n_walkers - 0.5) for number, sample in measured]
    y = [sample["temperature_K"] for _, sample in measured]
    spread = [float(np.std(sample.get("temperatures_K") or [0.0])) for _, sample in measured]
    drawn = axes.errorbar(
        x, y, spread, fmt="o", markersize=3, linewidth=0.7, color=FATES[fate], ecolor=f"{FATES[fate]}80", label=fate
    )
    for artist in drawn.get_children():
        artist.set_rasterized(len(x) > MAX_SHAPES)


def _fates(
    axes: Axes, samples: Sequence[tuple[int, Mapping[str, Any]]], n_walkers: int, numbers: Sequence[int]
) -> None:
    dress(axes, x="generation", y="walker", title="Resets")
    axes.grid(visible=False)
    names, first = list(FATES), min(numbers)
    fates = np.zeros((n_walkers, max(numbers) - first + 1), dtype=int)
    for number, sample in samples:
        # Of several samples in a generation, the worst shows.
        cell = (sample["index"], number - first)
        fates[cell] = max(fates[cell], names.index(_fate(sample)))
    axes.pcolormesh(
        first + np.arange(fates.shape[1] + 1) - 0.5,
        np.arange(n_walkers + 1) - 0.5,
        fates,
        cmap=ListedColormap(list(FATES.values())),
        norm=BoundaryNorm(np.arange(len(names) + 1) - 0.5, len(names)),
        edgecolors="white",
        linewidth=1.0 if n_walkers <= 40 else 0.0,
        rasterized=fates.size > MAX_SHAPES,
    )
    whole_numbers(axes)
    axes.yaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    axes.invert_yaxis()
    patches = [Patch(color=FATES[name], label=name) for index, name in enumerate(names) if index in fates]
    axes.legend(handles=patches, fontsize=FONT_SIZE - 1, frameon=False, loc="upper left", bbox_to_anchor=(1.0, 1.0))


def failures_by_reason(manifests: Sequence[Manifest]) -> tuple[Counter[str], Counter[str]]:
    """Return the number of failed labels by reason, and of rejections by guard."""
    labels: Counter[str] = Counter()
    guards: Counter[str] = Counter()
    for manifest in manifests:
        labels.update(manifest["details"].get("failures", {}))
        guards.update(each["reason"] for sample in walkers_of(manifest) for each in sample.get("rejections", []))
    return labels, guards


def failures_figure(manifests: Sequence[Manifest]) -> Figure:
    """Return the number of failed labels and of stopped walkers by reason."""
    labels, guards = failures_by_reason(manifests)
    bars = [(f"label: {name}", n, VERMILLION) for name, n in labels.most_common()]
    bars += [(f"guard: {name}", n, BLUE) for name, n in guards.most_common()]
    bars = [(name.replace("_", " "), n, colour) for name, n, colour in bars]
    figure = new_figure(5.2, 0.7 + 0.26 * max(len(bars), 1))
    axes = figure.subplots()
    axes.set_ylim(-0.7, len(bars) - 0.3)
    dress(axes, x="number", y="")
    axes.grid(visible=False, axis="y")
    drawn = axes.barh(
        [name for name, _, _ in bars], [n for _, n, _ in bars], color=[colour for _, _, colour in bars], height=0.62
    )
    axes.bar_label(drawn, fontsize=FONT_SIZE - 1, padding=3, color=INK)
    axes.margins(x=0.1)
    axes.invert_yaxis()
    whole_numbers(axes)
    return figure


def wall_time_figure(manifests: Sequence[Manifest]) -> Figure:
    """Return the wall time of each stage, stacked by generation, in the unit that suits the longest.

    Sampling runs beside labelling, so it is drawn within it.
    """
    times = [each["details"].get("wall_time_s", {}) for each in manifests]
    longest = max((sum(each.values()) for each in times), default=0.0)
    factor, unit = unit_of_time(longest)
    figure = new_figure(6.2, 2.6)
    axes = figure.subplots()
    dress(axes, x="generation", y=f"wall time ({unit})")
    axes.grid(visible=False, axis="x")
    numbers = [each["number"] for each in manifests]
    heights = {stage: np.array([each.get(stage, 0.0) for each in times]) / factor for stage in STAGES}
    axes.bar(numbers, heights["labelling"], color=STAGES["labelling"], width=0.7, label="labelling")
    axes.bar(numbers, heights["sampling"], color=STAGES["sampling"], width=0.25, label="sampling (meanwhile)")
    bottom = np.maximum(heights["labelling"], heights["sampling"])
    for stage in ("evaluation", "training"):
        axes.bar(numbers, heights[stage], bottom=bottom, color=STAGES[stage], width=0.7, label=stage)
        bottom = bottom + heights[stage]
    add_legend(axes, place="outside")
    whole_numbers(axes)
    return figure
