"""A simulation of a campaign: the real schedule, with a clock and given latencies, and no calculation."""

import heapq
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial

from surveyor.learning.advance import advance
from surveyor.learning.candidates import earned
from surveyor.learning.entries import (
    ChoiceBegins,
    Chosen,
    Continues,
    Entry,
    GenerationEnds,
    LabelArrived,
    LabelPlaces,
    RunBegins,
    SampleReturned,
    TrainingBegins,
    WalkerBegins,
)
from surveyor.learning.schedule import due
from surveyor.learning.states import Schedule
from surveyor.sampling.collection import FRAME


@dataclass(frozen=True, slots=True)
class Latencies:
    """Durations of samples, labels and trainings, in seconds.

    Attributes:
        samples: of the first sample, the second, ...
        labels: of their labels.
        training: of each training.
        choice: of each choice of a selector.
    """

    samples: Sequence[float]
    labels: Sequence[float]
    training: float
    choice: float = 0.0


@dataclass(slots=True)
class Simulation:
    """A campaign on a clock.

    Attributes:
        rules: its parameters.
        latencies: how long things take.
        n_walking: places for walkers.
        n_labelling: places for labels.
        entries: its journal.
        time: the time now, in seconds.
        lags: number of unlearned samples when each sample began.
    """

    rules: RunBegins
    latencies: Latencies
    n_walking: int
    n_labelling: int
    entries: list[Entry] = field(default_factory=list)
    time: float = 0.0
    lags: list[int] = field(default_factory=list)
    schedule: Schedule = field(default_factory=Schedule)
    _due: list[tuple[float, int, Callable[[], None]]] = field(default_factory=list)
    _walks: list[tuple[float, Callable[[], None]]] = field(default_factory=list)
    _labels: list[tuple[float, Callable[[], None]]] = field(default_factory=list)
    _n_moving: int = 0
    _n_at_reference: int = 0
    _numbers: dict[str, int] = field(default_factory=dict)

    def run(self) -> "Simulation":
        """Run until nothing is left to do."""
        self._record(Continues(generation=0, n_labels=0, round=0))
        self._record(self.rules)
        self._decide()
        self._record(LabelPlaces(n=self.n_labelling))
        self._decide()
        while self._due:
            self.time, _, happen = heapq.heappop(self._due)
            happen()
            self._decide()
        return self

    def _record(self, entry: Entry) -> None:
        self.entries.append(entry)
        self.schedule = advance(entry, self.schedule)

    def _decide(self) -> None:
        while (decision := due(self.schedule)) is not None:
            self._record(decision)
            if isinstance(decision, WalkerBegins):
                self._walk(self.schedule.walkers[decision.walker].names)
            if isinstance(decision, TrainingBegins):
                self._after(self.latencies.training, self._learn)
            if isinstance(decision, ChoiceBegins):
                self._after(self.latencies.choice, partial(self._choose, decision.n))
        self._fill()

    def _walk(self, names: Sequence[str]) -> None:
        """Have a walker return its samples, one after the other."""
        name, others = names[0], names[1:]
        self._numbers[name] = len(self._numbers)
        self.lags.append(self.schedule.n_unlearned - 1)

        def arrive() -> None:
            self._n_moving -= 1
            structures = [name, *(f"{name}{FRAME}{step}" for step in range(self.rules.n_frames))]
            labels, candidates, is_audit = earned(name, structures, self.rules)
            self._record(SampleReturned(name=name, labels=labels, candidates=candidates, is_audit=is_audit))
            self._request(labels)
            if others:
                self._walk(others)

        self._walks.append((self.latencies.samples[self._numbers[name]], arrive))

    def _choose(self, n: int) -> None:
        """Choose the newest candidates."""
        labels = tuple(reversed([*self.schedule.candidates]))[:n]
        self._record(Chosen(labels=labels, selector=self.rules.select, generation=self.schedule.generation))
        self._request(labels)

    def _request(self, names: Sequence[str]) -> None:
        """Have structures labelled; each takes as long as the sample that it is part of."""
        for name in names:
            seconds = self.latencies.labels[self._numbers[name.partition(FRAME)[0]]]
            self._labels.append((seconds, partial(self._label, name)))

    def _label(self, name: str) -> None:
        self._n_at_reference -= 1
        self._record(LabelArrived(name=name))

    def _learn(self) -> None:
        learned = [self.schedule.samples[name] for name in self.schedule.training or ()]
        n_labels = self.schedule.n_labels + sum(len(each.labels or ()) for each in learned)
        self._record(GenerationEnds(generation=self.schedule.generation + 1, n_labels=n_labels))

    def _fill(self) -> None:
        while self._walks and self._n_moving < self.n_walking:
            self._n_moving += 1
            self._after(*self._walks.pop(0))
        while self._labels and self._n_at_reference < self.n_labelling:
            self._n_at_reference += 1
            self._after(*self._labels.pop(0))

    def _after(self, seconds: float, happen: Callable[[], None]) -> None:
        heapq.heappush(self._due, (self.time + seconds, len(self._due) + 1000 * len(self.entries), happen))


def lower_bound(latencies: Latencies, n_walking: int, n_labelling: int, n_trainings: int) -> float:
    """Return a time in seconds in which no schedule can end a campaign.

    Args:
        latencies: of exactly the samples and labels of the campaign.
        n_walking: places for walkers.
        n_labelling: places for labels.
        n_trainings: number of trainings, one at a time.
    """
    samples, labels, training = latencies.samples, latencies.labels, latencies.training
    return max(
        min(samples) + max(sum(labels) / n_labelling, max(labels)) + training,
        min(samples) + min(labels) + n_trainings * training,
        sum(samples) / n_walking + min(labels) + training,
    )
