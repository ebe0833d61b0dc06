"""Any ASE calculator as a potential: cheap and exact ones for tests and first campaigns."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any

from ase import Atoms
from ase.calculators.calculator import Calculator

from surveyor.potentials import Prediction, evaluate_one_by_one


@dataclass(frozen=True, slots=True)
class CalculatorPotential:
    """An ASE calculator by name, so that it travels to any pool.

    Attributes:
        name: module and class, with a dot before the class.
        arguments: keyword arguments of the class.

    Example:
        >>> from ase.build import bulk
        >>> (prediction,) = CalculatorPotential("ase.calculators.emt.EMT").evaluate([bulk("Cu")])
        >>> prediction.forces.shape
        (1, 3)
    """

    name: str
    arguments: Mapping[str, Any] = field(default_factory=dict, hash=False)  # Any: whatever the calculator takes

    def calculator(self) -> Calculator:
        """Return a new calculator."""
        module, _, name = self.name.rpartition(".")
        return getattr(import_module(module), name)(**self.arguments)

    def evaluate(self, structures: Sequence[Atoms]) -> list[Prediction]:
        """Return a prediction for each structure."""
        return evaluate_one_by_one(self, structures)
