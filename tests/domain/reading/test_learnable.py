from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, molecule
from labelling_inputs import written

from surveyor.dataset import ENERGY, FORCES
from surveyor.errors import InputError
from surveyor.reading import read_labelled
from surveyor.reading.learnable import TrainingData, learnable


def labelled(atoms: Atoms, energy: float, **info: Any) -> Atoms:
    copy = atoms.copy()
    copy.info.update(info)
    copy.info[ENERGY] = energy
    copy.arrays[FORCES] = np.zeros((len(copy), 3))
    if len(copy) > 1:
        copy.arrays[FORCES][:2] = [[0, 0, 0.1], [0, 0, -0.1]]
    return copy


def waters(n_structures: int, first: int = 0) -> list[Atoms]:
    structures = [molecule("H2O") for _ in range(n_structures)]
    for seed, atoms in enumerate(structures, first):
        atoms.rattle(0.05, seed=seed)
    return [labelled(atoms, -137.0) for atoms in structures]


@pytest.fixture
def read(tmp_path: Path) -> Any:
    def read(allow_leaks: bool = False, **files: list[Atoms]) -> dict[str, TrainingData]:
        readings = {
            name: read_labelled(written(tmp_path / f"{name}.extxyz", structures), name)
            for name, structures in files.items()
        }
        return learnable(readings, allow_leaks=allow_leaks)

    return read


def test_isolated_atoms_are_set_apart_and_reported_in_the_same_line(read: Any) -> None:
    atoms = [labelled(Atoms("H"), -13.0, config_type="IsolatedAtom"), labelled(Atoms("O"), -102.0)]
    (data,) = read(train=[*waters(2), *atoms, *waters(2, 2)]).values()
    assert [len(each) for each in data.structures] == [3] * 4
    assert data.indices.tolist() == [0, 1, 4, 5]
    assert data.atomic_energies == {"H": -13.0, "O": -102.0}
    assert data.report.lines == [
        "train: train.extxyz: 6 structures; used: REF_energy, REF_forces, config_type; "
        "2 isolated atoms are left out; atomic energies from them: H -13.0000 eV, O -102.0000 eV"
    ]


def test_atoms_in_boxes_are_isolated_where_that_is_said(read: Any) -> None:
    boxed = Atoms("O", cell=[12, 12, 12], pbc=True)
    (data,) = read(train=[*waters(2), labelled(boxed, -102.0)]).values()
    assert len(data.structures) == 3
    assert data.report.warnings == [
        "train: train.extxyz: a single atom in a periodic box of 6 Å or more, taken as a crystal; if it gives the "
        "atomic energy, write config_type=IsolatedAtom or pbc F F F (1 structure, the first is 2)"
    ]
    (data,) = read(train=[*waters(2), labelled(boxed, -102.0, config_type="IsolatedAtom")]).values()
    assert data.atomic_energies == {"O": -102.0}
    with pytest.raises(InputError, match=r"structure 0 of .* is an isolated atom by its config_type, but has images"):
        read(train=[labelled(bulk("Cu"), -3.0, config_type="IsolatedAtom")])


@pytest.mark.parametrize(
    ("structure", "warning"),
    [
        (labelled(Atoms("O"), -90.0, charge=1), "a single atom with a charge, left out"),
        (labelled(Atoms("C"), -1000.0), "no structure holds C, whose isolated atoms are not used"),
        (
            labelled(molecule("O2"), -210.0, config_type="IsolatedAtom"),
            "config_type is IsolatedAtom, but there are sev",
        ),
    ],
)
def test_what_gives_no_atomic_energy_is_said(read: Any, structure: Atoms, warning: str) -> None:
    (data,) = read(train=[*waters(2), structure]).values()
    (line,) = data.report.warnings
    assert line.startswith(f"train: train.extxyz: {warning}")
    assert line.endswith("(1 structure, the first is 2)")


def test_an_ion_gives_no_atomic_energy_where_its_spin_is_that_of_another_program(read: Any) -> None:
    ion = labelled(Atoms("Na"), -5.0, total_charge=1, spin=0)
    (data,) = read(train=[*waters(2), labelled(Atoms("H"), -13.0), ion]).values()
    assert data.atomic_energies == {"H": -13.0}


def test_atomic_energies_are_told_where_there_are_some_and_they_count(read: Any) -> None:
    ion, atom = labelled(Atoms("O"), -90.0, charge=1), labelled(Atoms("O"), -102.0)
    (data,) = read(train=[*waters(2), ion]).values()
    assert data.report.summary.endswith("; 1 isolated atom is left out")
    (data,) = read(replay=[*waters(2), atom]).values()  # of another level of theory
    assert data.report.summary.endswith("; 1 isolated atom is left out")


def test_isolated_atoms_alone_are_nothing_to_learn_from(read: Any) -> None:
    with pytest.raises(InputError, match=r"valid: .*valid\.extxyz holds isolated atoms alone"):
        read(train=waters(2), valid=[labelled(Atoms("O"), -102.0)])


def test_test_data_of_other_sets_are_refused_unless_that_is_allowed(read: Any) -> None:
    moved = waters(4)[3]
    moved.translate([1.0, 0.0, 0.0])
    sets = {
        "train": [labelled(Atoms("H"), -13.0), *waters(4)],
        "valid": waters(2, 4),
        "test": [*waters(2, 6), moved, waters(1, 4)[0]],
    }
    message = (
        r"test: structure 2 of .*test\.extxyz \(test\) is the same as structure 4 of .*train\.extxyz \(train\), "
        r"and so 2 of 4 structures for tests are in other sets, too; .* or set allow_leaks: true"
    )
    with pytest.raises(InputError, match=message):
        read(**sets)
    data = read(allow_leaks=True, **sets)
    assert [line.split(": ", 2)[2] for line in data["test"].report.warnings] == [
        "the same structure as one of train (1 structure, the first is 2)",
        "the same structure as one of valid (1 structure, the first is 3)",
    ]


def test_validation_data_in_the_training_data_are_warned_of(read: Any) -> None:
    data = read(train=waters(4), valid=waters(2, 3))
    assert data["train"].report.warnings == []
    assert data["valid"].report.warnings == [
        "valid: valid.extxyz: the same structure as one of train (1 structure, the first is 0)"
    ]


def test_copies_are_counted_in_their_own_set_and_can_be_left_out(read: Any) -> None:
    atom = labelled(Atoms("H"), -13.0)
    data = read(train=waters(3), valid=[atom, *waters(2, 3), *waters(2, 3), *waters(1, 5)])["valid"]
    assert data.first_copies.tolist() == [0, 1, 0, 1, 4]
    assert data.report.warnings == [
        "valid: valid.extxyz: the same structure as one before, maybe moved: 3, 4 (2 structures, the first is 3)"
    ]
    kept = data.without_copies()
    assert kept.indices.tolist() == [1, 2, 5]
    assert kept.report.summary.endswith("; 2 copies are left out")
    assert kept.without_copies() is kept


def test_indices_are_those_of_the_file_where_weights_leave_structures_out(read: Any) -> None:
    left_out, *others = waters(3)
    left_out.info["config_weight"] = 0.0
    charged = labelled(Atoms("H"), -13.0, charge=1)
    report = read(train=[left_out, *others, others[0].copy(), charged])["train"].report
    firsts = {finding.text.partition(",")[0]: finding.first for finding in report.findings}
    assert firsts["the same structure as one before"] == 3
    assert firsts["a single atom with a charge"] == 4
