"""The schedule of a campaign: the next decision, as a pure function of the journal so far.

Walkers move in rounds, in each of which `n_states` samples are planned. Each walker goes from sample to sample at its
own pace, as long as fewer than `labels_ahead` samples are unlearned, that is, begun and not in the data of a trained
model. It takes the newest model at each sample.
A training begins when `n_states` samples have all their labels, and takes those that arrived first. If both numbers are
equal, no walker moves during a training, round and generation are the same, and a walker begins all its samples of a
round together.

With a selector, each sample earns one label. If the sample is drawn for an audit, its own structure is labelled;
otherwise the selector chooses any candidate, as soon as a label can begin. If no walker moves during a training, it
chooses when all walkers have returned.
"""

import numpy as np

from surveyor.learning.candidates import ALL_SAMPLES
from surveyor.learning.entries import ChoiceBegins, RoundPlanned, RunBegins, TrainingBegins, WalkerBegins
from surveyor.learning.states import Schedule, n_left


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
    """Return which walker begins its next samples; or their round, if it is not planned yet."""
    n_to_learn = (rules.n_generations - schedule.generation) * rules.n_states
    n_free = min(rules.labels_ahead, n_to_learn) - schedule.n_unlearned
    idle = [index for index, walker in enumerate(schedule.walkers) if not walker.moving]
    if n_free <= 0 or not idle:
        return None
    index, number = min(((index, _next_round(schedule, index)) for index in idle), key=lambda each: (each[1], each[0]))
    if number not in schedule.rounds:
        return _planned(schedule, rules)
    walker = schedule.walkers[index]
    n = 1 if rules.one_by_one else None
    if (n or n_left(walker, index, schedule.rounds[number])) > n_free:
        return None
    return WalkerBegins(
        walker=index,
        round=number,
        generation=schedule.generation,
        is_reset=walker.is_reset_due,
        n_good_labels=0 if walker.is_reset_due else walker.n_good_labels,
        first=walker.n_begun if number == walker.round else 0,
        n=n,
    )


def _next_round(schedule: Schedule, index: int) -> int:
    """Return the next round in which a walker has samples to begin; the one after the last if none is planned."""
    walker = schedule.walkers[index]
    planned = (number for number, each in schedule.rounds.items() if n_left(walker, index, each))
    return min(planned, default=schedule.last_round + 1)


def _planned(schedule: Schedule, rules: RunBegins) -> RoundPlanned | None:
    number, n_requested = schedule.last_round + 1, _n_requested(schedule)
    n_samples = samples_of_round(number, rules, n_requested)
    n_frames = frames_per_sample(sum(n_samples), rules, n_requested)
    return RoundPlanned(round=number, n_samples=n_samples, n_frames=n_frames) if any(n_samples) else None


def _n_requested(schedule: Schedule) -> int:
    """Return how many labels were requested or may be: a sample may bring all of its labels until it is learned."""
    of_rounds = sum(
        n_left(walker, index, each) * _labels_per_sample(each.n_frames, schedule)
        for each in schedule.rounds.values()
        for index, walker in enumerate(schedule.walkers)
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
