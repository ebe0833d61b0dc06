"""Checks of the atomic energies, for all engines, that a training takes from a foundation model."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from labelling_inputs import labelled

from surveyor.dataset import Dataset, with_label
from surveyor.labels import Label
from surveyor.models.history import history_of
from surveyor.models.model import Model
from surveyor.structures import elements_of

SHIFTS = {"Cu": -1600.0, "Ag": -1000.0, "Au": -700.0}  # eV: of the atomic energies, between two levels of theory
ISOLATED = {"Cu": 3.5, "Ag": 2.9, "Au": 3.8}  # eV: of EMT, whose zero of energy is the crystal


def alloys(formulas: Sequence[str]) -> list[Atoms]:
    """Return perturbed crystals of four atoms each."""
    structures = []
    for number, formula in enumerate(formulas):
        atoms = bulk("Cu", cubic=True)
        atoms.symbols[:] = Atoms(formula).symbols
        atoms.rattle(0.1, seed=number)
        structures.append(atoms)
    return structures


ALL = ["Cu4", "Ag4", "Au4", "Cu2Ag2", "Cu2Au2", "Ag2Au2", "CuAg2Au", "Cu3Au"]


def founded(untrained: Model, directory: Path) -> Model:
    """Return a foundation model of copper, silver and gold, with energies of isolated atoms."""
    data = Dataset(labelled(alloys(ALL)))
    model, _ = untrained.initialize(data, atomic_energies=ISOLATED, seed=0).train(data, data, directory)
    return model


def elsewhere(foundation: Model, structures: Sequence[Atoms]) -> Dataset:
    """Return structures with labels of another level of theory, where atoms differ and bonds do not."""
    predictions = foundation.deploy().evaluate(structures)
    return Dataset(
        with_label(
            atoms,
            None,
            Label(each.energy + sum(SHIFTS[symbol] for symbol in atoms.symbols), each.forces, each.stress),
        )
        for atoms, each in zip(structures, predictions, strict=True)
    )


def check_energies_beside(foundation: Model, untrained: Model, formulas: Sequence[str], directory: Path) -> None:
    """Check that a known atomic energy is kept, and that those of other elements are fitted beside the interactions.

    Args:
        foundation: as `founded` returns it.
        untrained: begins from the foundation, and leaves the network as it is.
        formulas: of the training data, which tell the elements apart.
        directory: of the training.
    """
    true = {symbol: ISOLATED[symbol] + SHIFTS[symbol] for symbol in ISOLATED}
    data = elsewhere(foundation, alloys(formulas))
    known = with_label(Atoms("Cu"), None, Label(true["Cu"], np.zeros((1, 3))))
    model = untrained.initialize(Dataset([*data, known]), atomic_energies=None, seed=3)
    assert model.atomic_energies is not None
    assert abs(model.atomic_energies["Au"] - true["Au"]) > 0.3  # a fit to total energies counts bonds twice
    trained, history = model.train(data, data, directory)
    assert trained.atomic_energies == pytest.approx({symbol: true[symbol] for symbol in elements_of(data)}, abs=1e-4)
    assert trained.atomic_energies is not None
    assert trained.atomic_energies["Cu"] == true["Cu"]
    assert history[0].energy_rmse == pytest.approx(0, abs=1e-4)
    assert history_of(directory) == tuple(history)
    again, _ = model.train(data, data, directory)
    assert again.atomic_energies == trained.atomic_energies


def check_energies_left_open(foundation: Model, untrained: Model, directory: Path) -> None:
    """Check that the atomic energies of one composition stay as close to the foundation's as the data allow."""
    data = elsewhere(foundation, alloys(["Cu3Au"] * 3))
    model = untrained.initialize(data, atomic_energies=None, seed=3)
    trained, history = model.train(data, data, directory)
    shift = 3 * SHIFTS["Cu"] + SHIFTS["Au"]
    expected = {"Cu": ISOLATED["Cu"] + 3 * shift / 10, "Au": ISOLATED["Au"] + shift / 10}
    assert trained.atomic_energies == pytest.approx(expected, abs=1e-4)
    assert history[0].energy_rmse == pytest.approx(0, abs=1e-4)
