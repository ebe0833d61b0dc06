"""Predictions of a generation's model and the labels, prepared for parity plots."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from ase import Atoms, units

from surveyor.dataset import Dataset, label_of
from surveyor.dataset.evaluation import load_predictions
from surveyor.dataset.weights import counts
from surveyor.models.atomic_energies import fit_atomic_energies
from surveyor.potentials import Prediction
from surveyor.run_directory import GenerationDirectory
from surveyor.structures import elements_of

SETS = ("train", "valid", "test")


@dataclass(frozen=True, slots=True, eq=False)
class ParityPoints:
    """Labels (first column) and predictions (second column) of one set.

    Attributes:
        name: of the set.
        energies: per atom, relative to fitted atomic energies, meV/atom, shape (n, 2).
        forces: components in eV/Å, shape (3 · sum of n_atoms, 2).
        stresses: components in GPa, shape (6 · number of periodic structures, 2).
    """

    name: str
    energies: np.ndarray
    forces: np.ndarray
    stresses: np.ndarray


def parity_points(directory: GenerationDirectory) -> tuple[ParityPoints, ...]:
    """Return the points of each set that has predictions.

    Energies are relative to atomic energies fitted to all labels: for one composition, this is the
    mean energy; for several, the part explained by the composition.
    """
    sets = {name: predicted_set(directory, name) for name in SETS}
    pairs = {name: pair for name, pair in sets.items() if pair and pair[0]}
    if not pairs:
        return ()
    everything = [atoms for structures, _ in pairs.values() for atoms in structures]
    with_energy = any(counts(atoms, "energy") for atoms in everything)
    base = fit_atomic_energies(everything) if with_energy else dict.fromkeys(elements_of(everything), 0.0)
    return tuple(_points(name, structures, predictions, base) for name, (structures, predictions) in pairs.items())


def predicted_set(directory: GenerationDirectory, name: str) -> tuple[Dataset, list[Prediction]] | None:
    """Return the structures of a set and the predictions of the model for them; None without predictions."""
    structures, predictions = directory.set_file(name), directory.predictions(name)
    if not (structures.exists() and predictions.exists()):
        return None
    dataset = Dataset.load(structures)
    return dataset, load_predictions(predictions, dataset)


def _points(
    name: str, structures: Sequence[Atoms], predictions: Sequence[Prediction], base: dict[str, float]
) -> ParityPoints:
    energies, forces, stresses = [], [np.zeros((0, 2))], [np.zeros((0, 2))]
    for atoms, prediction in zip(structures, predictions, strict=True):
        label = label_of(atoms)
        isolated = sum(base[symbol] for symbol in atoms.symbols)
        if counts(atoms, "energy"):
            energies.append([1e3 * (energy - isolated) / len(atoms) for energy in (label.energy, prediction.energy)])
        if counts(atoms, "forces"):
            forces.append(np.column_stack([label.forces.ravel(), prediction.forces.ravel()]))
        if label.stress is not None and prediction.stress is not None and counts(atoms, "stress"):
            stresses.append(np.column_stack([label.stress, prediction.stress]) / units.GPa)
    return ParityPoints(name, np.array(energies).reshape(-1, 2), np.concatenate(forces), np.concatenate(stresses))
