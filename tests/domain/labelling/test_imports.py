from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, molecule
from ase.calculators.emt import EMT
from ase.calculators.singlepoint import SinglePointCalculator
from labelling_inputs import copper, written

from surveyor.dataset import ENERGY, FORCES, STRESS
from surveyor.dataset.weights import WEIGHT
from surveyor.errors import InputError
from surveyor.labels import LabelStore, LevelOfTheory, label_key, save_theory
from surveyor.reading.keys import LabelKeys
from surveyor.reference.ase import EMTParameters, EMTReference
from surveyor.reference.labelling import Labeller, label_structure
from surveyor.works.labelling.imports import check_labels, import_labels, read_labels, stated_theory

REFERENCE = EMTReference()
THEORY = REFERENCE.resolve()
SOURCE = {"file": "given.extxyz", "by": "ada"}


def labelled(n_structures: int = 3, prefix: str = "REF_") -> list[Atoms]:
    """Structures with labels by ASE's EMT itself."""
    structures = copper(n_structures)
    for atoms in structures:
        probe = atoms.copy()
        probe.calc = EMT()
        atoms.info[f"{prefix}energy"] = probe.get_potential_energy()
        atoms.arrays[f"{prefix}forces"] = probe.get_forces()
        atoms.info[f"{prefix}stress"] = probe.get_stress()
    return structures


def test_imported_labels_are_found_instead_of_computed(tmp_path: Path) -> None:
    store = LabelStore.in_folder(tmp_path / "labels")
    given = read_labels(written(tmp_path / "given.extxyz", labelled()), THEORY)
    done = import_labels(given, THEORY, store, SOURCE)
    assert (done.n_new, done.n_present, done.n_repeated, done.differing) == (3, 0, 0, ())

    for atoms in copper(3):
        found = store.get(label_key(atoms, THEORY))
        assert found is not None
        computed = label_structure(
            atoms, Labeller(REFERENCE, THEORY, LabelStore.in_folder(tmp_path / "other"), tmp_path / "s")
        )
        np.testing.assert_allclose(found.energy, computed.energy, atol=1e-6)
        np.testing.assert_allclose(found.forces, computed.forces, atol=1e-6)
        np.testing.assert_allclose(found.stress, computed.stress, atol=1e-6)
        assert found.provenance == {"imported": True, **SOURCE}


def test_nothing_existing_is_overwritten_and_a_difference_is_told(tmp_path: Path) -> None:
    store = LabelStore.in_folder(tmp_path / "labels")
    structures = copper(3)
    kept = label_structure(structures[1], Labeller(REFERENCE, THEORY, store, tmp_path / "scratch"))
    given = labelled()
    given[1].info[ENERGY] += 1.0
    done = import_labels(read_labels(written(tmp_path / "given.extxyz", given), THEORY), THEORY, store, SOURCE)
    assert (done.n_new, done.n_present, done.differing) == (2, 1, (1,))
    found = store.get(label_key(structures[1], THEORY))
    assert found is not None
    assert found.energy == kept.energy
    again = import_labels(read_labels(tmp_path / "given.extxyz", THEORY), THEORY, store, SOURCE)
    assert (again.n_new, again.n_present) == (0, 3)


@pytest.mark.parametrize("prefix", ["REF_", "dft_", ""])
def test_labels_are_taken_by_their_prefix(prefix: str, tmp_path: Path) -> None:
    if prefix:
        path = written(tmp_path / "given.extxyz", labelled(prefix=prefix))
    else:
        structures = labelled()
        for atoms in structures:
            values = {"energy": atoms.info.pop(ENERGY), "forces": atoms.arrays.pop(FORCES)}
            atoms.calc = SinglePointCalculator(atoms, **values, stress=atoms.info.pop(STRESS))
        path = written(tmp_path / "given.extxyz", structures)
    given = read_labels(path, THEORY, LabelKeys(prefix=prefix))
    expected = labelled()
    for label, atoms in zip(given.labels, expected, strict=True):
        np.testing.assert_allclose(label.energy, atoms.info[ENERGY], atol=1e-6)
        np.testing.assert_allclose(label.forces, atoms.arrays[FORCES], atol=1e-6)
        np.testing.assert_allclose(label.stress, atoms.info[STRESS], atol=1e-6)


def test_a_stress_as_a_matrix_is_read(tmp_path: Path) -> None:
    (atoms,) = labelled(1)
    xx, yy, zz, yz, xz, xy = atoms.info[STRESS]
    atoms.info[STRESS] = np.array([[xx, xy, xz], [xy, yy, yz], [xz, yz, zz]])
    given = read_labels(written(tmp_path / "given.extxyz", [atoms]), THEORY)
    np.testing.assert_allclose(given.labels[0].stress, [xx, yy, zz, yz, xz, xy], atol=1e-8)


def without_energy(atoms: Atoms) -> None:
    del atoms.info[ENERGY]


def with_nan(atoms: Atoms) -> None:
    atoms.arrays[FORCES][2, 1] = np.nan


def with_lopsided_stress(atoms: Atoms) -> None:
    atoms.info[STRESS] = np.arange(9.0).reshape(3, 3)


def with_short_stress(atoms: Atoms) -> None:
    atoms.info[STRESS] = np.arange(5.0)


def with_negative_weight(atoms: Atoms) -> None:
    atoms.info[WEIGHT] = -1.0


def of_uranium(atoms: Atoms) -> None:
    atoms.symbols = "U4"


def repeated_otherwise(atoms: Atoms) -> None:
    (first,) = labelled(1)
    atoms.positions = first.positions


@pytest.mark.parametrize(
    ("spoil", "complaint"),
    [
        (without_energy, r"structure 1: found no label; expected REF_energy \(eV\)"),
        (with_nan, "structure 1: the label has numbers that are not finite"),
        (with_lopsided_stress, "structure 1: .*is not symmetric"),
        (with_short_stress, "structure 1: REF_stress has 5 components"),
        (with_negative_weight, "structure 1: config_weight is -1"),
        (of_uranium, "structure 1: EMT cannot treat U"),
        (repeated_otherwise, "structure 1 is the same as structure 0, but has another label"),
    ],
)
def test_a_file_with_one_wrong_label_is_refused_as_a_whole(spoil, complaint: str, tmp_path: Path) -> None:
    structures = labelled()
    spoil(structures[1])
    with pytest.raises(InputError, match=rf"(?s)nothing was written:.*{complaint}"):
        read_labels(written(tmp_path / "given.extxyz", structures), THEORY)


def test_a_molecule_needs_no_stress(tmp_path: Path) -> None:
    water = molecule("H2O")
    water.info[ENERGY], water.arrays[FORCES] = -1.0, np.zeros((3, 3))
    given = read_labels(written(tmp_path / "given.extxyz", [water]), THEORY)
    assert given.labels[0].stress is None


def test_a_slab_keeps_its_label_without_the_stress(tmp_path: Path) -> None:
    structures = labelled()
    structures[1].pbc = (True, True, False)
    given = read_labels(written(tmp_path / "given.extxyz", structures), THEORY)
    assert [label.stress is None for label in given.labels] == [False, True, False]
    (line,) = given.report.warnings
    assert "REF_stress not used: a stress has no meaning" in line


def test_labels_that_are_not_trusted_are_not_imported(tmp_path: Path) -> None:
    structures = labelled(4)
    structures[0].info[WEIGHT] = 0.0
    structures[2].info |= {"config_forces_weight": 0.0}
    structures[3].info[WEIGHT] = 2.0
    given = read_labels(written(tmp_path / "given.extxyz", structures), THEORY)
    assert given.indices == (1, 3)
    assert [line.split(": ", 1)[1] for line in given.report.warnings] == [
        "config_weight, or the weights of all labels, are 0: left out (1 structure, the first is 0)",
        "the weight of the energy, or that of the forces, is 0: not imported (1 structure, the first is 2)",
        "weights are no part of a label: they stay behind (1 structure, the first is 3)",
    ]
    structures[3].info[ENERGY] += 1.0
    given = read_labels(written(tmp_path / "given.extxyz", structures), THEORY)
    with pytest.raises(InputError, match=r"structure 3 of .*given.extxyz: the reference disagrees"):
        check_labels(given, REFERENCE, THEORY, 2)


def test_one_label_is_checked_at_the_smallest_structure_that_is_no_atom(tmp_path: Path) -> None:
    small = bulk("Cu").repeat((2, 1, 1))
    structures = [Atoms("Cu"), *labelled(1), small]
    for atoms in (structures[0], small):
        atoms.info[ENERGY], atoms.arrays[FORCES] = 100.0, np.zeros((len(atoms), 3))
    given = read_labels(written(tmp_path / "given.extxyz", structures), THEORY)
    with pytest.raises(InputError, match=r"structure 2 of .*given.extxyz: the reference disagrees"):
        check_labels(given, REFERENCE, THEORY, 1)


def test_a_check_tells_labels_of_another_level_of_theory(tmp_path: Path) -> None:
    given = read_labels(written(tmp_path / "given.extxyz", labelled()), THEORY)
    check_labels(given, REFERENCE, THEORY, 2)
    other = EMTReference(EMTParameters(asap_cutoff=True))
    with pytest.raises(InputError, match=r"structure 0 of .*given.extxyz: the reference disagrees"):
        check_labels(given, other, other.resolve(), 2)


def test_a_level_of_theory_is_that_of_a_campaign_or_of_a_reference(tmp_path: Path) -> None:
    save_theory(tmp_path / "level_of_theory.json", THEORY)
    saved, nothing = stated_theory(tmp_path / "level_of_theory.json")
    (tmp_path / "campaign.yaml").write_text("run_directory: run\nreference: {emt: {}}\n")
    resolved, reference = stated_theory(tmp_path / "campaign.yaml")
    assert saved.digest == resolved.digest == THEORY.digest
    assert nothing is None
    assert reference == REFERENCE


@pytest.mark.parametrize(
    ("name", "text", "complaint"),
    [
        ("none.json", None, "does not exist"),
        ("summary.json", "{}", "is no file level_of_theory.json"),
        ("empty.yaml", "codes: {}", "reference: Field required"),
        ("wrong.yaml", "reference: {emt: {cutoff: 1}}", "reference.emt.cutoff"),
    ],
)
def test_a_file_that_states_no_level_of_theory_is_refused(
    name: str, text: str | None, complaint: str, tmp_path: Path
) -> None:
    if text is not None:
        (tmp_path / name).write_text(text)
    with pytest.raises(InputError, match=complaint):
        stated_theory(tmp_path / name)


def without_forces(atoms: Atoms) -> None:
    atoms.arrays[FORCES] *= 0


def far_off(atoms: Atoms) -> None:
    atoms.info[ENERGY] += 1000.0


def with_strong_force(atoms: Atoms) -> None:
    atoms.arrays[FORCES][0] += [1e4, 0, 0]
    atoms.arrays[FORCES][1] -= [1e4, 0, 0]


def like_the_first_but_moved(atoms: Atoms) -> None:
    (first,) = labelled(1)
    atoms.positions = first.positions + 0.3
    atoms.info[ENERGY] = first.info[ENERGY] + 1.0


@pytest.mark.parametrize(
    ("spoil", "warning"),
    [
        (without_forces, "all forces are zero, which the symmetry does not ask for (1 structure, the first is 5)"),
        (far_off, "an energy far from those of the others, by up to 250 eV/atom (1 structure, the first is 5)"),
        (with_strong_force, "forces far beyond those of the others, up to 1e+04 eV/Å (1 structure, the first is 5)"),
        (like_the_first_but_moved, "the same structure as one before with another label, by up to 1 eV (1 structure, "),
    ],
)
def test_suspicious_labels_are_warned_of_and_the_first_to_be_computed(spoil, warning: str, tmp_path: Path) -> None:
    structures = labelled(9)
    spoil(structures[5])
    given = read_labels(written(tmp_path / "given.extxyz", structures), THEORY)
    (line,) = given.report.warnings
    assert warning in line
    with pytest.raises(InputError, match=r"structure 5 of .*given.extxyz: the reference disagrees"):
        check_labels(given, REFERENCE, THEORY, 1)
    check_labels(given, REFERENCE, THEORY, 0)


def test_a_charge_is_no_reason_to_suspect_a_label(tmp_path: Path) -> None:
    structures = labelled(4)
    ion = structures[0].copy()
    ion.info |= {"charge": 1, ENERGY: ion.info[ENERGY] + 7.0}
    given = read_labels(written(tmp_path / "given.extxyz", [*structures, ion]), LevelOfTheory("any", {}))
    assert len(given.labels) == 5
    assert given.report.warnings == []


def test_copies_are_told_and_no_reason_for_a_check(tmp_path: Path) -> None:
    structures = labelled(4)
    structures.append(structures[1].copy())
    structures[-1].positions += 0.5
    given = read_labels(written(tmp_path / "given.extxyz", structures), THEORY)
    assert "the same structure as one before, maybe moved (1 structure, the first is 4)" in given.report.warnings[0]
    assert given.suspicious == ()


@pytest.mark.parametrize(
    ("energies", "force", "complaint"),
    [
        (
            (1.0, 2.0),
            0.0,
            r"structure 4 .* and structure 3 .* are isolated Cu atoms of multiplicity 2",
        ),
        ((1.0, 1.0), 0.3, r"structure 3 .* is an isolated atom with a force of 0\.3"),
    ],
)
def test_isolated_atoms_that_no_training_takes_are_refused(
    energies: tuple[float, ...], force: float, complaint: str, tmp_path: Path
) -> None:
    atoms = [Atoms("Cu", positions=[[number, 0, 0]]) for number in range(2)]
    for atom, energy in zip(atoms, energies, strict=True):
        atom.info[ENERGY], atom.arrays[FORCES] = energy, np.array([[force, 0, 0]])
    with pytest.raises(InputError, match=rf"cannot be imported, nothing was written: {complaint}"):
        read_labels(written(tmp_path / "given.extxyz", [*labelled(), *atoms]), THEORY)


@pytest.mark.parametrize(
    ("stated", "pbc", "is_used"), [("IsolatedAtom", True, True), ("crystal", True, False), ("atom", False, False)]
)
def test_a_config_type_is_used_where_it_makes_an_atom_an_isolated_one(
    stated: str, pbc: bool, is_used: bool, tmp_path: Path
) -> None:
    atom = Atoms("Cu", cell=[9, 9, 9], pbc=pbc, info={ENERGY: 1.0, "config_type": stated})
    atom.arrays[FORCES] = np.zeros((1, 3))
    report = read_labels(written(tmp_path / "given.extxyz", [*labelled(), atom]), THEORY).report
    assert ("config_type" in report.used, "config_type" in report.unused) == (is_used, not is_used)
