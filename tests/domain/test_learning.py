import random

import numpy as np
import pytest
from ase.build import bulk, molecule
from pydantic import ValidationError

from surveyor.dataset import KEY, Dataset, DataSets, with_label
from surveyor.dataset.metrics import StructureError, structure_error
from surveyor.labels import Label, LabelFailure
from surveyor.learning.decisions import (
    LearningProgress,
    decide_membership,
    must_reset,
    perturbed_starts,
    reason_to_stop,
    without_repetitions,
)
from surveyor.learning.parameters import Bootstrap, Learning
from surveyor.potentials import Prediction
from surveyor.sampling.conditions import Walkers
from surveyor.sampling.walkers import Walker

SMALL, LARGE = StructureError(1.0, 10.0), StructureError(50.0, 1000.0)
NO_NUMBER = StructureError(float("nan"), 1.0)


def labelled(number):
    # Keys like hashes: their order has nothing to do with the number.
    key = f"v1:{random.Random(number).getrandbits(256):064x}"
    return with_label(molecule("H2O"), key, Label(-float(number), np.zeros((3, 3))))


def numbered(n_structures, first=0):
    return Dataset(labelled(number) for number in range(first, first + n_structures))


def sizes(sets):
    return len(sets.train), len(sets.valid), len(sets.test)


def test_quotas_are_fractions_of_all_structures():
    assert sizes(decide_membership(numbered(50), {}, DataSets(), Learning())) == (40, 5, 5)


@pytest.mark.parametrize("n_structures", [3, 4, 8, 20])
def test_a_generation_of_three_or_more_brings_something_to_every_set(n_structures):
    data = DataSets(train=numbered(10, 100), valid=numbered(40, 200), test=numbered(40, 300))
    n_train, n_valid, n_test = sizes(decide_membership(numbered(n_structures), {}, data, Learning()))
    assert (n_valid, n_test) == (1, 1)
    assert n_train == n_structures - 2


@pytest.mark.parametrize("n_structures", [1, 2, 3])
def test_the_first_structures_leave_something_for_training(n_structures):
    for fractions in ((0.49, 0.5), (0.9, 0.05), (0.05, 0.9)):
        learning = Learning(valid_fraction=fractions[0], test_fraction=fractions[1])
        assert len(decide_membership(numbered(n_structures), {}, DataSets(), learning).train) >= 1


def test_of_three_new_structures_one_is_left_for_training_whatever_the_others_lack():
    data = DataSets(train=numbered(10, 100))
    learning = Learning(valid_fraction=0.49, test_fraction=0.5)
    assert sizes(decide_membership(numbered(3), {}, data, learning)) == (1, 1, 1)
    assert sizes(decide_membership(numbered(2), {}, data, learning)) == (0, 2, 0)  # of fewer, none need be


@pytest.mark.parametrize("n_each", [1, 2, 5])
def test_sets_approach_their_fractions_over_generations_of_any_size(n_each):
    learning, data = Learning(valid_fraction=0.4, test_fraction=0.3), DataSets()
    for generation in range(60 // n_each):
        data += decide_membership(numbered(n_each, n_each * generation), {}, data, learning)
    assert len(data.keys()) == 60
    np.testing.assert_allclose(sizes(data), (18, 24, 18), atol=2)


def test_membership_is_for_good_and_new_structures_only():
    learning, data = Learning(), DataSets()
    fates = {}
    for generation in range(6):
        data += decide_membership(numbered(7, 7 * generation), {}, data, learning)
        for name in ("train", "valid", "test"):
            for key in getattr(data, name).keys():  # noqa: SIM118  (a dataset is no dict)
                assert fates.setdefault(key, name) == name
    assert len(fates) == 42


def test_membership_does_not_depend_on_the_order_of_arrival():
    structures = list(numbered(20))
    sets = decide_membership(Dataset(structures), {}, DataSets(), Learning())
    random.Random(0).shuffle(structures)
    shuffled = decide_membership(Dataset(structures), {}, DataSets(), Learning())
    for name in ("train", "valid", "test"):
        assert getattr(shuffled, name).keys() == getattr(sets, name).keys()


def test_what_a_selector_has_chosen_is_for_training_only():
    structures = numbered(20)
    audits = set(structures[:6].keys())
    sets = decide_membership(structures, {}, DataSets(), Learning(), audits)
    assert sizes(sets) == (16, 2, 2)
    assert {*sets.valid.keys(), *sets.test.keys()} <= audits
    few = decide_membership(structures, {}, DataSets(), Learning(), structures[:1].keys())
    assert sizes(few) == (19, 0, 1)
    assert sizes(decide_membership(structures, {}, DataSets(), Learning(), ())) == (20, 0, 0)


def test_zero_fractions_give_empty_sets():
    assert sizes(decide_membership(numbered(9), {}, DataSets(), Learning(valid_fraction=0, test_fraction=0))) == (
        9,
        0,
        0,
    )
    assert sizes(decide_membership(numbered(9), {}, DataSets(), Learning(test_fraction=0))) == (8, 1, 0)


def test_fractions_that_leave_nothing_are_refused():
    with pytest.raises(ValidationError, match=r"leave nothing to train on: found 0.5 and 0.5, expected a sum below 1"):
        Learning(valid_fraction=0.5, test_fraction=0.5)


@pytest.mark.parametrize("error", [LARGE, NO_NUMBER, StructureError(1.0, float("inf"))])
def test_structures_far_off_are_discarded_and_count_for_no_quota(error):
    structures = numbered(10)
    sets = decide_membership(structures, {structures[4].info[KEY]: error}, DataSets(), Learning())
    assert sets.discarded.keys() == (structures[4].info[KEY],)
    assert sum(sizes(sets)) == 9


def test_failed_structures_come_to_no_set_that_is_trained_on():
    failed = with_label(molecule("H2O"), "v1:ff", LabelFailure("timeout", "too slow"))
    sets = decide_membership(Dataset([*numbered(4), failed]), {}, DataSets(), Learning())
    assert sets.failed.keys() == ("v1:ff",)
    assert sum(sizes(sets)) == 4


def test_no_structures_bring_nothing():
    assert decide_membership(Dataset(), {}, DataSets(train=numbered(3)), Learning()).keys() == ()


def test_reset_and_discard_are_separate_decisions():
    error, structures = StructureError(15.0, 100.0), numbered(1)
    by_key = {structures[0].info[KEY]: error}
    assert must_reset(error, Learning())
    assert len(decide_membership(structures, by_key, DataSets(), Learning()).discarded) == 0
    eager = Learning(reset_energy_meV_per_atom=100, discard_energy_meV_per_atom=12)
    assert not must_reset(error, eager)
    assert len(decide_membership(structures, by_key, DataSets(), eager).discarded) == 1


@pytest.mark.parametrize("error", [LARGE, NO_NUMBER, StructureError(11.0, 0.0), StructureError(0.0, 201.0)])
def test_either_error_above_its_threshold_resets(error):
    assert must_reset(error, Learning())
    assert not must_reset(SMALL, Learning())
    assert not must_reset(StructureError(10.0, 200.0), Learning())  # at both thresholds


def test_the_error_of_a_structure_is_per_atom_and_per_component():
    atoms = with_label(molecule("H2O"), "v1:00", Label(-10.0, np.ones((3, 3))))
    forces = np.ones((3, 3))
    forces[1, 2] = 1.3
    error = structure_error(atoms, Prediction(-10.006, forces))
    assert error.energy == pytest.approx(2.0)
    assert error.forces == pytest.approx(100.0)


@pytest.mark.parametrize("name", ["energy", "forces"])
def test_a_label_that_does_not_count_has_no_error(name):
    atoms = with_label(molecule("H2O"), "v1:00", Label(-10.0, np.ones((3, 3))))
    atoms.info[f"config_{name}_weight"] = 0.0
    error = structure_error(atoms, Prediction(-9.0, np.zeros((3, 3))))
    assert (error.energy == 0, error.forces == 0) == (name == "energy", name == "forces")


def test_known_and_repeated_structures_are_left_out():
    structures = numbered(4)
    fresh = without_repetitions(structures + structures[:2], [structures[3].info[KEY]])
    assert fresh.keys() == structures[:3].keys()


BOTH = Learning(n_generations=5, max_labels=100, target_energy_meV_per_atom=2, target_forces_meV_per_A=50)


@pytest.mark.parametrize(
    ("progress", "reason"),
    [
        (LearningProgress(0, 0), None),
        (LearningProgress(5, 0), "all 5 generations are complete"),
        (LearningProgress(1, 100), "the budget of 100 labels is used up"),
        (LearningProgress(1, 50, 0.001, 0.03), "the error before training is below its target"),
        (LearningProgress(1, 50, 0.002, 0.05), "the error before training is below its target"),
        (LearningProgress(1, 50, 0.001, 0.06), None),
        (LearningProgress(1, 50, 0.003, 0.03), None),
        (LearningProgress(1, 50, 0.001, None), None),
    ],
)
def test_a_campaign_ends_for_a_reason(progress, reason):
    assert reason_to_stop(progress, BOTH) == reason


def test_a_campaign_of_one_generation_or_one_label_ends_for_a_reason_in_the_singular():
    assert (
        reason_to_stop(LearningProgress(1, 0), Learning(n_generations=1)) == "the one requested generation is complete"
    )
    assert reason_to_stop(LearningProgress(0, 1), Learning(max_labels=1)) == "the budget of 1 label is used up"


def test_without_targets_no_error_is_good_enough():
    assert reason_to_stop(LearningProgress(1, 50, 0.0, 0.0), Learning()) is None


def walkers_of(tmp_path):
    conditions = Walkers(start=tmp_path / "unused.xyz")
    return [Walker(0, molecule("H2O"), conditions, 1), Walker(1, bulk("Cu", cubic=True), conditions, 2)]


def test_walkers_take_turns_in_the_bootstrap_and_all_perturbations_differ(tmp_path):
    starts = perturbed_starts(walkers_of(tmp_path), Bootstrap(n_structures=5), seed=3)
    assert [str(atoms.symbols) for atoms in starts] == ["OH2", "Cu4", "OH2", "Cu4", "OH2"]
    assert len({atoms.positions.tobytes() for atoms in starts}) == 5
    assert np.ptp(starts[1].cell.lengths()) > 0


def test_perturbations_follow_from_the_seed_and_more_of_them_keep_the_first(tmp_path):
    walkers = walkers_of(tmp_path)
    few = perturbed_starts(walkers, Bootstrap(n_structures=3), seed=3)
    many = perturbed_starts(walkers, Bootstrap(n_structures=6), seed=3)
    other = perturbed_starts(walkers, Bootstrap(n_structures=3), seed=4)
    assert few == many[:3]
    assert few[0] != other[0]


def test_displacements_have_the_amplitude(tmp_path):
    walkers = walkers_of(tmp_path)[:1]
    starts = perturbed_starts(walkers, Bootstrap(n_structures=400, amplitude_A=0.1), seed=0)
    displacements = np.array([atoms.positions - walkers[0].start.positions for atoms in starts])
    # The standard deviation of n normal numbers scatters by 1/sqrt(2n), here by 1.2 %.
    assert displacements.std() == pytest.approx(0.1, rel=0.05)


def test_data_without_their_level_of_theory_are_refused():
    with pytest.raises(ValidationError, match="together; found data without level_of_theory"):
        Bootstrap(data="data.extxyz")
    with pytest.raises(ValidationError, match="found level_of_theory without data"):
        Bootstrap(level_of_theory="EMT")
