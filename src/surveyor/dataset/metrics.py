"""Errors of predictions against labels, per property, element and set."""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from ase import Atoms

from surveyor.dataset.dataset import Dataset, label_of
from surveyor.dataset.weights import counts, has_stress
from surveyor.labels import Label
from surveyor.potentials import Prediction

SIGNIFICANT = 3.0  # standard errors


@dataclass(frozen=True, slots=True)
class Errors:
    """Errors over several structures; None if there is nothing to compare, or a prediction is not finite.

    Labels of weight 0 are not compared; all other structures have weight 1, regardless of their weight in the training.

    Attributes:
        n_structures: number of compared structures.
        energy_rmse: root mean square error of the energy per atom, eV/atom.
        energy_mae: mean absolute error of the energy per atom, eV/atom.
        forces_rmse: root mean square error over all force components, eV/Å.
        forces_mae: mean absolute error over all force components, eV/Å.
        stress_rmse: root mean square error over all stress components of periodic structures, eV/Å³.
        stress_mae: mean absolute error over the same components, eV/Å³.
        forces_rmse_by_element: by chemical symbol, eV/Å. Energy and stress belong to a structure, not to its atoms.
        energy_offset: mean of predicted minus labelled energy per atom, eV/atom. All structures have the same weight,
            regardless of size and composition.
        n_energies: number of compared energies; None in records of earlier versions.
        energy_rmse_without_offset: root mean square of these differences after subtraction of their mean, eV/atom;
            None for a single structure. The squares of this and of the offset add up to that of `energy_rmse`.
    """

    n_structures: int = 0
    energy_rmse: float | None = None
    energy_mae: float | None = None
    forces_rmse: float | None = None
    forces_mae: float | None = None
    stress_rmse: float | None = None
    stress_mae: float | None = None
    forces_rmse_by_element: dict[str, float] = field(default_factory=dict)
    energy_offset: float | None = None
    energy_rmse_without_offset: float | None = None
    n_energies: int | None = None

    @property
    def is_mostly_offset(self) -> bool:
        """True if a constant makes up most of the energy error, beyond the chance of few structures."""
        if self.energy_offset is None or self.energy_rmse_without_offset is None:
            return False
        scatter = self.energy_rmse_without_offset
        n_energies = self.n_structures if self.n_energies is None else self.n_energies
        standard_error = scatter / math.sqrt(n_energies - 1)
        return abs(self.energy_offset) > max(scatter, SIGNIFICANT * standard_error)

    def to_dict(self) -> dict[str, Any]:  # Any: numbers, None and one dict
        """Return the fields, ready for JSON."""
        return asdict(self)


def errors_of(structures: Sequence[Atoms], predictions: Sequence[Prediction]) -> Errors:
    """Return the errors of predictions against the labels that the structures carry.

    Args:
        structures: labelled.
        predictions: one for each structure, in the same order.
    """
    energies, forces, stresses, symbols = [], [np.zeros((0, 3))], [], []
    for atoms, prediction in zip(structures, predictions, strict=True):
        label = label_of(atoms)
        if counts(atoms, "energy"):
            energies.append((prediction.energy - label.energy) / len(atoms))
        if counts(atoms, "forces"):
            forces.append(prediction.forces - label.forces)
            symbols.extend(atoms.get_chemical_symbols())
        if has_stress(atoms) and prediction.stress is not None:
            stresses.append(prediction.stress - label.stress)
    all_forces, of_energies = np.concatenate(forces), np.array(energies)
    offset = _mean(of_energies)
    return Errors(
        n_structures=len(structures),
        energy_rmse=_rmse(of_energies),
        energy_mae=_mae(of_energies),
        forces_rmse=_rmse(all_forces),
        forces_mae=_mae(all_forces),
        stress_rmse=_rmse(np.array(stresses)),
        stress_mae=_mae(np.array(stresses)),
        forces_rmse_by_element=_by_element(all_forces, np.array(symbols)),
        energy_offset=offset,
        energy_rmse_without_offset=None if offset is None or len(energies) == 1 else _rmse(of_energies - offset),
        n_energies=len(energies),
    )


def _by_element(differences: np.ndarray, symbols: np.ndarray) -> dict[str, float]:
    errors = {str(symbol): _rmse(differences[symbols == symbol]) for symbol in np.unique(symbols)}
    return {symbol: error for symbol, error in errors.items() if error is not None}


def _rmse(differences: np.ndarray) -> float | None:
    mean_square = _mean(np.square(differences))
    return None if mean_square is None else mean_square**0.5


def _mae(differences: np.ndarray) -> float | None:
    return _mean(np.abs(differences))


def _mean(values: np.ndarray) -> float | None:
    return float(np.mean(values)) if values.size and np.isfinite(values).all() else None


@dataclass(frozen=True, slots=True)
class StructureError:
    """The errors of a model for one structure.

    Attributes:
        energy: absolute error of the energy, meV/atom.
        forces: root mean square error of the force components, meV/Å.
    """

    energy: float
    forces: float

    def exceeds(self, energy: float, forces: float) -> bool:
        """Return whether either error is above its threshold; NaN counts as above."""
        return not (self.energy <= energy and self.forces <= forces)


def structure_error(atoms: Atoms, other: Prediction | Label) -> StructureError:
    """Return the error of a prediction or another label against the label of a structure; 0 where that has weight 0."""
    label = label_of(atoms)
    energy = 1e3 * abs(other.energy - label.energy) / len(atoms)
    forces = 1e3 * float(np.sqrt(np.mean(np.square(other.forces - label.forces))))
    return StructureError(energy if counts(atoms, "energy") else 0.0, forces if counts(atoms, "forces") else 0.0)


def structure_errors(labelled: Dataset, predictions: Sequence[Prediction]) -> dict[str, StructureError]:
    """Return the errors of predictions, in the order of the structures, by the keys of their labels."""
    pairs = zip(labelled.keys(), labelled, predictions, strict=True)
    return {key: structure_error(atoms, prediction) for key, atoms, prediction in pairs}


def largest_errors(structures: Sequence[Atoms], predictions: Sequence[Prediction]) -> np.ndarray:
    """Return the largest error of the force on an atom of each structure, in eV/Å, shape (n_structures,).

    Args:
        structures: labelled.
        predictions: one for each structure, in the same order.
    """
    pairs = zip(structures, predictions, strict=True)
    differences = (prediction.forces - label_of(atoms).forces for atoms, prediction in pairs)
    return np.array([np.linalg.norm(each, axis=1).max() for each in differences])


def typical_error(structures: Sequence[Atoms], predictions: Sequence[Prediction]) -> float | None:
    """Return the root mean square, over structures, of the largest error of the force on an atom, in eV/Å.

    An uncertainty is compared with it: both are about the atom of a structure for which the prediction is worst.

    Args:
        structures: labelled; those whose labels of forces do not count are left out.
        predictions: one for each structure, in the same order.

    Returns:
        None if nothing is left, or a prediction is not finite.
    """
    counted = [pair for pair in zip(structures, predictions, strict=True) if counts(pair[0], "forces")]
    return _rmse(largest_errors([atoms for atoms, _ in counted], [each for _, each in counted]))


def covered(structures: Sequence[Atoms], predictions: Sequence[Prediction]) -> tuple[int, int]:
    """Return for how many structures the largest error of a force is within the largest uncertainty, and of how many.

    Args:
        structures: labelled; those whose labels of forces do not count are left out.
        predictions: one for each structure, in the same order; those without uncertainty are left out.
    """
    errors = largest_errors(structures, predictions)
    within = [
        error <= prediction.uncertainty.max()
        for atoms, prediction, error in zip(structures, predictions, errors, strict=True)
        if prediction.uncertainty is not None and counts(atoms, "forces")
    ]
    return int(sum(within)), len(within)


def coverage_in_words(n_covered: int, n: int, expected: float) -> str:
    """Return how often an uncertainty was large enough: "stated uncertainty covered 92 % of 41 (expected 90)".

    Args:
        n_covered: number of structures whose error was within the uncertainty.
        n: number of structures.
        expected: fraction that is to be covered.
    """
    return f"stated uncertainty covered {100 * n_covered / n:.0f} % of {n} (expected {100 * expected:.0f})"
