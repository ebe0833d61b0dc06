"""A reference as a potential, on which walkers move."""

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms
from ase.calculators.calculator import Calculator

from surveyor.labels import Label, LevelOfTheory
from surveyor.potentials import PredictingCalculator, Prediction, evaluate_one_by_one, results_of
from surveyor.reference.reference import Reference


@dataclass(frozen=True, slots=True)
class ReferencePotential:
    """A reference as a potential; each evaluation is a calculation, and nothing of it is kept.

    A calculation that fails gives numbers that are not finite, for which guards stop a walker.

    Attributes:
        reference: the reference.
        theory: its level of theory.
    """

    reference: Reference
    theory: LevelOfTheory

    def calculator(self) -> Calculator:
        """Return a new ASE calculator."""
        return ReferenceCalculator(self)

    def evaluate(self, structures: Sequence[Atoms]) -> list[Prediction]:
        """Return the energy, forces and stress of each structure."""
        return evaluate_one_by_one(self, structures)

    def compute(self, atoms: Atoms) -> Prediction:
        """Return the energy, forces and stress of a structure."""
        with tempfile.TemporaryDirectory(prefix="surveyor-") as folder:
            outcome = self.reference.compute(self.theory.with_electrons(atoms), Path(folder))
        if isinstance(outcome, Label):
            return Prediction(outcome.energy, np.array(outcome.forces), outcome.stress)
        return Prediction(np.nan, np.full((len(atoms), 3), np.nan), np.full(6, np.nan))


class ReferenceCalculator(PredictingCalculator):
    """ASE calculator of a reference."""

    def __init__(self, potential: ReferencePotential) -> None:
        super().__init__()
        self._potential = potential

    def results_for(self, atoms: Atoms) -> dict[str, Any]:  # Any: numbers and arrays
        """Return the results of the reference."""
        return results_of(self._potential.compute(atoms))
