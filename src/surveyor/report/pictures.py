"""Figures as images, each drawn once, however many places show it."""

from collections.abc import Callable, Hashable, Sequence
from functools import cached_property
from io import BytesIO

from matplotlib.figure import Figure
from PIL import Image

from surveyor.files import read_json
from surveyor.learning.audits import Examined
from surveyor.learning.journal import Journal
from surveyor.models.history import epoch_to_json, load_history
from surveyor.progress import GenerationErrors
from surveyor.report.activity import failures_figure, walkers_figure, wall_time_figure
from surveyor.report.figures import History, coverage_figure, learning_curve_figure, parity_figure, training_figure
from surveyor.report.parity import parity_points
from surveyor.report.style import to_png, to_svg
from surveyor.report.tables import Manifest, walkers_of
from surveyor.report.timeline import timeline_figure, timeline_of
from surveyor.report.walkers import observables_figure, read_courses
from surveyor.run_directory import GenerationDirectory, RunDirectory
from surveyor.sampling.conditions import UNDER_THERMOSTAT

KEPT = 24  # more than the figures of two generations


class Picture:
    """A figure as images, each drawn when it is first asked for, and kept.

    Args:
        figure: the figure.
    """

    def __init__(self, figure: Figure) -> None:
        self._figure = figure

    @property
    def width(self) -> float:
        """Width in inches."""
        return float(self._figure.get_figwidth())

    @cached_property
    def png(self) -> bytes:
        """The figure as PNG."""
        return to_png(self._figure)

    @cached_property
    def svg(self) -> bytes:
        """The figure as SVG."""
        return to_svg(self._figure)

    @cached_property
    def small_png(self) -> bytes:
        """The figure as PNG with half the resolution."""
        smaller = BytesIO()
        with Image.open(BytesIO(self.png)) as image:
            image.convert("RGB").reduce(2).save(smaller, "png")
        return smaller.getvalue()


class CampaignPictures:
    """The figures of a campaign; one object of this class draws none of them twice.

    Complete generations do not change, so a figure is known by the newest generation that it shows. A figure without
    data is None.

    Args:
        directory: run directory of the campaign.
    """

    def __init__(self, directory: RunDirectory) -> None:
        self._directory = directory
        self._kept: dict[Hashable, Picture | None] = {}

    def parity(self, generation: int) -> Picture | None:
        """Predictions of the model of a generation against the labels."""

        def draw() -> Figure | None:
            points = parity_points(self._directory.generation(generation))
            return parity_figure(points) if points else None

        return self._get(("parity", generation), draw)

    def learning_curve(self, rows: Sequence[GenerationErrors]) -> Picture | None:
        """Errors against the number of labels; of two generations or more."""
        return self._get(("learning curve", *rows), lambda: learning_curve_figure(rows) if len(rows) > 1 else None)

    def coverage(self, manifests: Sequence[Manifest]) -> Picture | None:
        """Stated uncertainties against the true errors of all audits; None without an uncertainty."""

        def draw() -> Figure | None:
            audits = [audit for each in manifests for audit in Examined.from_manifest(each).audits]
            return coverage_figure(audits) if any(each.uncertainty for each in audits) else None

        return self._get(("coverage", len(manifests)), draw)

    def walkers(self, manifests: Sequence[Manifest]) -> Picture | None:
        """Temperatures and resets of the walkers in all generations up to the last of these."""
        moved = [each for each in manifests if walkers_of(each)]
        return self._get(
            ("walkers", len(manifests)),
            lambda: walkers_figure(moved, thermostats_K(self._directory)) if moved else None,
        )

    def observables(self, generation: int) -> Picture | None:
        """Observables along the samples of a generation."""

        def draw() -> Figure | None:
            courses = read_courses(self._directory.generation(generation).samples)
            return observables_figure(courses) if courses else None

        return self._get(("observables", generation), draw)

    def trainings(self, manifests: Sequence[Manifest]) -> Picture | None:
        """Courses of the trainings of these generations."""
        has_history = any(each["details"].get("history") for each in manifests)
        key = ("trainings", *(each["number"] for each in manifests))
        return self._get(key, lambda: training_figure(_histories(manifests)) if has_history else None)

    def failures(self, manifests: Sequence[Manifest]) -> Picture | None:
        """Failed labels and stopped walkers of all generations up to the last of these."""
        return self._get(("failures", len(manifests)), lambda: failures_figure(manifests))

    def wall_time(self, manifests: Sequence[Manifest]) -> Picture | None:
        """Wall times of the stages in all generations up to the last of these."""
        return self._get(("wall time", len(manifests)), lambda: wall_time_figure(manifests))

    def timeline(self) -> Picture | None:
        """Walkers, labels and trainings along the time, from the journal as it is now."""
        journal = Journal(self._directory.journal)

        def draw() -> Figure | None:
            timeline = timeline_of(journal.timed())
            return timeline_figure(timeline) if timeline.samples else None

        size = journal.path.stat().st_size if journal.path.exists() else 0
        return self._get(("timeline", size), draw)

    def _get(self, key: Hashable, draw: Callable[[], Figure | None]) -> Picture | None:
        if key not in self._kept:
            figure = draw()
            self._kept[key] = None if figure is None else Picture(figure)
        picture = self._kept[key] = self._kept.pop(key)  # what was shown last stays longest
        for old in list(self._kept)[:-KEPT]:
            del self._kept[old]
        return picture


def thermostats_K(directory: RunDirectory) -> list[float]:
    """Return the temperatures of the thermostats of a campaign, both ends of ramps, each once, from low to high."""
    groups = read_json(directory.parameters)["parameters"]["walkers"]
    ends = ("temperature_K", "final_temperature_K")
    found = {group.get(end) for group in groups if group["method"] in UNDER_THERMOSTAT for end in ends}
    return sorted(found - {None})


def _histories(manifests: Sequence[Manifest]) -> list[History]:
    return [History(each["number"], each["details"].get("history", ())) for each in manifests]


def training_pictures(directory: GenerationDirectory) -> dict[str, Picture]:
    """Return the figures of a training on files: "parity", and "training" if there was more than one epoch.

    Args:
        directory: output directory of a complete training.
    """
    figures = {"parity": parity_figure(parity_points(directory))}
    history = history_of_training(directory)
    if len(history.epochs) > 1:
        figures["training"] = training_figure([history])
    return {name: Picture(figure) for name, figure in figures.items()}


def history_of_training(directory: GenerationDirectory) -> History:
    """Return the course of a training on files."""
    return History(None, [epoch_to_json(epoch) for epoch in load_history(directory.model)])
