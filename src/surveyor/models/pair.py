"""A linear model of pairs of atoms: for trying a set-up, not for science.

It is fitted in milliseconds, knows nothing of angles, and gives the same result for the same data.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

import numpy as np
from ase import Atoms
from ase.calculators.calculator import Calculator
from pydantic import Field

from surveyor.dataset import Dataset, label_of
from surveyor.dataset.isolated_atoms import without_isolated_atoms
from surveyor.dataset.metrics import errors_of
from surveyor.dataset.weights import PROPERTY_WEIGHTS, Property, weight_of
from surveyor.files import write_arrays
from surveyor.models.bonds import Bonds
from surveyor.models.history import history_of, report_epoch
from surveyor.models.model import Epoch
from surveyor.models.neighbours import NeighbourList, neighbour_list, still_hold
from surveyor.models.plausibility import check_result, from_scratch
from surveyor.models.posterior import HasPosterior
from surveyor.models.single_model import SingleModel
from surveyor.parameters import Parameters
from surveyor.potentials import PredictingCalculator, Prediction, evaluate_one_by_one, results_of
from surveyor.structures import is_periodic

SKIN_A = 0.5  # by which the neighbour lists of walkers reach farther than the cutoff


class PairParameters(Parameters):
    """A sum of Gaussians of the distance for each pair of elements, fitted by regularized least squares.

    For trying a set-up: it is fitted in milliseconds and is no good for science.
    """

    cutoff_A: float = Field(
        5.0, gt=0.5, le=20, title="Cutoff (Å)", description="Atoms beyond this distance do not interact."
    )
    n_basis: int = Field(
        16, ge=1, le=200, title="Basis functions", description="Number of Gaussians per pair of elements."
    )
    regularization: float = Field(
        1e-4,
        gt=0,
        le=100,
        title="Regularization",
        description="Weight of the squared coefficients in the least-squares fit.",
    )
    energy_weight: float = Field(
        1.0, gt=0, title="Weight of energies", description="Weight of the squared errors of energies, per atom."
    )
    forces_weight: float = Field(
        1.0, ge=0, title="Weight of forces", description="Weight of the squared errors of forces."
    )
    stress_weight: float = Field(
        1.0,
        ge=0,
        title="Weight of stress",
        description="Weight of the squared errors of the stress times the volume per atom, if labelled.",
    )


@dataclass(frozen=True, slots=True, eq=False)
class PairPotential(HasPosterior):
    """The potential that a pair model deploys.

    Attributes:
        parameters: cutoff and basis.
        atomic_energies: in eV by chemical symbol.
        coefficients: in eV, shape (n_pairs_of_elements, n_basis), in the order of `pair_table`.
        posterior_file: file with the posterior of the model; None if it has none.
    """

    parameters: PairParameters
    atomic_energies: Mapping[str, float]
    coefficients: np.ndarray
    posterior_file: Path | None = None

    def calculator(self) -> Calculator:
        """Return a new ASE calculator."""
        return PairCalculator(self)

    def evaluate(self, structures: Sequence[Atoms]) -> list[Prediction]:
        """Return a prediction for each structure."""
        return evaluate_one_by_one(self, structures)

    def features(self, structures: Sequence[Atoms]) -> list[np.ndarray]:
        """Return the sums of basis functions at each atom, of which the energy is linear; see `FeaturePotential`."""
        return [self._features(atoms) for atoms in structures]

    def feature_gradients(self, structures: Sequence[Atoms]) -> list[np.ndarray]:
        """Return the derivatives of the features' sums for each structure; see `GradientPotential`."""
        return [-bonds.forces(self._by_pair(bonds, bonds.basis[1])) for bonds in map(self._bonds, structures)]

    def _features(self, atoms: Atoms) -> np.ndarray:
        bonds = self._bonds(atoms)
        values = self._by_pair(bonds, bonds.basis[0])
        features = np.zeros((len(atoms), values.shape[1]))
        np.add.at(features, bonds.first, 0.5 * values)
        return features

    def _bonds(self, atoms: Atoms) -> Bonds:
        return _bonds(atoms, self.parameters, self.atomic_energies)

    def _by_pair(self, bonds: Bonds, basis: np.ndarray) -> np.ndarray:
        return _by_pair(basis, bonds.pair, len(self.atomic_energies))


class PairCalculator(PredictingCalculator):
    """ASE calculator of a `PairPotential`."""

    def __init__(self, potential: PairPotential) -> None:
        super().__init__()
        self.potential = potential
        self._neighbours: NeighbourList | None = None

    def results_for(self, atoms: Atoms) -> dict[str, Any]:  # Any: numbers and arrays
        """Return the results of the pair potential."""
        potential = self.potential
        bonds = _bonds(atoms, potential.parameters, potential.atomic_energies, self._neighbours_of(atoms))
        values, slopes = bonds.basis
        coefficients = potential.coefficients[bonds.pair]
        energies = np.sum(coefficients * values, axis=1) + bonds.repulsion[0]
        slope = np.sum(coefficients * slopes, axis=1) + bonds.repulsion[1]
        forces = bonds.forces(slope[:, None])[..., 0]
        energy = _isolated(atoms, potential.atomic_energies) + 0.5 * float(energies.sum())
        return results_of(
            Prediction(energy, forces, bonds.stress(slope[:, None])[:, 0] if is_periodic(atoms) else None)
        )

    def _neighbours_of(self, atoms: Atoms) -> NeighbourList:
        """Return the list of the last structure if it holds for this one, otherwise a new one."""
        kept, cutoff_A = self._neighbours, self.potential.parameters.cutoff_A
        if kept is None or not kept.is_of(atoms) or not all(still_hold([kept], [atoms], cutoff_A, SKIN_A)):
            kept = self._neighbours = neighbour_list(atoms, cutoff_A + SKIN_A)
        return kept


def _isolated(atoms: Atoms, atomic_energies: Mapping[str, float]) -> float:
    return sum(atomic_energies[symbol] for symbol in atoms.symbols)


def _bonds(
    atoms: Atoms,
    parameters: PairParameters,
    atomic_energies: Mapping[str, float],
    neighbours: NeighbourList | None = None,
) -> Bonds:
    return Bonds(
        atoms,
        cutoff_A=parameters.cutoff_A,
        n_basis=parameters.n_basis,
        symbols=tuple(atomic_energies),
        neighbours=neighbours,
    )


class PairModel(SingleModel[PairParameters]):
    """A pair potential that can be fitted; its weights are the coefficients, and its seed is kept for the record."""

    __slots__ = ()
    KIND, ENGINE, FILE, PACKAGES = "pair", "pair", "pair.npz", ("numpy",)

    @property
    def takes_weights(self) -> tuple[Property, ...]:
        """Properties whose weights count in the fit: all."""
        return tuple(PROPERTY_WEIGHTS)

    def train(self, train: Dataset, valid: Dataset, directory: Path | str) -> tuple[Self, Sequence[Epoch]]:
        """Return the fitted model, and a history of one epoch; see `Model.train`.

        The fit has one solution, so the coefficients that the model had before do not matter. Without validation data
        the errors in the history are those of the training data.
        """
        train, valid = without_isolated_atoms(train), without_isolated_atoms(valid)
        directory = Path(directory)
        directory.mkdir(parents=True, exist_ok=True)
        path = directory.absolute() / self.FILE
        fitted = replace(self, weights=path)
        if not path.is_file():
            write_arrays(path, {"coefficients": self._fit(train)})
        if not history_of(directory):
            report_epoch(directory, fitted._errors(valid or train))
        check_result(None, history_of(directory), from_scratch(train, self.energies), directory)
        return fitted, history_of(directory)

    def deploy(self) -> PairPotential:
        """Return the potential.

        Raises:
            ValueError: the model is not trained.
        """
        with np.load(self.network, allow_pickle=False) as arrays:
            return PairPotential(self.parameters, self.energies, arrays["coefficients"], self.posterior_file)

    def _errors(self, structures: Dataset) -> Epoch:
        errors = errors_of(structures, self.deploy().evaluate(structures))
        energy, forces = errors.energy_rmse or 0.0, errors.forces_rmse or 0.0
        loss = self.parameters.energy_weight * energy**2 + self.parameters.forces_weight * forces**2
        return Epoch(number=0, loss=loss, energy_rmse=errors.energy_rmse, forces_rmse=errors.forces_rmse)

    def _fit(self, train: Dataset) -> np.ndarray:
        energies = self.energies
        shape = (len(energies) * (len(energies) + 1) // 2, self.parameters.n_basis)
        size = shape[0] * shape[1]
        gram, moments = self.parameters.regularization * np.eye(size), np.zeros(size)
        for atoms in train:
            rows, targets = _equations(atoms, self.parameters, energies)
            gram += rows.T @ rows
            moments += rows.T @ targets
        return np.linalg.solve(gram, moments).reshape(shape)


def _equations(
    atoms: Atoms, parameters: PairParameters, atomic_energies: Mapping[str, float]
) -> tuple[np.ndarray, np.ndarray]:
    """Return the equations of one structure for the coefficients: rows of shape (n, n_coefficients), and n targets."""
    label = label_of(atoms)
    bonds = _bonds(atoms, parameters, atomic_energies)
    values, slopes = (_by_pair(each, bonds.pair, len(atomic_energies)) for each in bonds.basis)
    repulsion, repulsion_slope = bonds.repulsion[0], bonds.repulsion[1][:, None]
    energy = label.energy - _isolated(atoms, atomic_energies) - 0.5 * repulsion.sum()
    rows = [0.5 * values.sum(axis=0)[None, :], bonds.forces(slopes).reshape(3 * len(atoms), slopes.shape[1])]
    targets = [np.array([energy]), (label.forces - bonds.forces(repulsion_slope)[..., 0]).ravel()]
    of_forces = parameters.forces_weight * weight_of(atoms, "forces") / (3 * len(atoms))
    weights = [(parameters.energy_weight * weight_of(atoms, "energy")) ** 0.5 / len(atoms), of_forces**0.5]
    if label.stress is not None and bonds.volume is not None:
        rows.append(bonds.stress(slopes))
        targets.append(label.stress - bonds.stress(repulsion_slope)[:, 0])
        of_stress = parameters.stress_weight * weight_of(atoms, "stress")
        weights.append(of_stress**0.5 * bonds.volume / len(atoms))
    scaled_rows = [weight * row for weight, row in zip(weights, rows, strict=True)]
    return np.concatenate(scaled_rows), np.concatenate(
        [weight * target for weight, target in zip(weights, targets, strict=True)]
    )


def _by_pair(basis: np.ndarray, pair: np.ndarray, n_elements: int) -> np.ndarray:
    # Each bond has its basis functions in the columns of its pair of elements, and zeros in the others.
    columns = np.zeros((len(basis), n_elements * (n_elements + 1) // 2, basis.shape[1]))
    columns[np.arange(len(basis)), pair] = basis
    return columns.reshape(len(basis), columns.shape[1] * columns.shape[2])
