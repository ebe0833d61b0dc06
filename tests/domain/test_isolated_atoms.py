from typing import Any

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, molecule

from surveyor.dataset import Dataset, with_label
from surveyor.dataset.isolated_atoms import (
    BOX_A,
    check_agreement,
    energies_of,
    is_isolated_atom,
    without_isolated_atoms,
)
from surveyor.errors import InputError
from surveyor.labels import Label

STATED = {"config_type": "IsolatedAtom"}


def atom(energy: float, symbol: str = "O", force: float = 0.0, **info: Any) -> Atoms:
    single = Atoms(symbol)
    single.info.update(info)
    return with_label(single, None, Label(energy, np.array([[0.0, 0.0, force]])))


def in_box(size_A: float, pbc: Any = True, **info: Any) -> Atoms:
    boxed = Atoms("O", cell=[size_A] * 3, pbc=pbc)
    boxed.info.update(info)
    return boxed


@pytest.mark.parametrize(
    ("atoms", "expected"),
    [
        (Atoms("O"), True),
        (Atoms("O", cell=[12, 12, 12]), True),
        (molecule("O2"), False),
        (bulk("Cu"), False),
        (in_box(20), False),
        (in_box(20, **STATED), True),
        (in_box(20, config_type="isolated_atoms"), True),
        (in_box(20, config_type="isolated molecule"), False),
        (in_box(BOX_A - 0.1, **STATED), False),
        (in_box(20, pbc=[True, False, False], **STATED), True),
    ],
)
def test_a_single_atom_is_isolated_without_periodicity_or_when_a_large_box_is_said_to_be_that(
    atoms: Atoms, expected: bool
) -> None:
    assert is_isolated_atom(atoms) == expected


def test_images_are_near_in_a_skewed_box_whose_vectors_are_long() -> None:
    skewed = Atoms("O", cell=[[8, 0, 0], [7, 3, 0], [0, 0, 9]], pbc=True)
    skewed.info.update(STATED)
    assert not is_isolated_atom(skewed)


def test_the_state_of_lowest_energy_is_the_atomic_energy() -> None:
    levels = {"singlet": atom(-100.0, multiplicity=1), "triplet": atom(-102.0, multiplicity=3)}
    assert energies_of({**levels, "hydrogen": atom(-13.0, "H")}) == {"O": -102.0, "H": -13.0}


def test_one_state_with_two_energies_is_refused() -> None:
    with pytest.raises(InputError, match=r"b and a are isolated O atoms of multiplicity 1 with .* -100\.0000"):
        energies_of({"a": atom(-102.0), "b": atom(-100.0, multiplicity=1)})
    assert energies_of({"a": atom(-102.0), "b": atom(-102.005)}) == {"O": -102.0}


def test_an_ion_gives_no_atomic_energy() -> None:
    assert energies_of({"ion": atom(-90.0, charge=1), "atom": atom(-102.0)}) == {"O": -102.0}


def test_an_isolated_atom_with_a_force_is_refused() -> None:
    with pytest.raises(InputError, match=r"a is an isolated atom with a force of 0\.3 eV/Å; expected none"):
        energies_of({"a": atom(-102.0, force=0.3)})
    assert energies_of({"a": atom(-102.0, force=0.01)}) == {"O": -102.0}


def test_an_impossible_multiplicity_of_an_isolated_atom_is_named() -> None:
    with pytest.raises(InputError, match=r"a, an isolated atom: charge is 'plus'"):
        energies_of({"a": atom(-102.0, charge="plus")})


def test_energies_that_contradict_isolated_atoms_are_refused_beyond_ten_meV() -> None:
    check_agreement({"O": -102.0, "H": -13.0}, {"O": -102.009}, "given", "mend that")
    with pytest.raises(InputError, match=r"given: found -102\.000000 eV for O, .* -102\.011000 eV; .* 10 meV .*: mend"):
        check_agreement({"O": -102.0, "H": -13.0}, {"O": -102.011}, "given", "mend that")


def test_isolated_atoms_leave_a_dataset() -> None:
    structures = Dataset([Atoms("O"), molecule("O2"), Atoms("H"), bulk("Cu")])
    assert [len(atoms) for atoms in without_isolated_atoms(structures)] == [2, 1]
