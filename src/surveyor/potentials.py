"""Potentials: whatever gives energies, forces and stress of structures."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
from ase import Atoms
from ase.calculators.calculator import Calculator

from surveyor.structures import is_periodic

UNCERTAINTY = "forces_uncertainty"  # what calculators call `Prediction.uncertainty` in their results


@dataclass(frozen=True, slots=True, eq=False)
class Prediction:
    """What a potential says of a structure.

    Attributes:
        energy: total energy in eV.
        forces: in eV/Å, shape (n_atoms, 3).
        stress: six Voigt components in eV/Å³ with ASE's sign, None where the structure is not periodic in three
            directions.
        uncertainty: expected error of the force on each atom in eV/Å, shape (n_atoms,); None where the potential does
            not know it.
    """

    energy: float
    forces: np.ndarray
    stress: np.ndarray | None = None
    uncertainty: np.ndarray | None = None


@runtime_checkable  # Prefect derives a schema from the parameters of flows, which asks for isinstance
class Potential(Protocol):
    """Gives energies, forces and stress.

    A potential is a small value that travels to the pool which uses it; what is large (weights) is a path in it and is
    loaded there. One that is faster on many structures at once says so by an attribute `evaluates_together`, also where
    its engine is not installed.
    """

    def calculator(self) -> Calculator:
        """Return a new ASE calculator, for one structure at a time."""

    def evaluate(self, structures: Sequence[Atoms]) -> list[Prediction]:
        """Return a prediction for each structure; compositions and periodicities may differ."""


def evaluates_together(potential: Potential) -> bool:
    """Return whether a potential is faster on many structures at once: its attribute of that name; False without it."""
    return bool(getattr(potential, "evaluates_together", False))


def evaluate_one_by_one(potential: Potential, structures: Sequence[Atoms]) -> list[Prediction]:
    """Return a prediction for each structure from the ASE calculator of a potential."""
    calculator = potential.calculator()
    return [predict(calculator, atoms) for atoms in structures]


def predict(calculator: Calculator, atoms: Atoms) -> Prediction:
    """Return what an ASE calculator says of a structure, which stays as it is."""
    copy = atoms.copy()
    copy.calc = calculator
    return Prediction(
        energy=float(copy.get_potential_energy()),
        forces=np.array(copy.get_forces(apply_constraint=False)),
        stress=np.array(copy.get_stress(apply_constraint=False)) if is_periodic(copy) else None,
        uncertainty=calculator.results.get(UNCERTAINTY),
    )
