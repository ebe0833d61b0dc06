"""The schedule of a campaign: what is to be done next, as a pure function of what has happened.

Walkers move in rounds, in each of which `n_states` samples are planned. Each walker goes from round to round at its own
pace, as long as fewer than `labels_ahead` samples are unlearned, that is, begun and not in the data of a trained model.
A training begins when `n_states` samples have all their labels, and takes those that arrived first. If both numbers are
equal, no walker moves during a training, and round and generation are the same.

With a selector, each sample earns one label. If the sample is drawn for an audit, its own structure is labelled;
otherwise the selector chooses any candidate, as soon as a label can begin. If no walker moves during a training, it
chooses when all walkers have returned.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import singledispatch

import numpy as np

from surveyor.learning.candidates import ALL_SAMPLES, Candidate, assigned, without_expired
from surveyor.learning.entries import (
    ChoiceBegins,
    Chosen,
    Continues,
    Entry,
    GenerationEnds,
    LabelArrived,
    LabelPlaces,
    ResetsDue,
    RoundPlanned,
    RunBegins,
    RunEnds,
    SampleReturned,
    TrainingBegins,
    WalkerBegins,
)


@dataclass(frozen=True, slots=True)
class WalkerTurn:
    """Position of a walker in its rounds.

    Attributes:
        round: the last round that it has begun.
        generation: whose model moves it, or moved it last.
        names: names of the samples of that round.
        moving: names of those that it has yet to return.
        last: round and name of the last sample that it had returned when it began this round; None for none.
        begins_at_start: whether it began this round with a reset.
        is_reset_due: whether it begins the next round with a reset.
        reset: the last round that it began with a reset.
        n_good_labels: how many good labels have moved it along its ramp.
        began_with: how many of them had when it began this round.
    """

    round: int
    generation: int = 0
    names: tuple[str, ...] = ()
    moving: tuple[str, ...] = ()
    last: tuple[int, str] | None = None
    begins_at_start: bool = False
    is_reset_due: bool = False
    reset: int = 0
    n_good_labels: int = 0
    began_with: int = 0


@dataclass(frozen=True, slots=True)
class SampleStatus:
    """A sample that no model has learned.

    Attributes:
        walker: index of its walker; None for a structure whose label is late.
        round: round of the walker.
        n_frames: maximum number of frames to label beside it.
        generation: whose model moves, or moved, the walker.
        lag: number of other unlearned samples when it began.
        labels: names of the structures to be labelled; None while the walker moves.
        outstanding: names of those without a label.
        is_audit: whether its structure is labelled as an audit.
        earns_choice: whether a selector chooses the structure to be labelled.
        chosen: that structure, as a candidate; None before the choice.
        score: of that structure.
        n_good_labels: how many good labels had moved the walker along its ramp; None once its own label has counted.
    """

    walker: int | None
    round: int
    n_frames: int = 0
    generation: int = 0
    lag: int = 0
    labels: tuple[str, ...] | None = None
    outstanding: frozenset[str] = frozenset()
    is_audit: bool = False
    earns_choice: bool = False
    chosen: Candidate | None = None
    score: float | None = None
    n_good_labels: int | None = 0

    @property
    def is_waiting(self) -> bool:
        """True if a selector has yet to choose the structure to be labelled."""
        return self.earns_choice and self.chosen is None

    @property
    def has_arrived(self) -> bool:
        """True if the sample has all its labels."""
        return self.labels is not None and not self.outstanding and not self.is_waiting


@dataclass(frozen=True, slots=True)
class Schedule:
    """The state of a campaign, as far as decisions depend on it.

    Attributes:
        rules: parameters of the current run; None between runs.
        generation: number of the newest complete generation.
        n_labels: number of labels that it had requested.
        base: the generation from whose walkers all rounds began.
        last_round: number of the last round that is planned.
        rounds: planned rounds that some walkers have not begun.
        walkers: all walkers.
        samples: samples that no model has learned, by name.
        arrived: names of those that have all their labels and are in no training, in the order of their arrival.
        training: names of the samples that are learned now; None without a training.
        candidates: structures among which a selector chooses, by name, the oldest first.
        n_places: number of structures that the labelling pool takes at a time; 0 if it is not known.
        is_choosing: whether a selector chooses now.
    """

    rules: RunBegins | None = None
    generation: int = 0
    n_labels: int = 0
    base: int = 0
    last_round: int = 0
    rounds: Mapping[int, RoundPlanned] = field(default_factory=dict)
    walkers: tuple[WalkerTurn, ...] = ()
    samples: Mapping[str, SampleStatus] = field(default_factory=dict)
    arrived: tuple[str, ...] = ()
    training: tuple[str, ...] | None = None
    candidates: Mapping[str, Candidate] = field(default_factory=dict)
    n_places: int = 0
    is_choosing: bool = False

    @property
    def waiting(self) -> list[str]:
        """Names of the samples for which a selector has yet to choose a structure."""
        return [name for name, each in self.samples.items() if each.is_waiting]

    @property
    def n_unlearned(self) -> int:
        """Number of samples of walkers that are begun and that no model has learned."""
        return sum(each.walker is not None for each in self.samples.values())

    @property
    def n_moving(self) -> int:
        """Number of samples that walkers have yet to return."""
        return sum(len(walker.moving) for walker in self.walkers)


def names_of(round_: int, walker: int, n_samples: int) -> tuple[str, ...]:
    """Return the names of the samples of a walker in a round."""
    return tuple(f"g{round_:03d}-w{walker:03d}-{turn}" for turn in range(n_samples))


def origin_of(name: str) -> tuple[int, int] | None:
    """Return round and walker of a sample, or of a frame of its trajectory; None for structures without a walker."""
    found = re.match(r"g(\d+)-w(\d+)-", name)
    return None if found is None else (int(found[1]), int(found[2]))


def due(schedule: Schedule) -> RoundPlanned | WalkerBegins | ChoiceBegins | TrainingBegins | None:
    """Return the next decision, or None if nothing can be done before something else happens."""
    if schedule.rules is None:
        return None
    walkers = _walkers_due(schedule, schedule.rules)
    may_anything_come = walkers is not None
    return (
        _choice_due(schedule, schedule.rules, may_anything_come=may_anything_come)
        or _training_due(schedule, schedule.rules, may_anything_come=may_anything_come)
        or walkers
    )


def _choice_due(schedule: Schedule, rules: RunBegins, *, may_anything_come: bool) -> ChoiceBegins | None:
    n_waiting = len(schedule.waiting)
    if not n_waiting or schedule.is_choosing:
        return None
    if rules.labels_ahead > rules.n_states:
        n_outstanding = sum(len(each.outstanding) for each in schedule.samples.values())
        n = min(n_waiting, schedule.n_places - n_outstanding)
    else:  # what walkers bring is compared when all have returned
        n = 0 if may_anything_come or schedule.n_moving else n_waiting
    return ChoiceBegins(n=n) if n > 0 else None


def _training_due(schedule: Schedule, rules: RunBegins, *, may_anything_come: bool) -> TrainingBegins | None:
    arrived, samples = schedule.arrived, schedule.samples
    is_late = any(each.walker is None and not each.has_arrived for each in samples.values())
    if schedule.training is not None or not arrived or is_late:
        return None
    of_walkers = [name for name in arrived if samples[name].walker is not None]
    is_all = len(arrived) == len(samples) and not may_anything_come
    if len(of_walkers) < rules.n_states and not is_all:
        return None
    others = [name for name in arrived if samples[name].walker is None]
    names = sorted([*others, *of_walkers[: rules.n_states]])
    return TrainingBegins(generation=schedule.generation + 1, samples=tuple(names))


def _walkers_due(schedule: Schedule, rules: RunBegins) -> RoundPlanned | WalkerBegins | None:
    """Return which walker begins its next round; or that round, if it is not planned yet."""
    n_left = (rules.n_generations - schedule.generation) * rules.n_states  # samples that will be learned
    n_free = min(rules.labels_ahead, n_left) - schedule.n_unlearned
    idle = [index for index, walker in enumerate(schedule.walkers) if not walker.moving]
    if n_free <= 0 or not idle:
        return None
    index, number = min(((index, _next_round(schedule, index)) for index in idle), key=lambda each: (each[1], each[0]))
    if number not in schedule.rounds:
        return _planned(schedule, rules)
    walker, planned = schedule.walkers[index], schedule.rounds[number]
    if planned.n_samples[index] > n_free:
        return None
    return WalkerBegins(
        walker=index,
        round=number,
        generation=schedule.generation,
        is_reset=walker.is_reset_due,
        n_good_labels=0 if walker.is_reset_due else walker.n_good_labels,
    )


def _next_round(schedule: Schedule, index: int) -> int:
    """Return the next round in which a walker has samples; the one after the last if none is planned."""
    begun = schedule.walkers[index].round
    planned = (number for number, each in schedule.rounds.items() if number > begun and each.n_samples[index])
    return min(planned, default=schedule.last_round + 1)


def _planned(schedule: Schedule, rules: RunBegins) -> RoundPlanned | None:
    number, n_requested = schedule.last_round + 1, _n_requested(schedule)
    n_samples = samples_of_round(number, rules, n_requested)
    n_frames = frames_per_sample(sum(n_samples), rules, n_requested)
    return RoundPlanned(round=number, n_samples=n_samples, n_frames=n_frames) if any(n_samples) else None


def _n_requested(schedule: Schedule) -> int:
    """Return how many labels were requested or may be: a sample may bring all of its labels until it is learned."""
    of_rounds = sum(
        n_samples * _labels_per_sample(each.n_frames, schedule)
        for each in schedule.rounds.values()
        for n_samples, walker in zip(each.n_samples, schedule.walkers, strict=True)
        if walker.round < each.round
    )
    of_samples = sum(
        max(_labels_per_sample(each.n_frames, schedule), len(each.labels or ()))
        for each in schedule.samples.values()
        if each.walker is not None
    )
    return schedule.n_labels + of_rounds + of_samples


def _labels_per_sample(n_frames: int, schedule: Schedule) -> int:
    return 1 if schedule.rules is not None and schedule.rules.select != ALL_SAMPLES else 1 + n_frames


def samples_of_round(number: int, rules: RunBegins, n_requested: int) -> tuple[int, ...]:
    """Return the number of samples of each walker in a round.

    All walkers return equally many samples; the remainder goes to randomly chosen walkers. If there are
    fewer states than walkers, the walkers take turns, continuing from the previous round.

    Args:
        number: of the round, from 1.
        rules: states per round, budget, seed.
        n_requested: number of labels requested so far.
    """
    n_walkers, n_states = rules.n_walkers, rules.n_states
    n_now = n_states if rules.max_labels is None else max(0, min(n_states, rules.max_labels - n_requested))
    n_turns, n_left = divmod(n_now, n_walkers)
    if n_turns:
        chosen = np.random.default_rng([rules.seed, number]).choice(n_walkers, size=n_left, replace=False)
    else:
        chosen = ((number - 1) * n_states + np.arange(n_left)) % n_walkers
    return tuple(int(n) for n in n_turns + np.bincount(chosen, minlength=n_walkers))


def frames_per_sample(n_samples: int, rules: RunBegins, n_requested: int) -> int:
    """Return how many frames are labelled, or are candidates, beside each sample of a round."""
    if rules.max_labels is None or n_samples == 0 or rules.select != ALL_SAMPLES:
        return rules.n_frames
    left = max(0, rules.max_labels - n_requested - n_samples)
    return min(rules.n_frames, left // n_samples)


def replayed(entries: Sequence[Entry], schedule: Schedule | None = None) -> Schedule:
    """Return the schedule after some entries."""
    for entry in entries:
        schedule = advance(entry, schedule or Schedule())
    return schedule or Schedule()


@singledispatch
def advance(entry: Entry, _schedule: Schedule) -> Schedule:
    """Return the schedule after an entry."""
    raise TypeError(f"no entry of a journal: {entry!r}")


@advance.register
def _(entry: Continues, _schedule: Schedule) -> Schedule:
    plan = None
    if entry.n_samples is not None:
        plan = RoundPlanned(round=entry.round + 1, n_samples=entry.n_samples, n_frames=entry.n_frames)
    late = {name: SampleStatus(None, 0, labels=(name,), outstanding=frozenset([name])) for name in entry.late}
    return Schedule(
        generation=entry.generation,
        n_labels=entry.n_labels,
        base=entry.generation,
        last_round=entry.round + (plan is not None),
        rounds={} if plan is None else {plan.round: plan},
        walkers=tuple(WalkerTurn(entry.round, entry.generation, n_good_labels=n) for n in entry.n_good_labels),
        samples=late,
    )


@advance.register
def _(entry: RunBegins, schedule: Schedule) -> Schedule:
    new = WalkerTurn(schedule.last_round - len(schedule.rounds), schedule.generation)
    samples = {
        name: each if each.labels is None else replace(each, outstanding=frozenset(each.labels))
        for name, each in schedule.samples.items()
    }
    walkers = schedule.walkers or (new,) * entry.n_walkers
    learning = schedule.training or ()
    arrived = tuple(name for name, each in samples.items() if each.has_arrived and name not in learning)
    return replace(
        schedule, rules=entry, walkers=walkers, samples=samples, arrived=arrived, n_places=0, is_choosing=False
    )


@advance.register
def _(entry: RoundPlanned, schedule: Schedule) -> Schedule:
    return replace(schedule, last_round=entry.round, rounds={**schedule.rounds, entry.round: entry})


@advance.register
def _(entry: WalkerBegins, schedule: Schedule) -> Schedule:
    walker = schedule.walkers[entry.walker]
    planned = schedule.rounds[entry.round]
    names = names_of(entry.round, entry.walker, planned.n_samples[entry.walker])
    begun = replace(
        walker,
        round=entry.round,
        generation=entry.generation,
        names=names,
        moving=names,
        begins_at_start=entry.is_reset,
        is_reset_due=False,
        reset=entry.round if entry.is_reset else walker.reset,
        n_good_labels=entry.n_good_labels,
        began_with=entry.n_good_labels,
    )
    walkers = _with(schedule.walkers, entry.walker, begun)
    samples = {
        **schedule.samples,
        **{
            name: SampleStatus(
                entry.walker,
                entry.round,
                planned.n_frames,
                entry.generation,
                schedule.n_unlearned + turn,
                n_good_labels=entry.n_good_labels,
            )
            for turn, name in enumerate(names)
        },
    }
    return replace(schedule, walkers=walkers, samples=samples, rounds=_open_rounds(schedule, walkers))


def _open_rounds(schedule: Schedule, walkers: Sequence[WalkerTurn]) -> dict[int, RoundPlanned]:
    return {
        number: each
        for number, each in schedule.rounds.items()
        if any(n and walker.round < number for n, walker in zip(each.n_samples, walkers, strict=True))
    }


@advance.register
def _(entry: SampleReturned, schedule: Schedule) -> Schedule:
    status = schedule.samples[entry.name]
    if status.walker is None:
        raise ValueError(f"{entry.name} is no sample of a walker")
    walker = schedule.walkers[status.walker]
    moving = tuple(name for name in walker.moving if name != entry.name)
    returned = replace(walker, moving=moving, last=walker.last if moving else (status.round, entry.name))
    samples = {
        **schedule.samples,
        entry.name: replace(
            status,
            labels=entry.labels,
            outstanding=frozenset(entry.labels),
            is_audit=entry.is_audit,
            earns_choice=bool(entry.candidates) and not entry.labels,
        ),
    }
    if entry.is_reset:
        returned = replace(returned, n_good_labels=0)
        samples |= {name: replace(samples[name], n_good_labels=0) for name in (entry.name, *moving)}
    arrived = (*schedule.arrived, entry.name) if samples[entry.name].has_arrived else schedule.arrived
    new = Candidate(entry.name, status.round, status.generation, status.lag, status.n_frames)
    return replace(
        schedule,
        walkers=_with(schedule.walkers, status.walker, returned),
        samples=samples,
        arrived=arrived,
        candidates={**schedule.candidates, **dict.fromkeys(entry.candidates, new)},
    )


@advance.register
def _(entry: LabelPlaces, schedule: Schedule) -> Schedule:
    return replace(schedule, n_places=entry.n)


@advance.register
def _(_entry: ChoiceBegins, schedule: Schedule) -> Schedule:
    return replace(schedule, is_choosing=True)


@advance.register
def _(entry: Chosen, schedule: Schedule) -> Schedule:
    scores = dict(zip(entry.labels, entry.scores, strict=False))
    spent = {
        sample: replace(
            schedule.samples[sample],
            labels=(label,),
            outstanding=frozenset([label]),
            chosen=schedule.candidates[label],
            score=scores.get(label),
        )
        for sample, label in assigned(entry.labels, schedule.candidates, schedule.waiting).items()
    }
    candidates = {name: each for name, each in schedule.candidates.items() if name not in entry.labels}
    return replace(schedule, samples={**schedule.samples, **spent}, candidates=candidates, is_choosing=False)


@advance.register
def _(entry: LabelArrived, schedule: Schedule) -> Schedule:
    (name, status), *_others = [item for item in schedule.samples.items() if entry.name in (item[1].labels or ())]
    now = replace(status, outstanding=status.outstanding - {entry.name})
    is_last = now.has_arrived and not status.has_arrived and name not in (schedule.training or ())
    arrived = (*schedule.arrived, name) if is_last else schedule.arrived
    return replace(schedule, samples={**schedule.samples, name: now}, arrived=arrived)


@advance.register
def _(entry: TrainingBegins, schedule: Schedule) -> Schedule:
    arrived = tuple(name for name in schedule.arrived if name not in entry.samples)
    return replace(schedule, training=entry.samples, arrived=arrived)


@advance.register
def _(entry: ResetsDue, schedule: Schedule) -> Schedule:
    walkers = schedule.walkers
    for round_, index in filter(None, map(origin_of, entry.samples)):
        if walkers[index].reset <= round_:
            walkers = _with(walkers, index, replace(walkers[index], is_reset_due=True))
    return _along_ramps(replace(schedule, walkers=walkers), entry.good)


def _along_ramps(schedule: Schedule, good: Sequence[str]) -> Schedule:
    """Return the schedule after good labels: each moves its walker if it comes from the walker's place on its ramp."""
    walkers, samples = schedule.walkers, dict(schedule.samples)
    for name in good:
        status = samples[name]
        samples[name] = replace(status, n_good_labels=None)
        if status.walker is not None and _counts(status, walkers[status.walker]):
            walker = walkers[status.walker]
            walkers = _with(walkers, status.walker, replace(walker, n_good_labels=walker.n_good_labels + 1))
    return replace(schedule, walkers=walkers, samples=samples)


def _counts(status: SampleStatus, walker: WalkerTurn) -> bool:
    is_since_reset = walker.reset <= status.round and not walker.is_reset_due
    return is_since_reset and status.n_good_labels == walker.n_good_labels


@advance.register
def _(entry: GenerationEnds, schedule: Schedule) -> Schedule:
    learned = set(schedule.training or ())
    samples = {name: each for name, each in schedule.samples.items() if name not in learned}
    n_waiting = sum(each.is_waiting for each in samples.values())
    return replace(
        schedule,
        generation=entry.generation,
        n_labels=entry.n_labels,
        training=None,
        samples=samples,
        candidates=without_expired(schedule.candidates, entry.generation, n_waiting),
    )


@advance.register
def _(_entry: RunEnds, schedule: Schedule) -> Schedule:
    return replace(schedule, rules=None)


def _with(walkers: tuple[WalkerTurn, ...], index: int, walker: WalkerTurn) -> tuple[WalkerTurn, ...]:
    return (*walkers[:index], walker, *walkers[index + 1 :])
