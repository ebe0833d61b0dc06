"""A linear model of pairs of atoms: for trying a set-up, not for science.

It is fitted in milliseconds, knows nothing of angles, and gives the same result for the same data.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

import numpy as np
from ase import Atoms
from ase.calculators.calculator import Calculator, all_changes
from pydantic import Field

from surveyor.dataset import Dataset, label_of
from surveyor.files import write_arrays
from surveyor.isolated_atoms import without_isolated_atoms
from surveyor.metrics import errors_of
from surveyor.models.atomic_energies import resolve_atomic_energies
from surveyor.models.bonds import Bonds
from surveyor.models.history import history_of, report_epoch
from surveyor.models.model import Epoch
from surveyor.models.plausibility import check_result, from_scratch
from surveyor.models.record import ModelRecord, versions_of
from surveyor.parameters import Parameters
from surveyor.potentials import Prediction, evaluate_one_by_one
from surveyor.structures import elements_of, is_periodic
from surveyor.weights import PROPERTY_WEIGHTS, Property, weight_of

KIND = "pair"
WEIGHTS = "pair.npz"


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
class PairPotential:
    """The potential that a pair model deploys.

    Attributes:
        parameters: cutoff and basis.
        atomic_energies: in eV by chemical symbol.
        coefficients: in eV, shape (n_pairs_of_elements, n_basis), in the order of `pair_table`.
    """

    parameters: PairParameters
    atomic_energies: Mapping[str, float]
    coefficients: np.ndarray

    def calculator(self) -> Calculator:
        """Return a new ASE calculator."""
        return PairCalculator(self)

    def evaluate(self, structures: Sequence[Atoms]) -> list[Prediction]:
        """Return a prediction for each structure."""
        return evaluate_one_by_one(self, structures)


class PairCalculator(Calculator):  # type: ignore[misc]  # mypy sees no types of ASE's
    """ASE calculator of a `PairPotential`."""

    implemented_properties = ["energy", "free_energy", "forces", "stress"]  # noqa: RUF012  (ASE declares a plain list)

    def __init__(self, potential: PairPotential) -> None:
        super().__init__()
        self.potential = potential

    def calculate(
        self,
        atoms: Atoms | None = None,
        properties: Sequence[str] = ("energy",),
        system_changes: Sequence[str] = tuple(all_changes),
    ) -> None:
        """Compute energy, forces and, where the structure is periodic, stress."""
        super().calculate(atoms, properties, system_changes)
        potential = self.potential
        bonds = _bonds(self.atoms, potential.parameters, potential.atomic_energies)
        values, slopes = bonds.basis
        coefficients = potential.coefficients[bonds.pair]
        energies = np.sum(coefficients * values, axis=1) + bonds.repulsion[0]
        slope = np.sum(coefficients * slopes, axis=1) + bonds.repulsion[1]
        forces = bonds.forces(slope[:, None])[..., 0]
        energy = _isolated(self.atoms, potential.atomic_energies) + 0.5 * float(energies.sum())
        self.results = {"energy": energy, "free_energy": energy, "forces": forces}
        if is_periodic(self.atoms):
            self.results["stress"] = bonds.stress(slope[:, None])[:, 0]


def _isolated(atoms: Atoms, atomic_energies: Mapping[str, float]) -> float:
    return sum(atomic_energies[symbol] for symbol in atoms.symbols)


def _bonds(atoms: Atoms, parameters: PairParameters, atomic_energies: Mapping[str, float]) -> Bonds:
    return Bonds(atoms, cutoff_A=parameters.cutoff_A, n_basis=parameters.n_basis, symbols=tuple(atomic_energies))


@dataclass(frozen=True, slots=True)
class PairModel:
    """A pair potential that can be fitted.

    Attributes:
        parameters: cutoff, basis and weights of the fit.
        atomic_energies: in eV by chemical symbol; None before `initialize`.
        seed: kept for the record: nothing is random.
        weights: file with the coefficients; None before `train`.
    """

    parameters: PairParameters
    atomic_energies: Mapping[str, float] | None = None
    seed: int = 0
    weights: Path | None = None

    @property
    def takes_weights(self) -> tuple[Property, ...]:
        """Properties whose weights count in the fit: all."""
        return tuple(PROPERTY_WEIGHTS)

    @property
    def is_trained(self) -> bool:
        """Whether there are coefficients."""
        return self.weights is not None

    def initialize(self, train: Dataset, *, atomic_energies: Mapping[str, float] | None, seed: int) -> Self:
        """Return an untrained model for these data; see `Model.initialize`."""
        return replace(self, atomic_energies=resolve_atomic_energies(train, atomic_energies), seed=seed, weights=None)

    def train(self, train: Dataset, valid: Dataset, directory: Path) -> tuple[Self, Sequence[Epoch]]:
        """Return the fitted model, and a history of one epoch; see `Model.train`.

        The fit has one solution, so the coefficients that the model had before do not matter. Without validation data
        the errors in the history are those of the training data.
        """
        train, valid = without_isolated_atoms(train), without_isolated_atoms(valid)
        directory.mkdir(parents=True, exist_ok=True)
        path = directory.absolute() / WEIGHTS
        fitted = replace(self, weights=path)
        if not path.is_file():
            _save_coefficients(path, self._fit(train))
        if not history_of(directory):
            report_epoch(directory, fitted._errors(valid or train))
        check_result(None, history_of(directory), from_scratch(train, self._initialized()), directory)
        return fitted, history_of(directory)

    def deploy(self) -> PairPotential:
        """Return the potential.

        Raises:
            ValueError: the model is not trained.
        """
        if self.weights is None:
            raise ValueError("a pair model that is not trained cannot be deployed; train it first")
        with np.load(self.weights, allow_pickle=False) as arrays:
            return PairPotential(self.parameters, self._initialized(), arrays["coefficients"])

    def save(self, directory: Path) -> None:
        """Write the coefficients and `model.json` into a new directory."""
        potential = self.deploy()
        directory.mkdir(parents=True)
        _save_coefficients(directory / WEIGHTS, potential.coefficients)
        versions = versions_of(["surveyor", "numpy", "ase"])
        ModelRecord(KIND, self.parameters.model_dump(mode="json"), potential.atomic_energies, self.seed, versions).save(
            directory
        )

    @classmethod
    def load(cls, directory: Path, record: ModelRecord) -> Self:
        """Return the model that `save` wrote."""
        parameters = PairParameters.model_validate(record.parameters)
        return cls(parameters, record.atomic_energies, record.seed, directory.absolute() / WEIGHTS)

    def unsupported(self, structures: Sequence[Atoms]) -> tuple[str, ...]:
        """Return the elements that were not in the data with which the model was initialized."""
        if self.atomic_energies is None:
            return ()
        return tuple(symbol for symbol in elements_of(structures) if symbol not in self.atomic_energies)

    def _initialized(self) -> Mapping[str, float]:
        if self.atomic_energies is None:
            raise ValueError("a model without atomic energies cannot be trained; initialize it first")
        return self.atomic_energies

    def _errors(self, structures: Dataset) -> Epoch:
        errors = errors_of(structures, self.deploy().evaluate(structures))
        energy, forces = errors.energy_rmse or 0.0, errors.forces_rmse or 0.0
        loss = self.parameters.energy_weight * energy**2 + self.parameters.forces_weight * forces**2
        return Epoch(number=0, loss=loss, energy_rmse=errors.energy_rmse, forces_rmse=errors.forces_rmse)

    def _fit(self, train: Dataset) -> np.ndarray:
        energies = self._initialized()
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
    """Return what the coefficients shall fulfil for one structure: rows of shape (n, n_coefficients), and n targets."""
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


def _save_coefficients(path: Path, coefficients: np.ndarray) -> None:
    write_arrays(path, {"coefficients": coefficients})
