"""Changes of the state of a campaign by the entries of its journal."""

from collections.abc import Sequence
from dataclasses import replace
from functools import singledispatch

from surveyor.learning.candidates import Candidate, assigned, without_expired
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
from surveyor.learning.states import Origin, SampleStatus, Schedule, WalkerTurn, n_left, names_of, origin_of


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
    names = names_of(entry.round, entry.walker, planned.n_samples[entry.walker])[entry.first :][: entry.n]
    begun = replace(
        walker,
        round=entry.round,
        generation=entry.generation,
        n_begun=entry.first + len(names),
        names=names,
        moving=names,
        begins_at_start=entry.is_reset,
        is_reset_due=False,
        reset=(entry.round, entry.first) if entry.is_reset else walker.reset,
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
        if any(n_left(walker, index, each) for index, walker in enumerate(walkers))
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
    for origin in filter(None, map(origin_of, entry.samples)):
        if _is_since_reset(origin, walkers[origin.walker]):
            walkers = _with(walkers, origin.walker, replace(walkers[origin.walker], is_reset_due=True))
    return _along_ramps(replace(schedule, walkers=walkers), entry.good)


def _along_ramps(schedule: Schedule, good: Sequence[str]) -> Schedule:
    """Return the schedule after good labels: each moves its walker if it comes from the walker's place on its ramp."""
    walkers, samples = schedule.walkers, dict(schedule.samples)
    for name in good:
        status = samples[name]
        samples[name] = replace(status, n_good_labels=None)
        origin = origin_of(name)
        if origin is not None and _counts(status, origin, walkers[origin.walker]):
            walker = walkers[origin.walker]
            walkers = _with(walkers, origin.walker, replace(walker, n_good_labels=walker.n_good_labels + 1))
    return replace(schedule, walkers=walkers, samples=samples)


def _counts(status: SampleStatus, origin: Origin, walker: WalkerTurn) -> bool:
    is_on_way = _is_since_reset(origin, walker) and not walker.is_reset_due
    return is_on_way and status.n_good_labels == walker.n_good_labels


def _is_since_reset(origin: Origin, walker: WalkerTurn) -> bool:
    return walker.reset <= (origin.round, origin.turn)


@advance.register
def _(entry: GenerationEnds, schedule: Schedule) -> Schedule:
    learned = set(schedule.training or ())
    samples = {name: each for name, each in schedule.samples.items() if name not in learned}
    candidates = schedule.candidates  # none expires while a selector has them
    if not schedule.is_choosing:
        n_waiting = sum(each.is_waiting for each in samples.values())
        candidates = without_expired(candidates, entry.generation, n_waiting)
    return replace(
        schedule,
        generation=entry.generation,
        n_labels=entry.n_labels,
        training=None,
        samples=samples,
        candidates=candidates,
    )


@advance.register
def _(_entry: RunEnds, schedule: Schedule) -> Schedule:
    return replace(schedule, rules=None)


def _with(walkers: tuple[WalkerTurn, ...], index: int, walker: WalkerTurn) -> tuple[WalkerTurn, ...]:
    return (*walkers[:index], walker, *walkers[index + 1 :])
