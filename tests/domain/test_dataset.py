import numpy as np
import pytest
from ase.build import bulk, molecule
from ase.calculators.emt import EMT

from surveyor.dataset import (
    ENERGY,
    FAILURE,
    FORCES,
    GIVEN,
    KEY,
    MESSAGE,
    OUTPUT,
    STRESS,
    Dataset,
    DataSets,
    is_labelled,
    label_of,
    with_label,
    without_label,
)
from surveyor.labels import Label, LabelFailure

STRUCTURES = [molecule("H2O"), bulk("Cu", cubic=True), molecule("CH4")]


def labelled(atoms, number=0):
    forces = np.random.default_rng(number).normal(size=(len(atoms), 3)).round(8)
    stress = np.arange(6) / 7 if atoms.pbc.all() else None
    return with_label(atoms, f"v1:{number:064x}", Label(-1 / 3 - number, forces, stress))


def failed(atoms, number=0, reason="timeout"):
    return with_label(atoms, f"v1:{number:064x}", LabelFailure(reason, "too slow", output="/scratch/of calculation 1"))


def numbered(n_structures, first=0):
    return Dataset(labelled(STRUCTURES[number % 3], number) for number in range(first, first + n_structures))


def test_a_dataset_does_not_change():
    given = list(STRUCTURES)
    dataset = Dataset(given)
    given.pop()
    assert len(dataset) == 3
    with pytest.raises(TypeError):
        dataset[0] = given[0]
    assert not hasattr(dataset, "append")


def test_a_slice_and_a_sum_are_datasets_and_leave_their_parts_alone():
    dataset = Dataset(STRUCTURES)
    both = dataset[1:] + STRUCTURES[:1]
    assert isinstance(dataset[:2], Dataset)
    assert isinstance(both, Dataset)
    assert [str(atoms.symbols) for atoms in both] == ["Cu4", "CH4", "OH2"]
    assert dataset[-1] is STRUCTURES[-1]
    assert len(dataset) == 3


@pytest.mark.parametrize(("fraction", "n_first"), [(0, 0), (0.1, 1), (0.19, 1), (0.5, 5), (1, 10)])
def test_a_split_keeps_the_order_and_every_structure(fraction, n_first):
    dataset = numbered(10)
    first, rest = dataset.split(fraction)
    assert len(first) == n_first
    assert first.keys() + rest.keys() == dataset.keys()


def test_labelled_and_failed_structures_are_kept_apart():
    dataset = Dataset([labelled(STRUCTURES[0]), failed(STRUCTURES[1], 1), STRUCTURES[2]])
    assert [str(atoms.symbols) for atoms in dataset.labelled()] == ["OH2"]
    assert [str(atoms.symbols) for atoms in dataset.failed()] == ["Cu4"]


def test_keys_are_those_of_the_structures_that_have_one():
    dataset = Dataset([labelled(STRUCTURES[0], 7), STRUCTURES[2], failed(STRUCTURES[1], 10)])
    assert dataset.keys() == (f"v1:{7:064x}", f"v1:{10:064x}")


def test_a_dataset_says_how_many_structures_it_has():
    assert repr(Dataset(STRUCTURES)) == "Dataset of 3 structures"


def test_the_order_of_keys_does_not_depend_on_who_came_first():
    dataset = numbered(5)
    assert Dataset(reversed(dataset)).ordered_by_key().keys() == dataset.keys()


def test_a_structure_carries_the_label_it_was_given():
    label = label_of(labelled(STRUCTURES[1], 4))
    assert label.energy == -1 / 3 - 4
    np.testing.assert_array_equal(label.stress, np.arange(6) / 7)
    with pytest.raises(ValueError, match="carries no label: expected REF_energy and REF_forces"):
        label_of(STRUCTURES[0])


def test_a_stress_that_a_structure_cannot_have_is_no_part_of_its_label():
    atoms = labelled(STRUCTURES[0])
    atoms.info[STRESS] = np.zeros(6)
    assert label_of(atoms).stress is None


@pytest.mark.parametrize("missing", ["energy", "forces"])
def test_half_a_label_is_none(missing):
    atoms = labelled(STRUCTURES[0])
    if missing == "energy":
        del atoms.info[ENERGY]
    else:
        del atoms.arrays[FORCES]
    assert not is_labelled(atoms)


@pytest.mark.parametrize("output", ["/scratch/1", None])
def test_a_failed_structure_carries_reason_message_and_output(output):
    atoms = with_label(STRUCTURES[0], None, LabelFailure("timeout", "too slow", output=output))
    expected = {FAILURE: "timeout", MESSAGE: "too slow"} | ({} if output is None else {OUTPUT: output})
    assert atoms.info == expected


@pytest.mark.parametrize("give", [labelled, failed, lambda atoms: atoms])
def test_without_its_label_a_structure_is_what_it_was(give):
    atoms = bulk("Cu", cubic=True)
    atoms.info["name"] = "copper"
    atoms.info[GIVEN] = "data.extxyz"
    before = give(atoms)
    bare = without_label(before)
    assert bare.info == {"name": "copper"}
    assert set(bare.arrays) == {"numbers", "positions"}
    assert (bare, bare.pbc.tolist()) == (bulk("Cu", cubic=True), [True] * 3)
    assert before.info[GIVEN] == "data.extxyz"  # a copy


def test_giving_a_label_leaves_the_structure_alone():
    labelled(STRUCTURES[0])
    assert not is_labelled(STRUCTURES[0])
    assert not STRUCTURES[0].info


def test_an_extxyz_file_keeps_compositions_periodicities_labels_and_failures(tmp_path):
    single = labelled(molecule("H"), 5)
    dataset = Dataset([*numbered(3), failed(STRUCTURES[0], 3), single])
    dataset.save(tmp_path / "mixed.extxyz")
    loaded = Dataset.load(tmp_path / "mixed.extxyz")
    assert loaded.keys() == dataset.keys()
    for before, after in zip(dataset, loaded, strict=True):
        assert after.pbc.tolist() == before.pbc.tolist()
        assert after.info.get(FAILURE) == before.info.get(FAILURE)
        assert is_labelled(after) == is_labelled(before)
    for before, after in zip(dataset.labelled(), loaded.labelled(), strict=True):
        assert label_of(after).energy == label_of(before).energy
        np.testing.assert_array_equal(label_of(after).forces, label_of(before).forces)
        assert (label_of(after).stress is None) == (not before.pbc.all())
    np.testing.assert_allclose(label_of(loaded[1]).stress, np.arange(6) / 7, rtol=1e-15)


def test_what_a_calculator_says_does_not_get_into_a_file(tmp_path):
    atoms = bulk("Cu")
    atoms.calc = EMT()
    atoms.get_potential_energy()
    Dataset([atoms]).save(tmp_path / "copper.extxyz")
    assert "energy" not in (tmp_path / "copper.extxyz").read_text()
    assert atoms.calc is not None


def test_an_empty_dataset_is_an_empty_file(tmp_path):
    Dataset().save(tmp_path / "empty.extxyz")
    assert (tmp_path / "empty.extxyz").read_bytes() == b""
    assert len(Dataset.load(tmp_path / "empty.extxyz")) == 0


def test_the_file_of_a_dataset_may_have_any_name(tmp_path):
    for name in ("structures", "structures.json"):
        numbered(3).save(tmp_path / name)
        assert Dataset.load(tmp_path / name).keys() == numbered(3).keys()


def test_sets_grow_and_pending_ones_are_those_of_the_newest():
    old = DataSets(train=numbered(2), failed=Dataset([failed(STRUCTURES[0], 9)]), pending=numbered(1, 20))
    new = DataSets(train=numbered(1, 2), test=numbered(1, 3), pending=numbered(2, 30))
    both = old + new
    assert both.train.keys() == numbered(3).keys()
    assert len(both.failed) == 1
    assert both.pending.keys() == numbered(2, 30).keys()


def test_pending_labels_are_requested_but_not_had():
    sets = DataSets(train=numbered(2), pending=numbered(3, 10))
    assert sets.n_requested() == 5
    assert sets.keys() == numbered(2).keys()


def test_given_structures_were_not_requested():
    given = numbered(2)
    for atoms in given:
        atoms.info[GIVEN] = "data.extxyz"
    assert DataSets(train=given, valid=numbered(1, 5)).n_requested() == 1


def test_sets_come_back_from_a_folder(tmp_path):
    sets = DataSets(train=numbered(2), failed=Dataset([failed(STRUCTURES[0], 9)]), discarded=numbered(1, 4))
    sets.save(tmp_path)
    loaded = DataSets.load(tmp_path)
    assert loaded.keys() == sets.keys()
    assert loaded.failed[0].info[KEY] == sets.failed[0].info[KEY]
