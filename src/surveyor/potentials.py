"""Potentials, which give energies, forces and stress of structures."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
from ase import Atoms
from ase.calculators.calculator import Calculator, all_changes

from surveyor.structures import is_periodic

# What calculators call `Prediction.uncertainty` and `Prediction.contact` in their results
UNCERTAINTY, CONTACT = "forces_uncertainty", "contact"


@dataclass(frozen=True, slots=True)
class Contact:
    """The closest contacts of the atoms of a structure, periodic images included.

    Attributes:
        distance_A: shortest distance between two atoms; infinite if none are within the reach.
        in_radii: smallest distance as a multiple of the sum of the two covalent radii; infinite likewise.
        reach_A: pairs that are farther apart do not count.
    """

    distance_A: float
    in_radii: float
    reach_A: float


@dataclass(frozen=True, slots=True, eq=False)
class Prediction:
    """The prediction of a potential for a structure.

    Attributes:
        energy: total energy in eV.
        forces: forces in eV/Å, shape (n_atoms, 3).
        stress: six Voigt components in eV/Å³ with ASE's sign; None if the structure is not periodic in three
            directions.
        uncertainty: of the force on each atom in eV/Å, shape (n_atoms,); None if the potential does not provide it.
            For a committee it is the calibrated disagreement, the scale of the error. For a single model, the largest
            one of a structure is a bound that 90 % of the structures observe.
        contact: how close the atoms are; None if the potential has not looked.
    """

    energy: float
    forces: np.ndarray
    stress: np.ndarray | None = None
    uncertainty: np.ndarray | None = None
    contact: Contact | None = None


class PredictingCalculator(Calculator):  # type: ignore[misc]  # mypy sees no types of ASE's
    """Base of surveyor's ASE calculators, which compute energy, forces and, where there is one, the stress at once.

    Attributes:
        needs_stress: whether the stress of the next structures is wanted; without it, a potential may leave it out.
    """

    needs_stress = True
    implemented_properties = ["energy", "free_energy", "forces", "stress"]  # noqa: RUF012  (ASE declares a plain list)

    def calculate(
        self,
        atoms: Atoms | None = None,
        properties: Sequence[str] = ("energy",),
        system_changes: Sequence[str] = tuple(all_changes),
    ) -> None:
        """Compute all results of a structure; ASE calls this."""
        super().calculate(atoms, properties, system_changes)
        self.results = self.results_for(self.atoms)

    def check_state(self, atoms: Atoms, tol: float = 0.0) -> list[str]:
        """Return the changes since the last structure: everything or nothing.

        ASE compares all properties of a structure several times per step, which for small molecules costs more than
        everything else.
        """
        last = self.atoms
        # Bytes, since `numpy.array_equal` takes as long as a step of a small molecule allows for all checks.
        is_same = (
            last is not None
            and last.positions.tobytes() == atoms.positions.tobytes()
            and last.cell.array.tobytes() == atoms.cell.array.tobytes()
            and last.numbers.tobytes() == atoms.numbers.tobytes()
            and last.pbc.tobytes() == atoms.pbc.tobytes()
        )
        return [] if is_same else list(all_changes)

    def results_for(self, atoms: Atoms) -> dict[str, Any]:  # Any: numbers and arrays
        """Return the results for a structure by their names in ASE; see `results_of`."""
        raise NotImplementedError


def results_of(prediction: Prediction) -> dict[str, Any]:  # Any: numbers and arrays
    """Return a prediction as the results of an ASE calculator."""
    results = {"energy": prediction.energy, "free_energy": prediction.energy, "forces": prediction.forces}
    others = {"stress": prediction.stress, UNCERTAINTY: prediction.uncertainty, CONTACT: prediction.contact}
    return results | {name: value for name, value in others.items() if value is not None}


@runtime_checkable  # Prefect derives a schema from the parameters of flows, which asks for isinstance
class Potential(Protocol):
    """A potential, which gives energies, forces and stress.

    A potential is a small value that is sent to the pool that uses it; it refers to its weights by a path, and
    loads them there. A potential that is faster on many structures at once has an attribute `evaluates_together`, which
    is available even if its engine is not installed.
    """

    def calculator(self) -> Calculator:
        """Return a new ASE calculator, for one structure at a time."""

    def evaluate(self, structures: Sequence[Atoms]) -> list[Prediction]:
        """Return a prediction for each structure; compositions and periodicities may differ."""


def evaluates_together(potential: Potential) -> bool:
    """Return whether a potential is faster on many structures at once: its attribute of that name; False without it."""
    return bool(getattr(potential, "evaluates_together", False))


@dataclass(frozen=True, slots=True, eq=False)
class Request:
    """A structure of a walker, whose prediction the walker needs for its next step.

    Attributes:
        atoms: the structure.
        place: number of the walker among those that move together, from 0. At the next step it has moved a little; a
            new walker may take the place of one that has ended.
        needs_stress: whether the prediction is to have the stress of a periodic structure.
    """

    atoms: Atoms
    place: int
    needs_stress: bool = True

    def __len__(self) -> int:
        """Return the number of atoms."""
        return len(self.atoms)


@dataclass(frozen=True, slots=True, eq=False)
class Evaluator:
    """An evaluator of the structures of walkers, step by step.

    Attributes:
        evaluate: returns a prediction for each request, in order.
        is_on_device: whether the processor is free to move other walkers meanwhile.
    """

    evaluate: Callable[[Sequence[Request]], list[Prediction]]
    is_on_device: bool = False


def evaluator_of(potential: Potential) -> Evaluator:
    """Return the evaluator of a potential.

    A potential that gains from what it remembers of the last step, or computes beside the processor, has a method
    `evaluator`; that of others only calls `evaluate`.
    """
    make: Callable[[], Evaluator] | None = getattr(potential, "evaluator", None)
    return make() if make else Evaluator(lambda requests: potential.evaluate([each.atoms for each in requests]))


def evaluate_one_by_one(potential: Potential, structures: Sequence[Atoms]) -> list[Prediction]:
    """Return a prediction for each structure from the ASE calculator of a potential."""
    calculator = potential.calculator()
    return [predict(calculator, atoms) for atoms in structures]


def predict(calculator: Calculator, atoms: Atoms) -> Prediction:
    """Return the prediction of an ASE calculator for a structure, which is not changed."""
    copy = atoms.copy()
    copy.calc = calculator
    has_stress = is_periodic(copy) and getattr(calculator, "needs_stress", True)
    return Prediction(
        energy=float(copy.get_potential_energy()),
        forces=np.array(copy.get_forces(apply_constraint=False)),
        stress=np.array(copy.get_stress(apply_constraint=False)) if has_stress else None,
        uncertainty=calculator.results.get(UNCERTAINTY),
        contact=calculator.results.get(CONTACT),
    )
