from collections.abc import Mapping

import numpy as np
import pytest
from ase import Atoms
from ase.build import molecule

from surveyor.dataset import Dataset, with_label
from surveyor.errors import InputError
from surveyor.labels import Label
from surveyor.models.atomic_energies import fit_atomic_energies
from surveyor.models.fitted_energies import fit_beside
from surveyor.models.pair import PairModel, PairParameters

TRUE = {"H": -13.6, "C": -1000.0, "O": -2000.0}


def with_energy(atoms: Atoms, energy: float) -> Atoms:
    return with_label(atoms, "v1:0", Label(energy, np.zeros((len(atoms), 3))))


def resolve_atomic_energies(data: Dataset, given: dict[str, float] | None) -> Mapping[str, float] | None:
    return PairModel(PairParameters()).initialize(data, atomic_energies=given, seed=0).atomic_energies


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


def isolated(symbol: str, energy: float) -> Atoms:
    return with_energy(Atoms(symbol), energy)


BOUND = {"H": -15.0, "C": -1006.0, "O": -2003.0}  # with a share of the bonds


def bound(*names: str) -> Dataset:
    molecules = [molecule(name) for name in names]
    return Dataset(with_energy(atoms, sum(BOUND[symbol] for symbol in atoms.symbols)) for atoms in molecules)


def test_isolated_atoms_give_the_energies_that_a_fit_misses() -> None:
    data = Dataset([*bound("H2O", "CH4", "CO2", "CH3OH"), *(isolated(*each) for each in TRUE.items())])
    assert resolve_atomic_energies(data, None) == pytest.approx(TRUE, abs=1e-12)


def test_other_elements_are_fitted_with_those_of_isolated_atoms_kept() -> None:
    data = Dataset([*bound("H2O", "H2O2", "H2"), isolated("H", -13.6)])
    found = resolve_atomic_energies(data, None)
    assert found["H"] == -13.6
    rows = [(2 / 3, 1 / 3, (2 * BOUND["H"] + BOUND["O"]) / 3), (1 / 2, 1 / 2, (BOUND["H"] + BOUND["O"]) / 2)]
    best = sum(o * (energy - h * -13.6) for h, o, energy in rows) / sum(o * o for _, o, _ in rows)
    assert found["O"] == pytest.approx(best, abs=1e-9)


def test_what_the_others_leave_open_is_shared_equally() -> None:
    data = Dataset([with_energy(molecule("CH3OH"), -3000.0), isolated("H", -10.0)])
    assert resolve_atomic_energies(data, None) == pytest.approx({"H": -10.0, "C": -1480.0, "O": -1480.0})


def test_isolated_atoms_of_elements_in_no_other_structure_are_not_known() -> None:
    data = Dataset([*bound("H2O"), isolated("C", -1000.0)])
    assert set(resolve_atomic_energies(data, None)) == {"H", "O"}
    assert set(resolve_atomic_energies(data, {"H": -13.6, "O": -2000.0})) == {"H", "O"}


def test_given_energies_are_completed_by_isolated_atoms_and_must_agree_with_them() -> None:
    data = Dataset([*bound("H2O"), isolated("O", -2000.0)])
    assert resolve_atomic_energies(data, {"H": -13.6}) == {"O": -2000.0, "H": -13.6}
    with pytest.raises(InputError, match=r"found -2001\.000000 eV for O, whose isolated atom in the data has -2000"):
        resolve_atomic_energies(data, {"H": -13.6, "O": -2001.0})


def test_isolated_atoms_alone_initialize_no_model() -> None:
    with pytest.raises(InputError, match="or holds isolated atoms alone"):
        resolve_atomic_energies(Dataset([isolated("O", -2000.0)]), None)


def test_energies_that_are_not_given_are_fitted_beside_those_that_are() -> None:
    assert resolve_atomic_energies(additive("CO2"), {"O": -2001.0}) == pytest.approx({"O": -2001.0, "C": -998.0})


def test_known_energies_need_no_energy_that_counts() -> None:
    (water,) = additive("H2O")
    water.info["config_energy_weight"] = 0.0
    assert resolve_atomic_energies(Dataset([water]), {"H": -13.6, "O": -2000.0}) == {"H": -13.6, "O": -2000.0}
    with pytest.raises(InputError, match="all energies have weight 0"):
        resolve_atomic_energies(Dataset([water]), {"H": -13.6})


def test_what_the_compositions_leave_open_stays_close_to_what_is_expected() -> None:
    found = fit_atomic_energies(additive("H2O"), near={"H": -13.0, "O": -1900.0})
    rest = 2 * TRUE["H"] + TRUE["O"] - 2 * -13.0 - -1900.0
    assert found == pytest.approx({"H": -13.0 + 2 * rest / 5, "O": -1900.0 + rest / 5})
    assert fit_atomic_energies(additive("H2O", "H2"), near={"H": 0.0, "O": 0.0}) == pytest.approx(
        {symbol: TRUE[symbol] for symbol in "HO"}
    )


def test_energies_beside_a_network_are_fitted_to_what_its_interactions_leave() -> None:
    begin, shift = {"H": -13.6, "C": -5.0, "O": -7.0}, {"H": 0.0, "C": 300.0, "O": -40.0}
    molecules = [molecule(name) for name in ("CH4", "CO2", "CH3OH")]
    rests = [with_energy(atoms, sum(shift[symbol] for symbol in atoms.symbols)) for atoms in molecules]
    found = fit_beside(begin, ["C", "O"], rests)
    assert found["H"] == -13.6
    assert found == pytest.approx({"H": -13.6, "C": 295.0, "O": -47.0})
