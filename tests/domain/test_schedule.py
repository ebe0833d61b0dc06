"""The schedule of a campaign: its decisions, and that they can be made again from its journal."""

from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from surveyor.errors import InputError
from surveyor.learning.advance import advance, replayed
from surveyor.learning.entries import (
    Chosen,
    Continues,
    Entry,
    GenerationEnds,
    LabelArrived,
    ResetsDue,
    RoundPlanned,
    RunBegins,
    RunEnds,
    SampleReturned,
    TrainingBegins,
    WalkerBegins,
)
from surveyor.learning.journal import Journal, first_difference, n_decisions
from surveyor.learning.parameters import Learning
from surveyor.learning.schedule import due, frames_per_sample, samples_of_round
from surveyor.learning.states import Schedule
from surveyor.testing.simulation import Latencies, Simulation, lower_bound
from surveyor.works.campaign.survey_record import rules_of

BEGINNING = Continues(generation=0, n_labels=10, round=0)


def rules(n_walkers: int = 2, n_states: int | None = None, labels_ahead: int | None = None, **others: Any) -> RunBegins:
    n = n_states or n_walkers
    given = {"n_walkers": n_walkers, "n_states": n, "labels_ahead": labels_ahead or n, "n_generations": 10}
    return RunBegins.model_validate(given | others)


def decided(schedule: Schedule) -> tuple[list[Entry], Schedule]:
    """Make all decisions that are due."""
    entries: list[Entry] = []
    while (decision := due(schedule)) is not None:
        entries.append(decision)
        schedule = advance(decision, schedule)
    return entries, schedule


def after(schedule: Schedule, *events: Entry) -> tuple[list[Entry], Schedule]:
    """Return the decisions after the last of some events; those after the others are made, too."""
    begun: list[Entry] = []
    for event in events:
        begun, schedule = decided(advance(event, schedule))
    return begun, schedule


def returned(name: str) -> SampleReturned:
    return SampleReturned(name=name, labels=(name,))


def simulated(seed: int = 0, n_rounds: int = 20, outliers: float = 0.0, **parameters: Any) -> Simulation:
    given = rules(n_generations=n_rounds, **parameters)
    n, generator = n_rounds * given.n_states, np.random.default_rng(seed)
    slow = np.where(generator.random(n) < outliers, 10, 1)
    labels = 60 * generator.lognormal(0, 0.6, n) * slow
    latencies = Latencies((30 * generator.lognormal(0, 0.1, n)).tolist(), labels.tolist(), 60.0)
    return Simulation(given, latencies, given.n_states, 16).run()


def ratio(simulation: Simulation) -> float:
    trainings = [entry for entry in simulation.entries if isinstance(entry, TrainingBegins)]
    return simulation.time / lower_bound(simulation.latencies, simulation.n_walking, 16, len(trainings))


def test_in_the_sequential_loop_walkers_wait_for_the_training() -> None:
    first, schedule = after(Schedule(), BEGINNING, rules(2))
    assert first == [
        RoundPlanned(round=1, n_samples=(1, 1)),
        WalkerBegins(walker=0, round=1, generation=0),
        WalkerBegins(walker=1, round=1, generation=0),
    ]
    names = ("g001-w000-0", "g001-w001-0")
    nothing, schedule = after(schedule, *map(returned, names), LabelArrived(name=names[1]))
    assert nothing == []
    begun, schedule = after(schedule, LabelArrived(name=names[0]))
    assert begun == [TrainingBegins(generation=1, samples=names)]
    again, _ = after(schedule, GenerationEnds(generation=1, n_labels=12))
    assert again == [
        RoundPlanned(round=2, n_samples=(1, 1)),
        WalkerBegins(walker=0, round=2, generation=1),
        WalkerBegins(walker=1, round=2, generation=1),
    ]


def test_in_the_overlapped_loop_a_walker_that_returns_begins_again_at_once_and_takes_the_newest_model() -> None:
    _, schedule = after(Schedule(), BEGINNING, rules(2, labels_ahead=4))
    begun, schedule = after(schedule, returned("g001-w001-0"))
    assert begun == [RoundPlanned(round=2, n_samples=(1, 1)), WalkerBegins(walker=1, round=2, generation=0)]
    begun, schedule = after(schedule, returned("g002-w001-0"))
    assert begun == [RoundPlanned(round=3, n_samples=(1, 1)), WalkerBegins(walker=1, round=3, generation=0)]
    names = ("g001-w001-0", "g002-w001-0")
    begun, schedule = after(schedule, *(LabelArrived(name=name) for name in names))
    assert begun == [TrainingBegins(generation=1, samples=names)]  # without the slow walker
    nothing, schedule = after(schedule, returned("g003-w001-0"), LabelArrived(name="g003-w001-0"))
    assert nothing == []  # 4 are unlearned
    begun, schedule = after(schedule, GenerationEnds(generation=1, n_labels=12))
    assert begun == [RoundPlanned(round=4, n_samples=(1, 1)), WalkerBegins(walker=1, round=4, generation=1)]
    begun, _ = after(schedule, returned("g001-w000-0"))
    assert begun == [WalkerBegins(walker=0, round=2, generation=1)]


def test_in_the_overlapped_loop_a_walker_takes_the_newest_model_at_each_of_its_samples_of_a_round() -> None:
    begun, schedule = after(Schedule(), BEGINNING, rules(1, n_states=2, labels_ahead=4, one_by_one=True))
    assert begun == [RoundPlanned(round=1, n_samples=(2,)), WalkerBegins(walker=0, round=1, generation=0, n=1)]
    names = ("g001-w000-0", "g001-w000-1", "g002-w000-0", "g002-w000-1", "g003-w000-0")
    begun, schedule = after(schedule, returned(names[0]))
    assert begun == [WalkerBegins(walker=0, round=1, generation=0, first=1, n=1)]
    assert schedule.walkers[0].names == (names[1],)
    begun, schedule = after(schedule, returned(names[1]), returned(names[2]), *map(arrived, names[:2]))
    assert begun == [TrainingBegins(generation=1, samples=names[:2])]
    begun, schedule = after(schedule, GenerationEnds(generation=1, n_labels=12), returned(names[3]))
    assert begun == [RoundPlanned(round=3, n_samples=(2,)), WalkerBegins(walker=0, round=3, generation=1, n=1)]
    assert {name: each.generation for name, each in schedule.samples.items()} == {
        names[2]: 0,
        names[3]: 0,  # begun before the training had ended
        names[4]: 1,
    }


def test_a_reset_between_two_samples_of_a_round_is_behind_the_first_alone() -> None:
    given = rules(1, n_states=3, labels_ahead=9, one_by_one=True)
    names = ("g001-w000-0", "g001-w000-1", "g001-w000-2")
    _, schedule = after(Schedule(), BEGINNING, given, returned(names[0]), ResetsDue(samples=names[:1]))
    begun, schedule = after(schedule, returned(names[1]))
    assert begun == [WalkerBegins(walker=0, round=1, generation=0, first=2, n=1, is_reset=True)]
    _, earlier = after(schedule, ResetsDue(samples=names[1:2]))
    assert not earlier.walkers[0].is_reset_due  # it has been reset since
    _, later = after(schedule, ResetsDue(samples=names[2:]))
    assert later.walkers[0].is_reset_due


def test_what_is_left_of_a_round_is_begun_together_after_a_change_to_the_sequential_loop() -> None:
    _, schedule = after(Schedule(), BEGINNING, rules(1, n_states=3, labels_ahead=6, one_by_one=True))
    begun, schedule = after(schedule, rules(1, n_states=3), returned("g001-w000-0"))
    assert begun == [WalkerBegins(walker=0, round=1, generation=0, first=1)]
    assert schedule.walkers[0].moving == ("g001-w000-1", "g001-w000-2")
    assert schedule.rounds == {}


def test_samples_are_begun_one_by_one_in_the_overlapped_loop_alone() -> None:
    assert not rules_of(Learning(n_states=4), 2).one_by_one
    assert not rules_of(Learning(n_states=4, labels_ahead=4), 2).one_by_one
    assert rules_of(Learning(n_states=4, labels_ahead=5), 2).one_by_one


@pytest.mark.parametrize("ahead", [8, 13, 24])
def test_each_training_takes_as_many_samples_as_a_generation_has_and_nothing_is_left(ahead: int) -> None:
    simulation = simulated(n_walkers=8, labels_ahead=ahead, n_rounds=5)
    learned = [entry.samples for entry in simulation.entries if isinstance(entry, TrainingBegins)]
    assert list(map(len, learned)) == [8] * 5
    assert len({name for samples in learned for name in samples}) == 5 * 8
    assert simulation.schedule.samples == {}


@pytest.mark.parametrize("ahead", [1.0, 1.5, 2.0, 3.0])
@pytest.mark.parametrize(("n_walkers", "n_states"), [(8, 8), (3, 8), (8, 3)])
@pytest.mark.parametrize("one_by_one", [False, True])
def test_bounds_hold_at_each_moment(ahead: float, n_walkers: int, n_states: int, one_by_one: bool) -> None:
    n_ahead = int(ahead * n_states)
    given = {"n_walkers": n_walkers, "n_states": n_states, "labels_ahead": n_ahead, "max_labels": 50}
    simulation = simulated(**given, one_by_one=one_by_one)
    schedule = Schedule()
    for entry in simulation.entries:
        schedule = advance(entry, schedule)
        assert schedule.n_unlearned <= n_ahead
        assert schedule.n_labels + schedule.n_unlearned <= 50
    assert schedule.n_labels == 50


def test_the_sequential_loop_gives_each_generation_its_round() -> None:
    simulation = simulated(n_walkers=3, n_states=8, n_rounds=6)
    for entry in simulation.entries:
        if isinstance(entry, TrainingBegins):
            assert {name[:4] for name in entry.samples} == {f"g{entry.generation:03d}"}
            assert len(entry.samples) == 8


# The figures are those of a simulation that was written independently, with some margin; see docs/explanation/loop.md.
@pytest.mark.parametrize(
    ("ahead", "outliers", "least", "most"),
    [(1, 0.0, 2.1, 2.6), (2, 0.0, 1.0, 1.10), (2, 0.01, 1.0, 1.20), (3, 0.0, 1.0, 1.08)],
)
def test_walkers_that_run_ahead_bring_the_campaign_near_its_lower_bound(
    ahead: int, outliers: float, least: float, most: float
) -> None:
    runs = [
        simulated(seed, n_walkers=32 * ahead, n_states=32, labels_ahead=32 * ahead, outliers=outliers)
        for seed in range(8)
    ]
    assert least <= np.mean([ratio(run) for run in runs]) <= most


def test_all_walkers_get_equally_far() -> None:
    simulation = simulated(n_walkers=8, labels_ahead=16)
    begun = [entry.walker for entry in simulation.entries if isinstance(entry, WalkerBegins)]
    assert set(np.bincount(begun)) == {20}


def test_a_walker_is_reset_when_it_returns_unless_it_was_reset_since() -> None:
    _, schedule = after(Schedule(), BEGINNING, rules(2, labels_ahead=6))
    names = ("g001-w001-0", "g002-w001-0")
    _, schedule = after(schedule, *map(returned, names), *(LabelArrived(name=name) for name in names))
    nothing, schedule = after(schedule, ResetsDue(samples=names))
    assert nothing == []  # it moves
    begun, schedule = after(schedule, returned("g003-w001-0"))
    assert begun[-1] == WalkerBegins(walker=1, round=4, generation=0, is_reset=True)
    late = "g003-w001-0"
    _, schedule = after(schedule, GenerationEnds(generation=1, n_labels=12), LabelArrived(name=late))
    _, schedule = after(schedule, returned("g001-w000-0"), LabelArrived(name="g001-w000-0"))
    begun, _ = after(schedule, ResetsDue(samples=(late,)), returned("g004-w001-0"))
    assert begun[-1] == WalkerBegins(walker=1, round=5, generation=1)  # it was reset behind that sample


def learned(
    schedule: Schedule, samples: tuple[str, ...], good: tuple[str, ...] = (), bad: tuple[str, ...] = ()
) -> tuple[list[Entry], Schedule]:
    """Return the decisions after a training on samples, some of which were good, and which calls others for a reset."""
    events = [ResetsDue(samples=bad, good=good), GenerationEnds(generation=schedule.generation + 1, n_labels=10)]
    arrivals = [entry for name in samples for entry in (returned(name), arrived(name))]
    return after(schedule, *arrivals, *events)


def begun_with(entries: list[Entry]) -> dict[int, int]:
    """Return how many good labels walkers had when they began, by their index."""
    return {entry.walker: entry.n_good_labels for entry in entries if isinstance(entry, WalkerBegins)}


def test_a_good_label_moves_its_walker_along_its_ramp_and_a_reset_takes_it_back() -> None:
    begun, schedule = after(Schedule(), BEGINNING, rules(2))
    assert begun_with(begun) == {0: 0, 1: 0}
    names = [(f"g{number:03d}-w000-0", f"g{number:03d}-w001-0") for number in range(1, 5)]
    begun, schedule = learned(schedule, names[0], good=names[0])
    assert begun_with(begun) == {0: 1, 1: 1}
    begun, schedule = learned(schedule, names[1], good=names[1][:1])  # the label of the other one says nothing
    assert begun_with(begun) == {0: 2, 1: 1}
    begun, schedule = learned(schedule, names[2], good=names[2][1:], bad=names[2][:1])
    assert begun_with(begun) == {0: 0, 1: 2}
    assert [entry.is_reset for entry in begun if isinstance(entry, WalkerBegins)] == [True, False]
    begun, schedule = learned(schedule, names[3], good=names[3])
    assert begun_with(begun) == {0: 1, 1: 3}


def test_of_several_good_labels_from_one_place_on_the_ramp_one_counts() -> None:
    _, schedule = after(Schedule(), BEGINNING, rules(1, n_states=2, labels_ahead=6))
    names = tuple(f"g00{number}-w000-{turn}" for number in (1, 2) for turn in (0, 1))
    _, schedule = after(schedule, *(entry for name in names for entry in (returned(name), arrived(name))))
    assert schedule.training == names[:2]
    good = ResetsDue(samples=(), good=names[:2])
    for _ in range(2):  # as if a run was killed in between, which makes no difference
        _, schedule = after(schedule, good, rules(1, n_states=2, labels_ahead=6))
        assert schedule.walkers[0].n_good_labels == 1
    _, schedule = after(schedule, *map(arrived, names))  # of the new run
    _, schedule = after(schedule, GenerationEnds(generation=1, n_labels=12), *map(arrived, names[2:]))
    assert schedule.training == names[2:]
    _, schedule = after(schedule, ResetsDue(samples=(), good=names[2:]))  # they were begun before the first were good
    assert schedule.walkers[0].n_good_labels == 1


def test_a_label_counts_once_even_if_its_walker_is_back_where_it_was() -> None:
    _, schedule = after(Schedule(), BEGINNING, rules(1, labels_ahead=2))
    names = ("g001-w000-0", "g002-w000-0")
    good = ResetsDue(samples=(), good=names[:1])
    _, schedule = after(schedule, returned(names[0]), arrived(names[0]), good)
    assert schedule.walkers[0].n_good_labels == 1
    stopped = returned(names[1]).model_copy(update={"is_reset": True})
    _, schedule = after(schedule, stopped, rules(1, labels_ahead=2), *map(arrived, names), good)
    assert schedule.walkers[0].n_good_labels == 0


def test_good_labels_from_before_a_reset_do_not_count() -> None:
    _, schedule = after(Schedule(), BEGINNING, rules(1, labels_ahead=4))
    names = tuple(f"g00{number}-w000-0" for number in range(1, 5))
    _, schedule = after(schedule, *map(returned, names[:2]), arrived(names[0]))
    _, schedule = after(schedule, ResetsDue(samples=names[:1]), GenerationEnds(generation=1, n_labels=11))
    _, schedule = after(schedule, arrived(names[1]), ResetsDue(samples=(), good=names[1:2]))
    assert (schedule.walkers[0].is_reset_due, schedule.walkers[0].n_good_labels) == (True, 0)
    begun, schedule = after(schedule, returned(names[2]))
    assert begun_with(begun) == {0: 0}
    _, schedule = after(schedule, GenerationEnds(generation=2, n_labels=12), arrived(names[2]))
    _, schedule = after(schedule, ResetsDue(samples=(), good=names[2:3]))
    assert schedule.walkers[0].n_good_labels == 0


def test_a_guard_takes_a_walker_back_to_the_start_of_its_ramp() -> None:
    _, schedule = after(Schedule(), BEGINNING, rules(1, n_states=2))
    first, second = (tuple(f"g00{number}-w000-{turn}" for turn in (0, 1)) for number in (1, 2))
    begun, schedule = learned(schedule, first, good=first[:1])
    assert begun_with(begun) == {0: 1}
    stopped = returned(second[0]).model_copy(update={"is_reset": True})
    arrivals = (stopped, arrived(second[0]), returned(second[1]), arrived(second[1]))
    _, schedule = after(schedule, *arrivals)
    assert schedule.walkers[0].n_good_labels == 0
    begun, schedule = after(schedule, ResetsDue(samples=(), good=second[1:]), GenerationEnds(generation=2, n_labels=14))
    assert begun_with(begun) == {0: 1}  # the second sample began at the start of the ramp, and was good


def test_walkers_of_another_campaign_begin_where_they_were_on_their_ramps() -> None:
    begun, schedule = after(Schedule(), BEGINNING.model_copy(update={"n_good_labels": (3, 0)}), rules(2))
    assert begun_with(begun) == {0: 3, 1: 0}
    names = ("g001-w000-0", "g001-w001-0")
    begun, _ = learned(schedule, names, good=names)
    assert begun_with(begun) == {0: 4, 1: 1}


def test_progress_that_does_not_follow_is_found_in_a_journal() -> None:
    names = ("g001-w000-0", "g001-w001-0")
    begun, schedule = after(Schedule(), BEGINNING, rules(2))
    ends = [ResetsDue(samples=(), good=names[:1]), GenerationEnds(generation=1, n_labels=12)]
    arrivals = [entry for name in names for entry in (returned(name), arrived(name))]
    then, _ = learned(schedule, names, good=names[:1])
    training = TrainingBegins(generation=1, samples=names)
    journal = [BEGINNING, rules(2), *begun, *arrivals, training, *ends, *then]
    assert first_difference(journal) is None
    without = [entry for entry in journal if not isinstance(entry, ResetsDue)]
    difference = first_difference(without)
    assert difference is not None
    assert difference.found == then[1]


def test_a_sample_without_a_structure_counts_as_arrived() -> None:
    _, schedule = after(Schedule(), BEGINNING, rules(2))
    nothing = SampleReturned(name="g001-w000-0")
    begun, _ = after(schedule, nothing, returned("g001-w001-0"), LabelArrived(name="g001-w001-0"))
    assert begun == [TrainingBegins(generation=1, samples=("g001-w000-0", "g001-w001-0"))]


def test_frames_are_awaited_with_their_sample() -> None:
    _, schedule = after(Schedule(), BEGINNING, rules(1, n_frames=2))
    labels = ("g001-w000-0", "g001-w000-0-step-10", "g001-w000-0-step-20")
    nothing, schedule = after(schedule, SampleReturned(name=labels[0], labels=labels), *map(arrived, labels[:2]))
    assert nothing == []
    begun, _ = after(schedule, arrived(labels[2]))
    assert begun == [TrainingBegins(generation=1, samples=labels[:1])]


def arrived(name: str) -> LabelArrived:
    return LabelArrived(name=name)


def test_late_labels_are_awaited_by_the_next_generation() -> None:
    _, schedule = after(Schedule(), BEGINNING.model_copy(update={"late": ("g001-late-0",)}), rules(1))
    nothing, schedule = after(schedule, returned("g001-w000-0"), arrived("g001-w000-0"))
    assert nothing == []
    begun, _ = after(schedule, arrived("g001-late-0"))
    assert begun == [TrainingBegins(generation=1, samples=("g001-late-0", "g001-w000-0"))]


def test_the_labels_of_samples_are_awaited_anew_by_each_run() -> None:
    _, schedule = after(Schedule(), BEGINNING, rules(2), returned("g001-w000-0"))
    nothing, schedule = after(
        schedule, arrived("g001-w000-0"), returned("g001-w001-0"), rules(2), arrived("g001-w001-0")
    )
    assert nothing == []
    begun, _ = after(schedule, arrived("g001-w000-0"))
    assert [type(entry) for entry in begun] == [TrainingBegins]


def test_a_generation_that_brought_nothing_is_tried_again_by_another_round() -> None:
    _, schedule = after(Schedule(), BEGINNING, rules(1))
    _, schedule = after(schedule, SampleReturned(name="g001-w000-0"), GenerationEnds(generation=0, n_labels=10))
    assert schedule.walkers[0].names == ("g002-w000-0",)
    assert schedule.generation == 0


def test_nothing_is_decided_after_the_end_of_a_run() -> None:
    _, schedule = after(Schedule(), BEGINNING, rules(2, labels_ahead=4), RunEnds(reason="converged"))
    assert due(schedule) is None
    nothing, schedule = after(schedule, RunEnds(reason="again"))
    assert nothing == []
    assert schedule.n_moving == 2
    begun, _ = after(schedule, returned("g001-w000-0"), rules(2, labels_ahead=4))
    assert begun == [RoundPlanned(round=2, n_samples=(1, 1)), WalkerBegins(walker=0, round=2, generation=0)]


def test_a_round_that_an_earlier_surveyor_has_planned_is_kept() -> None:
    planned = BEGINNING.model_copy(update={"generation": 3, "round": 3, "n_samples": (0, 2)})
    begun, schedule = after(Schedule(), planned, rules(2))
    assert begun == [WalkerBegins(walker=1, round=4, generation=3)]
    assert schedule.walkers[1].names == ("g004-w001-0", "g004-w001-1")


def test_a_journal_gives_the_same_decisions_and_the_first_other_one_is_named() -> None:
    entries = simulated(n_walkers=8, labels_ahead=16, n_rounds=10).entries
    assert first_difference(entries) is None
    at = [type(entry) for entry in entries].index(TrainingBegins)
    found = entries[at]
    assert isinstance(found, TrainingBegins)
    other = found.model_copy(update={"samples": found.samples[1:]})
    difference = first_difference([*entries[:at], other, *entries[at + 1 :]])
    assert difference is not None
    assert (difference.number, difference.found, difference.expected) == (at + 1, other, found)
    labels = [number for number, entry in enumerate(entries) if isinstance(entry, LabelArrived)]
    swapped = [*entries]
    first = next(n for n in labels[8:] if isinstance(entries[n + 1], TrainingBegins))
    swapped[first], swapped[first + 1] = entries[first + 1], entries[first]
    difference = first_difference(swapped)
    assert difference is not None
    assert difference.number == first + 1


JOURNALS = Path(__file__).parent / "journals"  # of real campaigns, in a folder for each version; see README.md there
BEFORE = JOURNALS / "0.1.0.dev0"
RECORDED = sorted(JOURNALS.glob("*/*.jsonl"))
STRATEGIES: dict[str, Callable[[list[Entry]], bool]] = {
    "sequential": lambda entries: all(run.labels_ahead == run.n_states for run in runs_in(entries)),
    "overlapped": lambda entries: all(run.labels_ahead > run.n_states and run.one_by_one for run in runs_in(entries)),
    "budget": lambda entries: runs_in(entries)[-1].max_labels == ends_in(entries)[-1].n_labels,
    "failed-label": lambda entries: any(isinstance(each, LabelArrived) and each.failure for each in entries),
    "random-overlapped": lambda entries: selectors_in(entries) == {"random"},
    "informative": lambda entries: selectors_in(entries) == {"informative"},
    "informative-overlapped": lambda entries: selectors_in(entries) == {"informative"},
    "committee": lambda entries: selectors_in(entries) == {"committee"},
    "fallback": lambda entries: "walkers" in selectors_in(entries) and runs_in(entries)[-1].select == "informative",
    "temperature-ramp-by-labels": lambda entries: moves_along_ramp(entries),
    "pressure-ramp-by-labels": lambda entries: moves_along_ramp(entries),
    "pressure-ramp-by-steps": lambda entries: not moves_along_ramp(entries),
    "on-the-fly": lambda entries: {run.n_states for run in runs_in(entries)} == {1},
}


def runs_in(entries: list[Entry]) -> list[RunBegins]:
    return [entry for entry in entries if isinstance(entry, RunBegins)]


def ends_in(entries: list[Entry]) -> list[GenerationEnds]:
    return [entry for entry in entries if isinstance(entry, GenerationEnds)]


def selectors_in(entries: list[Entry]) -> set[str]:
    return {entry.selector for entry in entries if isinstance(entry, Chosen)}


def moves_along_ramp(entries: list[Entry]) -> bool:
    return any(isinstance(entry, WalkerBegins) and entry.n_good_labels for entry in entries)


def in_words(path: Path) -> str:
    return f"{path.parent.name}/{path.stem}"


@pytest.mark.parametrize("path", RECORDED, ids=in_words)
def test_recorded_campaigns_are_decided_in_the_same_way(path: Path) -> None:
    entries = Journal(path).read()
    assert n_decisions(entries) >= 8
    assert first_difference(entries) is None


@pytest.mark.parametrize("path", RECORDED, ids=in_words)
def test_recorded_campaigns_are_resumed_without_a_word(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    entries, schedule = Journal(path).resume()
    assert schedule == replayed(entries)
    assert caplog.messages == []


def test_this_version_has_a_journal_for_each_strategy_and_those_of_the_version_before_are_kept() -> None:
    """The command `make journals` records them."""
    of_this = {path.stem: Journal(path).read() for path in (JOURNALS / version("surveyor")).glob("*.jsonl")}
    assert of_this.keys() == STRATEGIES.keys()
    assert [name for name, shows in STRATEGIES.items() if not shows(of_this[name])] == []
    assert len({path.parent for path in RECORDED}) >= 2


def test_a_new_journal_and_its_name_are_forced_to_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    forced: list[Path] = []
    monkeypatch.setattr("surveyor.learning.journal.synchronize", forced.append)
    new = Journal(tmp_path / "journal.jsonl")
    new.append(BEGINNING)
    assert forced == [new.path, tmp_path]
    new.append(rules(2))
    assert forced == [new.path, tmp_path, new.path]


def test_a_journal_that_has_lost_a_line_is_not_resumed(tmp_path: Path) -> None:
    lines = (BEFORE / "overlapped-stopped.jsonl").read_text().splitlines(keepends=True)
    lost = next(number for number, line in enumerate(lines) if '"entry":"walker"' in line)
    damaged = Journal(tmp_path / "journal.jsonl")
    damaged.path.write_text("".join([*lines[:lost], *lines[lost + 1 :]]))
    message = r'journal\.jsonl: entry \d+, \{.*"entry":"sample".*\}, does not follow .*begin_from'
    with pytest.raises(InputError, match=message):
        damaged.resume()


def test_a_journal_with_another_decision_is_resumed_with_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    entries = simulated(n_walkers=8, labels_ahead=16, n_rounds=3).entries
    at = max(number for number, entry in enumerate(entries) if isinstance(entry, TrainingBegins))
    found = entries[at]
    assert isinstance(found, TrainingBegins)
    changed = Journal(tmp_path / "journal.jsonl")
    for entry in [*entries[:at], found.model_copy(update={"samples": found.samples[1:]})]:
        changed.append(entry)
    assert changed.resume()[0][-1] != found
    (message,) = caplog.messages
    assert f"journal.jsonl, entry {at + 1}: found " in message
    assert "the campaign goes on from its entries" in message


def test_a_run_that_was_killed_before_it_recorded_a_decision_is_no_difference() -> None:
    begun, _ = after(Schedule(), BEGINNING, rules(2))
    whole = [BEGINNING, rules(2), *begun]
    again, _ = decided(advance(rules(2), replayed(whole[:3])))
    assert first_difference([*whole[:3], rules(2), *again]) is None
    assert first_difference(whole[:3]) is None
    lost = [*whole[:3], returned("g001-w000-0")]
    assert first_difference(lost) is not None


def test_without_a_number_each_walker_returns_one_sample() -> None:
    assert samples_of_round(1, rules_of(Learning(), 3), 0) == (1, 1, 1)


def test_states_beyond_whole_turns_are_returned_by_walkers_drawn_at_random() -> None:
    plans = [samples_of_round(number, rules(4, 7), 0) for number in range(1, 30)]
    assert {sum(plan) for plan in plans} == {7}
    assert all(sorted(plan) == [1, 2, 2, 2] for plan in plans)
    assert len(set(plans)) == 4
    assert min(np.sum(plans, axis=0)) > 29 * 7 / 4 * 0.8  # nobody is preferred


def test_frames_beside_samples_stay_within_the_budget() -> None:
    assert frames_per_sample(4, rules(n_frames=3), 100) == 3
    assert frames_per_sample(4, rules(n_frames=3, max_labels=200), 100) == 3
    assert frames_per_sample(4, rules(n_frames=3, max_labels=113), 100) == 2  # 4 samples leave 9 labels
    assert frames_per_sample(4, rules(n_frames=3, max_labels=104), 100) == 0
    assert frames_per_sample(1, rules(n_frames=3, max_labels=104), 104) == 0
    assert frames_per_sample(0, rules(n_frames=3, max_labels=104), 104) == 3


def test_a_round_that_is_planned_early_leaves_room_for_all_labels_that_are_under_way() -> None:
    given = rules(labels_ahead=4, n_frames=1, max_labels=17)  # of which the bootstrap has 10
    both = SampleReturned(name="g001-w000-0", labels=("g001-w000-0", "g001-w000-0-f0"))
    begun, _ = after(Schedule(), BEGINNING, given, both)
    assert begun[0] == RoundPlanned(round=2, n_samples=(1, 1), n_frames=0)


def test_with_a_selector_a_sample_takes_one_label_of_the_budget_whatever_frames_it_brings() -> None:
    given = rules(labels_ahead=4, n_frames=3, max_labels=14, select="random")
    begun, _ = after(Schedule(), BEGINNING, given, SampleReturned(name="g001-w000-0", candidates=("g001-w000-0",)))
    assert RoundPlanned(round=2, n_samples=(1, 1), n_frames=3) in begun


def test_fewer_states_than_walkers_are_returned_in_turn() -> None:
    plans = [samples_of_round(number, rules(5, 2), 0) for number in range(1, 6)]
    assert plans == [(1, 1, 0, 0, 0), (0, 0, 1, 1, 0), (1, 0, 0, 0, 1), (0, 1, 1, 0, 0), (0, 0, 0, 1, 1)]


@pytest.mark.parametrize(("n_requested", "n_now"), [(0, 7), (10, 5), (13, 2), (15, 0), (99, 0)])
def test_a_round_stays_within_the_budget(n_requested: int, n_now: int) -> None:
    assert sum(samples_of_round(1, rules(3, 7, max_labels=15), n_requested)) == n_now


def test_a_round_follows_from_seed_and_number() -> None:
    assert samples_of_round(2, rules(3, 10), 0) == samples_of_round(2, rules(3, 10), 5)
    assert len({samples_of_round(2, rules(3, 10, seed=seed), 0) for seed in range(9)}) > 1
