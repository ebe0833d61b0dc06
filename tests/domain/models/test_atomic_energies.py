import numpy as np
import pytest
from ase import Atoms
from ase.build import molecule

from surveyor.dataset import Dataset, with_label
from surveyor.errors import InputError
from surveyor.labels import Label
from surveyor.models.atomic_energies import fit_atomic_energies, resolve_atomic_energies

TRUE = {"H": -13.6, "C": -1000.0, "O": -2000.0}


def with_energy(atoms: Atoms, energy: float) -> Atoms:
    return with_label(atoms, "v1:0", Label(energy, np.zeros((len(atoms), 3))))


def additive(*names: str) -> Dataset:
    molecules = [molecule(name) for name in names]
    return Dataset(with_energy(atoms, sum(TRUE[symbol] for symbol in atoms.symbols)) for atoms in molecules)


def test_additive_energies_are_recovered() -> None:
    assert fit_atomic_energies(additive("H2O", "CH4", "CO2", "CH3OH")) == pytest.approx(TRUE, abs=1e-8)


def test_energies_of_one_composition_are_shared_equally() -> None:
    water = molecule("H2O")
    dataset = Dataset([with_energy(water, -299.0), with_energy(water, -301.0)])
    assert fit_atomic_energies(dataset) == pytest.approx({"H": -100.0, "O": -100.0})


def test_what_the_compositions_leave_open_does_not_depend_on_noise() -> None:
    noise = np.random.default_rng(0).normal(0, 1e-3, 20)
    dataset = Dataset(with_energy(molecule("CH4"), -40.0 + each) for each in noise)
    assert fit_atomic_energies(dataset) == pytest.approx({"H": -8.0, "C": -8.0}, abs=1e-3)


def test_fit_needs_structures() -> None:
    with pytest.raises(InputError, match="without labelled structures"):
        fit_atomic_energies(Dataset())


def test_given_energies_are_all_taken() -> None:
    assert resolve_atomic_energies(additive("H2O"), TRUE) == TRUE


def test_a_missing_energy_is_named() -> None:
    with pytest.raises(InputError, match="no atomic energy is given for C, which the data hold"):
        resolve_atomic_energies(additive("CO2"), {"O": -2000.0})
