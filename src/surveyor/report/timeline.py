"""The timeline of a campaign, from its journal: when walkers moved, labels were awaited, and models were trained."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import PolyCollection
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from surveyor.learning.advance import advance
from surveyor.learning.entries import Entry, GenerationEnds, RunBegins, SampleReturned
from surveyor.learning.states import Schedule
from surveyor.report.style import (
    BLUE,
    FONT_SIZE,
    GREEN,
    INK,
    MAX_SHAPES,
    ORANGE,
    PURPLE,
    SKY,
    dress,
    new_figure,
    unit_of_time,
)

COLOURS = (BLUE, ORANGE, GREEN, PURPLE, SKY)  # of generations, in turn


@dataclass(frozen=True, slots=True)
class Span:
    """The time of a sample or of a training.

    Attributes:
        row: index of the walker; 0 for a training.
        begin: in seconds since 1970.
        end: likewise.
        generation: whose model moves the walker, or is trained.
    """

    row: int
    begin: float
    end: float
    generation: int


@dataclass(slots=True)
class Timeline:
    """The times at which walkers moved, labels were awaited, and models were trained.

    Attributes:
        samples: of the walkers, from the beginning of each sample to its end.
        trainings: with the evaluations before and after each.
        outstanding: times in seconds since 1970, each with the number of labels that are awaited from then on.
    """

    samples: list[Span] = field(default_factory=list)
    trainings: list[Span] = field(default_factory=list)
    outstanding: list[tuple[float, int]] = field(default_factory=list)

    @property
    def spans(self) -> list[Span]:
        """All samples and trainings."""
        return self.samples + self.trainings


class _Reader:
    """A reader of a journal, entry by entry."""

    def __init__(self) -> None:
        self.timeline, self.schedule = Timeline(), Schedule()
        self._last = 0.0
        self._moving: dict[int, tuple[float, int]] = {}  # begin and generation, by walker
        self._training: tuple[float, int] | None = None

    def read(self, time: float, entry: Entry) -> None:
        """Read an entry."""
        if isinstance(entry, RunBegins) and self.timeline.outstanding:  # a former run was killed, or has ended
            self._end_all(self._last)
        self.schedule = advance(entry, self.schedule)
        if isinstance(entry, SampleReturned):
            self._end_sample(self.schedule.samples[entry.name].walker or 0, time)
        if isinstance(entry, GenerationEnds):
            self._end_training(time)
        self._begin(time)
        self._last = time
        n_outstanding = sum(len(each.outstanding) for each in self.schedule.samples.values())
        self.timeline.outstanding.append((time, n_outstanding))

    def _begin(self, time: float) -> None:
        """Note the beginning of samples and of a training that have just begun."""
        for index, walker in enumerate(self.schedule.walkers):
            if walker.moving:
                self._moving.setdefault(index, (time, walker.generation))
        if self.schedule.training is not None and self._training is None:
            self._training = time, self.schedule.generation + 1

    def _end_sample(self, walker: int, time: float) -> None:
        if (begun := self._moving.pop(walker, None)) is not None:
            self.timeline.samples.append(Span(walker, begun[0], time, begun[1]))

    def _end_training(self, time: float) -> None:
        if self._training is not None:
            self.timeline.trainings.append(Span(0, self._training[0], time, self._training[1]))
            self._training = None

    def _end_all(self, time: float) -> None:
        for walker in list(self._moving):
            self._end_sample(walker, time)
        self._end_training(time)
        self.timeline.outstanding.append((time, 0))


def timeline_of(entries: Sequence[tuple[float, Entry]]) -> Timeline:
    """Return the timeline of a journal.

    Args:
        entries: each with its time, in seconds since 1970. What was under way when a run was killed ends with the last
            entry of that run, and begins again with the next run.
    """
    reader = _Reader()
    for time, entry in entries:
        reader.read(time, entry)
    return reader.timeline


def timeline_figure(timeline: Timeline) -> Figure:
    """Return when walkers moved, how many labels were awaited, and when models were trained, on one axis of time.

    Args:
        timeline: with at least one sample.
    """
    n_walkers = 1 + max(span.row for span in timeline.samples)
    begin = min(span.begin for span in timeline.spans)
    unit_s, unit = unit_of_time(max(span.end for span in timeline.spans) - begin)
    height = min(3.5, 0.6 + 0.12 * n_walkers)
    figure = new_figure(7.0, 2.2 + height)
    walkers, labels, trainings = figure.subplots(3, 1, sharex=True, height_ratios=(height, 1.0, 0.5))
    dress(walkers, x="", y="walker", title="Walkers, by the generation of their model")
    _bars(walkers, timeline.samples, begin, unit_s)
    walkers.set_ylim(n_walkers - 0.4, -0.6)
    walkers.yaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    dress(labels, x="", y="number", title="Labels that are awaited")
    times, numbers = np.array(timeline.outstanding).T
    labels.step((times - begin) / unit_s, numbers, where="post", color=INK, linewidth=0.9)
    labels.set_ylim(bottom=0)
    dress(trainings, x=f"time ({unit})", y="", title="Trainings, with their evaluations")
    _bars(trainings, timeline.trainings, begin, unit_s)
    for span in timeline.trainings:
        middle = ((span.begin + span.end) / 2 - begin) / unit_s
        trainings.annotate(
            f"{span.generation}", (middle, 0), ha="center", va="center", fontsize=FONT_SIZE - 2, color=INK
        )
    trainings.set_yticks([])
    return figure


def _bars(axes: Axes, spans: Sequence[Span], begin: float, unit_s: float) -> None:
    corners = [[((time - begin) / unit_s, span.row + y) for time, y in _corners(span)] for span in spans]
    colours = [COLOURS[span.generation % len(COLOURS)] for span in spans]
    bars = PolyCollection(corners, facecolors=colours, edgecolors="face", linewidths=0.1)
    bars.set_rasterized(len(spans) > MAX_SHAPES)
    axes.add_collection(bars)
    axes.autoscale_view()


def _corners(span: Span) -> tuple[tuple[float, float], ...]:
    return (span.begin, -0.4), (span.end, -0.4), (span.end, 0.4), (span.begin, 0.4)
