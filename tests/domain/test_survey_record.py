"""Walkers, samples and labels of a campaign, and what of them is there again after the process has died."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import ase.io
import pytest
from ase import Atoms
from ase.cluster import Octahedron

from surveyor.dataset import Dataset, DataSets, with_label
from surveyor.errors import InputError
from surveyor.events.kinds import NearDuplicate
from surveyor.events.log import EventLog
from surveyor.files import write_json
from surveyor.labels import Label
from surveyor.learning.entries import Chosen, ResetsDue, WalkerBegins
from surveyor.learning.journal import Journal, first_difference
from surveyor.learning.parameters import Learning
from surveyor.models.pair import PairModel, PairParameters
from surveyor.run_directory import Generation, RunDirectory
from surveyor.sampling.batching import SamplePlan, propagate_together
from surveyor.sampling.conditions import Walkers
from surveyor.sampling.propagation import SampleFiles
from surveyor.sampling.samples import save_sample, walker_digest
from surveyor.sampling.walkers import Rejection, Sample, Walker, make_walkers, save_walker
from surveyor.testing.calculators import CalculatorPotential
from surveyor.works.campaign.survey_record import SurveyRecord

EMT_POTENTIAL = CalculatorPotential("ase.calculators.emt.EMT")


@dataclass
class Ground:
    """A campaign with a complete bootstrap, in a folder."""

    directory: RunDirectory
    walkers: tuple[Walker, ...]

    def record(self, data: DataSets | None = None, number: int = 0, **learning: Any) -> SurveyRecord:
        given = Learning(**{"n_generations": 5, **learning})
        return SurveyRecord(self.directory, given, self.walkers, self.generation(number, data or DataSets()))

    def generation(self, number: int, data: DataSets) -> Generation:
        for walker in self.walkers:
            save_walker(self.directory.generation(number).walker(walker.index), walker)
        return Generation(number, data, self.walkers, PairModel(PairParameters()))

    def walk(self, record: SurveyRecord, plan: SamplePlan) -> list[tuple[str, Sample]]:
        return propagate_together([plan], EMT_POTENTIAL, directory=record.folder_of(plan))


@pytest.fixture
def ground(tmp_path: Path) -> Ground:
    ase.io.write(tmp_path / "start.extxyz", Octahedron("Cu", 2))
    moving = Walkers(start=tmp_path / "start.extxyz", n_walkers=2, timestep_fs=3, n_steps=60, frame_interval=2)
    still = Walkers(start=tmp_path / "start.extxyz", n_walkers=2, method="optimisation")
    return Ground(RunDirectory(tmp_path / "run"), make_walkers([moving, still], seed=1))


def labelled(atoms: Atoms, name: str) -> Atoms:
    return with_label(atoms, f"v1:{name}", Label(1.0, 0 * atoms.positions))


def begun(record: SurveyRecord) -> dict[int, SamplePlan]:
    """Make the decisions that are due, and return the plans of the walkers that begin."""
    return {decision.walker: record.begin(decision) for decision in record.decide()}


def test_near_duplicates_of_the_campaign_and_of_other_samples_are_not_labelled(ground):
    record = ground.record()
    plans = begun(record)
    assert list(plans) == [0, 1, 2, 3]
    brought = {index: ground.walk(record, plan) for index, plan in plans.items()}
    new = {index: record.take_sample(*brought[index][0]) for index in plans}
    assert {index: list(each) for index, each in new.items()} == {
        0: ["g001-w000-0"],
        1: ["g001-w001-0"],
        2: ["g001-w002-0"],
        3: [],  # where 2 is
    }
    again = ground.record()
    assert list(again.outstanding) == ["g001-w000-0", "g001-w001-0", "g001-w002-0"]
    for name, structure in again.outstanding.items():
        assert structure == {name: atoms for each in new.values() for name, atoms in each.items()}[name]


def test_what_the_campaign_has_is_not_labelled_again(ground):
    record = ground.record()
    ((name, sample),) = ground.walk(record, begun(record)[0])
    ground.directory.journal.unlink()
    other = ground.record(DataSets(train=Dataset([sample.structure])))
    begun(other)
    assert other.take_sample(name, sample) == {}
    ground.directory.journal.unlink()
    everything = ground.record(DataSets(train=Dataset([sample.structure])), min_difference_A=0)
    begun(everything)
    assert list(everything.take_sample(name, sample)) == [name]


def test_a_new_record_continues_where_the_process_has_died(ground):
    record = ground.record(n_states=8, n_frames=2)
    plans = begun(record)
    first, second = ground.walk(record, plans[0])
    structures = record.take_sample(*first)
    assert len(structures) > 1
    again = ground.record(n_states=8, n_frames=2)
    assert list(again.outstanding) == list(structures)
    moving = {plan.walker.index: (number, plan.names, n) for number, plan, n in again.moving()}
    assert moving == {index: (0, plan.names, int(index == 0)) for index, plan in plans.items()}
    for name, atoms in again.outstanding.items():
        again.take_label(name, labelled(atoms, name))
    again.take_sample(*second)
    assert again.walkers()[0].state.n_steps == 120
    third = ground.record(n_states=8, n_frames=2)
    assert third.walkers()[0].state.positions.tolist() == second[1].walker.state.positions.tolist()
    assert set(third.outstanding) >= set(structures)  # labels of a former run come from the store once more
    assert first_difference(Journal(ground.directory.journal).read()) is None


def test_a_walker_that_runs_ahead_continues_within_its_round_where_the_process_has_died(ground):
    given = {"n_states": 8, "labels_ahead": 16, "min_difference_A": 0}
    record = ground.record(**given)
    ((name, sample),) = ground.walk(record, begun(record)[0])
    record.take_sample(name, sample)
    (plan,) = begun(record).values()
    assert (name, plan.names) == ("g001-w000-0", ("g001-w000-1",))
    again = ground.record(**given)
    restored = {plan.walker.index: (plan, n_returned) for _, plan, n_returned in again.moving()}
    assert {index: plan.names for index, (plan, _) in restored.items()} == {
        0: ("g001-w000-1",),
        **{index: (f"g001-w00{index}-0",) for index in (1, 2, 3)},
    }
    assert walker_digest(restored[0][0].walker) == walker_digest(plan.walker)
    assert {n_returned for _, n_returned in restored.values()} == {0}
    assert [turn.first for turn in Journal(ground.directory.journal).read() if isinstance(turn, WalkerBegins)][-1] == 1


def test_samples_that_come_at_once_are_decided_on_one_by_one(ground):
    record = ground.record(n_states=4, labels_ahead=12, min_difference_A=0)
    plans = begun(record)
    for plan in plans.values():  # as a batch of walkers returns them
        for sample in ground.walk(record, plan):
            record.take_sample(*sample)
    assert list(begun(record)) == [0, 1, 2, 3]
    assert first_difference(Journal(ground.directory.journal).read()) is None


SELECTED = {"select": "random", "n_frames": 3, "min_difference_A": 0, "valid_fraction": 0.0, "test_fraction": 0.0}


def chosen(*names: str) -> Chosen:
    return Chosen(labels=names, scores=(0.5,) * len(names), selector="random", generation=0)


def test_candidates_are_there_again_after_the_process_has_died_also_those_of_learned_samples(ground):
    record = ground.record(n_states=2, **SELECTED)
    plans = begun(record)
    for plan in plans.values():
        for sample in ground.walk(record, plan):
            assert record.take_sample(*sample) == {}  # a selector has yet to choose
    first, second = (names[0] for names in (plan.names for plan in plans.values()))
    assert [decision.n for decision in record.decide()] == [2]
    again = ground.record(n_states=2, **SELECTED)
    assert again.candidates == record.candidates
    assert len(again.candidates) > 4
    frame = next(name for name in again.candidates if name.startswith(f"{first}-step-"))
    requested = again.take_choice(chosen(frame, first))
    assert list(requested) == [frame, first]
    assert list(again.requested) == [requested[first], requested[frame]]
    third = ground.record(n_states=2, **SELECTED)
    assert third.outstanding == again.outstanding == requested
    for name, atoms in third.outstanding.items():
        third.take_label(name, labelled(atoms, name))
    assert third.may_train
    roles = [(each.name, each.role, each.moved_on, each.score) for each in third.samples_in_training()]
    assert roles == [(first, "chosen", 0, 0.5), (second, "candidate", 0, None), (frame, "chosen", 0, 0.5)]
    third.end_generation(1, 2)
    left = third.candidates
    assert set(left) == set(record.candidates) - {frame, first}
    assert ground.record(number=1, n_states=2, **SELECTED).candidates == left


def test_candidates_that_expire_are_known_structures_no_longer(ground):
    record = ground.record(n_states=2, **SELECTED | {"min_difference_A": 0.01})
    plans = begun(record)
    for plan in plans.values():
        for sample in ground.walk(record, plan):
            record.take_sample(*sample)
    expiring = list(record.candidates.values())[-1]
    assert not record._is_new("again", expiring)
    names = list(record.candidates)[:2]
    record.take_choice(chosen(*names))
    for name, atoms in record.outstanding.items():
        record.take_label(name, labelled(atoms, name))
    record.end_generation(1, 2)
    assert not record._is_new("again", expiring)
    record.end_generation(2, 2)
    assert record.candidates == {}
    assert record._is_new("again", expiring)


def test_samples_are_returned_with_their_labels_when_all_of_them_are_there(ground):
    record = ground.record(n_states=2, n_frames=1)
    plans = begun(record)
    for plan in plans.values():
        for name, sample in ground.walk(record, plan):
            for label, atoms in record.take_sample(name, sample).items():
                assert not record.may_train
                record.take_label(label, labelled(atoms, label))
    begun(record)
    assert record.may_train
    samples = record.samples_in_training()
    assert [each.name for each in samples if each.sample is not None] == ["g001-w000-0", "g001-w001-0"]
    assert len(samples) == 4  # and a frame of each
    assert all(each.key == f"v1:{each.name}" for each in samples)
    assert {each.moved_on for each in samples if each.sample is not None} == {0}
    record.end_generation(1, 4)
    assert (record.schedule.samples, record.samples_in_training()) == ({}, [])


def test_a_walker_that_is_to_be_reset_begins_at_its_start_in_this_run_and_in_the_next(ground):
    record = ground.record(n_states=4, min_difference_A=0)
    for plan in begun(record).values():
        for name, sample in ground.walk(record, plan):
            for label, atoms in record.take_sample(name, sample).items():
                record.take_label(label, labelled(atoms, label))
    begun(record)
    record.record(ResetsDue(samples=("g001-w001-0",)))
    walkers = record.walkers()
    assert [walker.n_resets for walker in walkers] == [0, 1, 0, 0]
    assert walkers[1].state is None
    record.end_generation(1, 4)
    plans = begun(record)
    assert [plan.walker.n_resets for plan in plans.values()] == [0, 1, 0, 0]
    again = ground.record(number=1, n_states=4, min_difference_A=0)
    for (_, plan, _), before in zip(again.moving(), plans.values(), strict=True):
        assert walker_digest(plan.walker) == walker_digest(before.walker)


def test_a_generation_whose_end_was_not_recorded_is_complete_by_its_manifest(ground):
    record = ground.record(n_states=1)
    ((name, sample),) = ground.walk(record, begun(record)[0])
    record.take_sample(name, sample)
    record.take_label(name, labelled(sample.structure, name))
    assert begun(record) == {}
    assert record.schedule.training == (name,)
    data = DataSets(train=Dataset([labelled(sample.structure, name)]))
    again = ground.record(data, number=1, n_states=1)
    assert (again.schedule.generation, again.schedule.training, again.schedule.n_labels) == (1, None, 1)
    assert [plan.names for plan in begun(again).values()] == [("g002-w001-0",)]


def test_a_generation_that_an_earlier_surveyor_has_begun_keeps_its_plan_and_its_near_duplicates(ground):
    folder = ground.directory.generation(3)
    write_json(folder.path / "plan.json", {"schema_version": 1, "n_samples": [2, 1, 1, 0]})
    EventLog(folder.duplicates).append(NearDuplicate(name="g003-w000-1"))
    record = ground.record(number=2)
    plans = begun(record)
    assert list(plans) == [0, 1, 2]
    assert plans[0].names == ("g003-w000-0", "g003-w000-1")
    first, second = ground.walk(record, plans[0])
    assert list(record.take_sample(*first)) == ["g003-w000-0"]
    assert record.take_sample(*second) == {}


def test_generations_that_another_surveyor_has_added_or_a_person_has_removed_begin_anew(ground):
    ground.record()
    later = ground.record(number=4)
    assert begun(later)[0].names == ("g005-w000-0",)
    earlier = ground.record(number=1)
    assert earlier.schedule.generation == 1
    assert begun(earlier)[0].names == ("g006-w000-0",)  # no name is used twice


def test_a_journal_of_a_newer_surveyor_is_refused(ground):
    ground.record()
    line = ground.directory.journal.read_text().splitlines()[-1]
    with ground.directory.journal.open("a") as file:
        file.write(line.replace('"version":1', '"version":2') + "\n")
    with pytest.raises(InputError, match=r"journal.jsonl: entry 3 is of a newer surveyor"):
        ground.record()


def test_a_walker_on_a_ramp_continues_from_its_place_after_the_process_has_died(tmp_path):
    ase.io.write(tmp_path / "start.extxyz", Octahedron("Cu", 2))
    pull = {"variable": "distance", "atoms": (0, 1), "centre": 1, "force_constant": 5.0}
    moves = {"variable": "distance(0,1)", "minimum": 2.5, "maximum": 3.0, "moves": True}
    ramp = {"restraints": [pull], "distribution": moves, "ramp_by": "labels", "ramp_labels": 5}
    group = Walkers(start=tmp_path / "start.extxyz", n_walkers=2, timestep_fs=3, n_steps=20, **ramp)
    ground = Ground(RunDirectory(tmp_path / "run"), make_walkers([group], seed=1))
    record = ground.record(labels_ahead=4)
    brought = [each for plan in begun(record).values() for each in ground.walk(record, plan)]
    for name, sample in brought:
        assert sample.structure.info["window_centre"] == 2.5
        record.take_sample(name, sample)
        record.take_label(name, labelled(sample.structure, name))
    plans = begun(record)  # while the first samples are learned
    assert [plan.walker.n_good_labels for plan in plans.values()] == [0, 0]
    record.record(ResetsDue(samples=("g001-w001-0",), good=("g001-w000-0",)))
    assert [(walker.n_good_labels, walker.progress) for walker in record.walkers()] == [(1, 0.2), (0, 0)]

    again = ground.record(labels_ahead=4)
    for (_, plan, _), before in zip(again.moving(), plans.values(), strict=True):
        assert walker_digest(plan.walker) == walker_digest(before.walker)
    ((name, sample),) = ground.walk(again, plans[0])
    again.take_sample(name, sample)
    for name in again.schedule.training:
        again.take_label(name, labelled(brought[0][1].structure, name))
    again.end_generation(1, 2)
    (plan,) = begun(again).values()
    assert (plan.walker.n_good_labels, plan.walker.window["centre"]) == (1, 2.6)
    third = ground.record(number=1, labels_ahead=4)
    (other,) = [each for _, each, _ in third.moving() if each.walker.index == 0]
    assert walker_digest(other.walker) == walker_digest(plan.walker)


def test_a_walker_that_a_guard_has_reset_is_at_the_start_of_its_ramp(ground):
    ground.walkers = tuple(replace(walker, n_good_labels=3) for walker in ground.walkers)
    record = ground.record()
    ((name, sample),) = ground.walk(record, begun(record)[0])
    record.take_sample(name, replace(sample, rejections=(Rejection("force", 3, 50.0, 40.0),)))
    assert [turn.n_good_labels for turn in record.schedule.walkers] == [0, 3, 3, 3]


def test_samples_that_guards_of_a_former_run_have_rejected_are_told_apart(ground):
    rejection, ahead = Rejection("force", 3, 50.0, 40.0), {"labels_ahead": 12, "n_states": 4}

    def reject(record: SurveyRecord) -> None:
        for name in [name for walker in record.schedule.walkers for name in walker.moving]:
            status, folder = record.schedule.samples[name], ground.directory.generation
            sample = Sample(ground.walkers[status.walker], None, rejections=(rejection,))
            save_sample(SampleFiles(folder(status.round).samples, name).sample, sample, origin=sample.walker)
            record.take_sample(name, sample)

    record = ground.record(**ahead)
    begun(record)
    assert not record.is_of_former_guards
    reject(record)
    begun(record)  # they are under way when the run ends
    assert record.schedule.training is not None
    assert not record.is_of_former_guards
    record.end_generation(0, 0)

    again = ground.record(**ahead)
    reject(again)
    begun(again)
    assert again.is_of_former_guards
    again.end_generation(0, 0)
    assert not again.is_of_former_guards
    ((good, sample), *_) = ground.walk(again, next(again.moving())[1])
    for name, atoms in again.take_sample(good, sample).items():
        again.take_label(name, labelled(atoms, name))
    reject(again)
    assert good in again.schedule.training
    assert not again.is_of_former_guards
    assert first_difference(Journal(ground.directory.journal).read()) is None


def test_walkers_that_another_campaign_has_moved_along_their_ramps_are_there_in_the_journal(ground):
    ground.walkers = tuple(replace(walker, n_good_labels=index) for index, walker in enumerate(ground.walkers))
    plans = begun(ground.record())
    assert [plan.walker.n_good_labels for plan in plans.values()] == [0, 1, 2, 3]
    assert Journal(ground.directory.journal).read()[0].n_good_labels == (0, 1, 2, 3)
