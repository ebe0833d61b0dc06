"""Selection in the schedule of a campaign: candidates, choices and audits."""

from collections import Counter
from typing import Any

import numpy as np
import pytest

from surveyor.learning.advance import advance, replayed
from surveyor.learning.candidates import Candidate, assigned, earned, is_audit, without_expired
from surveyor.learning.entries import (
    ChoiceBegins,
    Chosen,
    Continues,
    Entry,
    GenerationEnds,
    LabelArrived,
    LabelPlaces,
    ResetsDue,
    RunBegins,
    SampleReturned,
    TrainingBegins,
    WalkerBegins,
)
from surveyor.learning.journal import first_difference
from surveyor.learning.schedule import due
from surveyor.learning.states import Origin, Schedule, origin_of
from surveyor.testing.simulation import Latencies, Simulation

BEGINNING = Continues(generation=0, n_labels=10, round=0)
FIRST, SECOND = "g001-w000-0", "g001-w001-0"


def rules(n_walkers: int = 2, ahead: int = 1, **others: Any) -> RunBegins:
    given = {"n_walkers": n_walkers, "n_states": n_walkers, "labels_ahead": ahead * n_walkers, "n_generations": 10}
    return RunBegins.model_validate(given | {"select": "informative", "n_frames": 2} | others)


def after(schedule: Schedule, *events: Entry) -> tuple[list[Entry], Schedule]:
    """Return the decisions after the last of some events; those after the others are made, too."""
    begun: list[Entry] = []
    for event in events:
        begun, schedule = [], advance(event, schedule)
        while (decision := due(schedule)) is not None:
            begun.append(decision)
            schedule = advance(decision, schedule)
    return begun, schedule


def frames(name: str, n: int = 2) -> tuple[str, ...]:
    return (name, *(f"{name}-step-{step}" for step in range(n)))


def brought(name: str, n_frames: int = 2) -> SampleReturned:
    return SampleReturned(name=name, candidates=frames(name, n_frames))


def chosen(*labels: str, generation: int = 0) -> Chosen:
    return Chosen(labels=labels, selector="informative", generation=generation)


def simulated(ahead: int = 2, n_walkers: int = 8, **others: Any) -> Simulation:
    given, generator = rules(n_walkers, ahead, audit_fraction=0.2, **others), np.random.default_rng(1)
    n = 10 * n_walkers
    latencies = Latencies([30.0] * n, (60 * generator.lognormal(0, 0.6, n)).tolist(), 60.0, choice=5.0)
    return Simulation(given, latencies, n_walkers, 4).run()


def test_in_the_sequential_loop_the_selector_chooses_when_all_walkers_have_returned() -> None:
    nothing, schedule = after(Schedule(), BEGINNING, rules(), LabelPlaces(n=8), brought(FIRST))
    assert nothing == []
    begun, schedule = after(schedule, brought(SECOND))
    assert begun == [ChoiceBegins(n=2)]
    assert list(schedule.candidates) == [*frames(FIRST), *frames(SECOND)]
    labels = (f"{SECOND}-step-1", f"{SECOND}-step-0")
    nothing, schedule = after(schedule, chosen(*labels))
    assert nothing == []
    assert {name: each.labels for name, each in schedule.samples.items()} == {FIRST: labels[1:], SECOND: labels[:1]}
    begun, _ = after(schedule, *(LabelArrived(name=name) for name in labels))
    assert begun == [TrainingBegins(generation=1, samples=(FIRST, SECOND))]


def test_in_the_overlapped_loop_the_selector_chooses_as_many_as_labels_can_begin() -> None:
    _, schedule = after(Schedule(), BEGINNING, rules(ahead=3))
    begun, schedule = after(schedule, brought(FIRST), brought(SECOND))
    assert ChoiceBegins not in map(type, begun)  # as it is not known yet what the pool takes
    begun, schedule = after(schedule, LabelPlaces(n=1))
    assert begun == [ChoiceBegins(n=1)]
    nothing, schedule = after(schedule, brought("g002-w000-0"))
    assert ChoiceBegins not in map(type, nothing)  # one at a time
    nothing, schedule = after(schedule, chosen(FIRST))
    assert ChoiceBegins not in map(type, nothing)  # its label is awaited
    begun, schedule = after(schedule, LabelArrived(name=FIRST))
    assert begun[0] == ChoiceBegins(n=1)
    assert set(schedule.candidates) == {*frames(FIRST)[1:], *frames(SECOND), *frames("g002-w000-0")}


def test_an_audit_is_the_label_of_the_sample_itself() -> None:
    audited = SampleReturned(name=FIRST, labels=(FIRST,), candidates=frames(FIRST)[1:], is_audit=True)
    begun, schedule = after(Schedule(), BEGINNING, rules(), audited, brought(SECOND))
    assert begun == [ChoiceBegins(n=1)]
    assert schedule.samples[FIRST].is_audit
    _, schedule = after(schedule, chosen(f"{FIRST}-step-0"))
    assert schedule.samples[SECOND].labels == (f"{FIRST}-step-0",)
    assert schedule.samples[SECOND].chosen == Candidate(FIRST, 1, 0, 0, 2)


def test_audits_are_drawn_with_their_probability_from_seed_and_name() -> None:
    names = [f"g{number:03d}-w{walker:03d}-0" for number in range(100) for walker in range(20)]
    drawn = [[is_audit(name, rules(audit_fraction=0.2, seed=seed)) for name in names] for seed in (0, 1)]
    assert abs(np.mean(drawn[0]) - 0.2) < 4 * np.sqrt(0.2 * 0.8 / 2000)
    assert abs(np.mean(np.logical_and(*drawn)) - 0.04) < 4 * np.sqrt(0.04 * 0.96 / 2000)
    assert [is_audit(name, rules(audit_fraction=0.2)) for name in names] == drawn[0]


def test_what_a_sample_earns() -> None:
    names = frames(FIRST)
    assert earned(FIRST, names, rules(select="walkers")) == (names, (), False)
    assert earned(FIRST, names, rules(audit_fraction=0.0)) == ((), names, False)
    assert earned(FIRST, names, rules(audit_fraction=1.0)) == ((FIRST,), names[1:], True)
    # The structure of the sample is a near-duplicate: a frame is no random draw.
    assert earned(FIRST, names[1:], rules(audit_fraction=1.0)) == ((), names[1:], False)
    assert earned(FIRST, (), rules()) == ((), (), False)


def test_a_sample_without_candidates_counts_as_arrived() -> None:
    begun, schedule = after(Schedule(), BEGINNING, rules(), SampleReturned(name=FIRST), brought(SECOND))
    assert begun == [ChoiceBegins(n=1)]
    assert schedule.arrived == (FIRST,)


def test_samples_spend_their_labels_on_their_own_structures_first() -> None:
    candidates = {name: Candidate(name[:1], 1, 0) for name in ("a1", "a2", "b1", "c1")}
    assert assigned(["c1", "a2", "a1"], candidates, ["b", "a", "c"]) == {"c": "c1", "a": "a2", "b": "a1"}
    whole = candidates | {"a": Candidate("a", 1, 0)}
    assert assigned(["a1", "a"], whole, ["b", "a"]) == {"a": "a", "b": "a1"}
    assert assigned(["a1", "a2"], candidates, ["b", "c"]) == {"b": "a1", "c": "a2"}


def test_candidates_are_forgotten_after_two_models_but_none_that_a_sample_needs() -> None:
    candidates = {"old": Candidate("a", 1, 0), "older": Candidate("b", 1, 0), "new": Candidate("c", 2, 1)}
    assert list(without_expired(candidates, 1, 0)) == ["old", "older", "new"]
    assert list(without_expired(candidates, 2, 0)) == ["new"]
    assert list(without_expired(candidates, 2, 2)) == ["older", "new"]


def test_no_candidate_expires_while_a_selector_chooses() -> None:
    _, schedule = after(Schedule(), BEGINNING, rules(ahead=3), LabelPlaces(n=2), brought(FIRST))
    _, schedule = after(schedule, chosen(FIRST), LabelArrived(name=FIRST), brought("g002-w000-0"))
    assert schedule.is_choosing
    _, during = after(schedule, GenerationEnds(generation=1, n_labels=11), GenerationEnds(generation=2, n_labels=12))
    old = f"{FIRST}-step-1"
    assert old in during.candidates
    _, later = after(during, chosen(old, generation=2), LabelArrived(name=old))
    assert later.samples["g002-w000-0"].labels == (old,)
    _, later = after(later, GenerationEnds(generation=3, n_labels=13))
    assert all(name.startswith(("g002", "g003")) for name in later.candidates)


@pytest.mark.parametrize("ahead", [1, 2, 3])
def test_each_sample_gives_one_label_and_no_candidate_is_labelled_twice(ahead: int) -> None:
    simulation = simulated(ahead)
    labels = Counter(entry.name for entry in simulation.entries if isinstance(entry, LabelArrived))
    assert set(labels.values()) == {1}
    assert len(labels) == sum(isinstance(entry, SampleReturned) for entry in simulation.entries) == 80
    learned = [entry.samples for entry in simulation.entries if isinstance(entry, TrainingBegins)]
    assert list(map(len, learned)) == [8] * 10
    assert simulation.schedule.samples == {}


@pytest.mark.parametrize("ahead", [1, 2])
def test_the_budget_counts_labels_and_not_candidates(ahead: int) -> None:
    simulation = simulated(ahead, max_labels=35, n_frames=10)
    assert simulation.schedule.n_labels == 35
    learned = [len(entry.samples) for entry in simulation.entries if isinstance(entry, TrainingBegins)]
    assert learned == [8, 8, 8, 8, 3]
    assert max(simulation.lags) == 8 * ahead - 1  # no part of the budget is kept for candidates


def test_late_binding_keeps_few_labels_waiting() -> None:
    schedule, most = Schedule(), 0
    for entry in simulated(3).entries:
        schedule = advance(entry, schedule)
        chosen_ones = [each for each in schedule.samples.values() if each.chosen is not None]
        most = max(most, sum(len(each.outstanding) for each in chosen_ones))
    assert most == 4  # the number of places


@pytest.mark.parametrize("ahead", [1, 2])
def test_a_journal_with_choices_gives_the_same_decisions(ahead: int) -> None:
    entries = simulated(ahead).entries
    assert first_difference(entries) is None
    at = [type(entry) for entry in entries].index(ChoiceBegins)
    difference = first_difference([*entries[:at], ChoiceBegins(n=99), *entries[at + 1 :]])
    assert difference is not None
    assert (difference.number, difference.expected) == (at + 1, entries[at])


def test_a_choice_that_a_killed_run_has_begun_begins_again() -> None:
    begun, schedule = after(Schedule(), BEGINNING, rules(), brought(FIRST), brought(SECOND))
    assert begun == [ChoiceBegins(n=2)]
    again, schedule = after(schedule, rules())
    assert again == [ChoiceBegins(n=2)]
    assert len(schedule.candidates) == 6


def test_candidates_outlive_their_samples_and_their_labels_reset_their_walkers() -> None:
    labels = (FIRST, f"{FIRST}-step-0")
    _, schedule = after(Schedule(), BEGINNING, rules(), brought(FIRST), brought(SECOND), chosen(*labels))
    _, schedule = after(schedule, *(LabelArrived(name=name) for name in labels))
    begun, schedule = after(schedule, GenerationEnds(generation=1, n_labels=12))
    assert [type(each).__name__ for each in begun] == ["RoundPlanned", "WalkerBegins", "WalkerBegins"]
    assert set(schedule.candidates) == {f"{FIRST}-step-1", *frames(SECOND)}
    later = ("g002-w000-0", "g002-w001-0")
    begun, schedule = after(schedule, *map(brought, later))
    assert begun == [ChoiceBegins(n=2)]
    labels = (f"{SECOND}-step-1", later[0])
    _, schedule = after(schedule, chosen(*labels, generation=1), *(LabelArrived(name=name) for name in labels))
    _, schedule = after(schedule, ResetsDue(samples=labels[:1]))
    assert [walker.is_reset_due for walker in schedule.walkers] == [False, True]
    begun, _ = after(schedule, GenerationEnds(generation=2, n_labels=14))
    resets = {entry.walker: entry.is_reset for entry in begun if isinstance(entry, WalkerBegins)}
    assert resets == {0: False, 1: True}


@pytest.mark.parametrize(
    ("name", "origin"),
    [
        ("g012-w034-5", Origin(12, 34, 5)),
        ("g1000-w1234-0-step-100", Origin(1000, 1234, 0)),
        ("g002-late-0", None),
        ("g002-001", None),
    ],
)
def test_the_name_of_a_structure_tells_its_round_its_walker_and_its_turn(name: str, origin: Origin | None) -> None:
    assert origin_of(name) == origin


def test_samples_that_wait_are_chosen_for_after_a_change_of_the_selector() -> None:
    _, schedule = after(Schedule(), BEGINNING, rules(), brought(FIRST))
    begun, _ = after(schedule, rules(select="walkers"), SampleReturned(name=SECOND, labels=(SECOND,)))
    assert begun == [ChoiceBegins(n=1)]
    assert replayed([]) == Schedule()
