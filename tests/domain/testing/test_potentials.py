from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.calculators.calculator import Calculator
from ase.calculators.lj import LennardJones

from surveyor.potentials import Prediction, evaluate_one_by_one
from surveyor.testing.potentials import check_potential


@dataclass(frozen=True)
class LennardJonesPotential:
    """What a third party would write; `changes` are defects, by property."""

    changes: dict[str, Any] = field(default_factory=dict)

    def calculator(self) -> Calculator:
        return LennardJones(sigma=2.3, epsilon=0.3, rc=6.0, smooth=True)

    def evaluate(self, structures: Sequence[Atoms]) -> list[Prediction]:
        if "info" in self.changes:
            structures[0].info["visited"] = True
        predictions = evaluate_one_by_one(self, structures)
        if "forces" in self.changes:
            return [replace(each, forces=1.01 * each.forces) for each in predictions]
        if "stress" in self.changes:
            return [replace(each, stress=None if each.stress is None else -each.stress) for each in predictions]
        if "energy" in self.changes:
            wall = [0.1 * atoms.positions[:, 2].sum() for atoms in structures]
            return [replace(each, energy=each.energy + extra) for each, extra in zip(predictions, wall, strict=True)]
        return predictions


@pytest.fixture
def structures() -> list[Atoms]:
    crystal = bulk("Ar", a=4.0, cubic=True)
    crystal.rattle(0.1, seed=0)
    return [crystal, Atoms("Ar3", positions=2.6 * np.array([[0, 0, 0], [1, 0, 0], [0.3, 0.9, 0.1]]))]


def test_correct_potential_passes(structures: list[Atoms]) -> None:
    check_potential(LennardJonesPotential(), structures)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("info", "structure 0 after evaluate"),
        ("forces", "forces of one calculator for all, structure 0: found"),
        ("stress", "stress of one calculator for all, structure 0: found"),
        ("energy", "energy of one calculator for all, structure 0: found"),
    ],
)
def test_defects_are_named(structures: list[Atoms], change: str, message: str) -> None:
    with pytest.raises(AssertionError, match=message):
        check_potential(LennardJonesPotential({change: True}), structures)


class ScaledForces(LennardJones):
    """Forces that are not the derivative of the energy, in the calculator itself."""

    def calculate(self, *arguments: Any) -> None:
        super().calculate(*arguments)
        self.results["forces"] = 1.01 * self.results["forces"]
        self.results["stress"] = np.zeros(6)


class ScaledPotential(LennardJonesPotential):
    def calculator(self) -> Calculator:
        return ScaledForces(sigma=2.3, epsilon=0.3, rc=6.0, smooth=True)


def test_forces_are_compared_with_the_energy(structures: list[Atoms]) -> None:
    with pytest.raises(AssertionError, match=r"against finite differences: found .* allowed are"):
        check_potential(ScaledPotential(), structures)


class PerStructure(LennardJones):
    """An energy that does not grow with the structure."""

    def calculate(self, *arguments: Any) -> None:
        super().calculate(*arguments)
        self.results["energy"] += 1.0


class PotentialPerStructure(LennardJonesPotential):
    def calculator(self) -> Calculator:
        return PerStructure(sigma=2.3, epsilon=0.3, rc=6.0, smooth=True)


def test_energies_grow_with_the_structure(structures: list[Atoms]) -> None:
    with pytest.raises(AssertionError, match=r"energy of 2 copies of Ar3"):
        check_potential(PotentialPerStructure(), structures[1:])
    with pytest.raises(AssertionError, match=r"energy of 8 copies of Ar4"):
        check_potential(PotentialPerStructure(), structures)
