"""The figure of the observables of walkers."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from surveyor.files import write_atomically
from surveyor.report.style import BLUE, GREEN, ORANGE, PURPLE, SKY, VERMILLION, add_legend, dress, new_figure, to_png
from surveyor.sampling.samples import OBSERVABLE
from surveyor.sampling.walkers import Sample, named

COLOURS = (BLUE, ORANGE, GREEN, VERMILLION, PURPLE, SKY)
MAX_NAMED = 12  # more walkers than that are not told apart
MAX_DRAWN = 60  # more of them would cover each other
TITLES = {
    "temperature_K": "temperature (K)",
    "potential_energy": "potential energy (eV)",
    "total_energy": "total energy (eV)",
    "pressure_MPa": "pressure (MPa)",
    "volume_A3": "volume (Å³)",
    "bias_energy": "bias (eV)",
    "uncertainty_eV_per_A": "uncertainty (meV/Å)",
}

FACTORS = {"uncertainty_eV_per_A": 1e3}  # to the units of the titles

Course = Mapping[str, np.ndarray]


def read_courses(samples: Path) -> dict[str, Course]:
    """Return the observables of the finished samples in a folder, by the names of the samples; of the first sixty."""
    paths = sorted(path for path in samples.glob("*.npz") if ".checkpoint" not in path.name)
    courses: dict[str, Course] = {}
    for path in paths[:MAX_DRAWN]:
        with np.load(path, allow_pickle=False) as arrays:
            course = named(arrays, OBSERVABLE)
        if len(course.get("step", ())):
            courses[path.stem] = course
    return courses


def observables_figure(courses: Mapping[str, Course]) -> Figure:
    """Return the observables of walkers along their steps, each in a panel of its own; collective variables come last.

    Args:
        courses: observables by name, see `Sample`, of each walker by its name; at least one of at least one walker.
    """
    names = dict.fromkeys(name for course in courses.values() for name in course if name != "step")
    ordered = sorted(names, key=lambda name: (name not in TITLES, [*TITLES, name].index(name)))
    n_rows = -(-len(ordered) // 2)  # rounded up
    figure = new_figure(7.0, 1.9 * n_rows)
    panels = figure.subplots(n_rows, 2, squeeze=False).ravel()
    for panel, name in zip(panels, ordered, strict=False):
        dress(panel, x="step", y=TITLES.get(name, name))
        _draw(panel, courses, name)
    for panel in panels[len(ordered) :]:
        panel.set_axis_off()
    if 1 < len(courses) <= MAX_NAMED:
        add_legend(panels[min(1, len(ordered) - 1)], place="outside")
    return figure


def _draw(axes: Axes, courses: Mapping[str, Course], name: str) -> None:
    for number, (walker, course) in enumerate(courses.items()):
        if name in course and "step" in course:
            axes.plot(
                course["step"],
                FACTORS.get(name, 1.0) * course[name],
                color=COLOURS[number % len(COLOURS)],
                linestyle="-" if number % (2 * len(COLOURS)) < len(COLOURS) else "--",
                linewidth=0.9,
                label=walker,
                rasterized=len(courses) > MAX_NAMED,
            )


def write_observables_figure(path: Path, brought: Sequence[tuple[str, Sample]]) -> None:
    """Write the figure of the observables along samples, if there are any.

    Args:
        path: the PNG file.
        brought: samples with their names.
    """
    courses = {name: sample.observables for name, sample in brought if "step" in sample.observables}
    if courses:
        write_atomically(path, to_png(observables_figure(courses)))
