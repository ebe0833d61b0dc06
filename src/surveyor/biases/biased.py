"""A calculator of a potential with its biases."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from ase import Atoms
from ase.calculators.calculator import Calculator

from surveyor.biases.bias import BiasValues
from surveyor.potentials import PredictingCalculator, Prediction, predict, results_of
from surveyor.structures import is_periodic

Bias = Callable[[Atoms, float], BiasValues]  # of a structure and what the potential says is its energy, in eV


class BiasedCalculator(PredictingCalculator):
    """ASE calculator of the sum of a potential and its biases.

    Each structure is evaluated once, as biases may have a history. The attributes `unbiased` (of the potential alone),
    `bias_energy` (eV) and `variables` (collective variables by name) are those of the last structure.
    """

    def __init__(self, potential: Calculator, biases: Sequence[Bias]) -> None:
        super().__init__()
        self.potential, self.biases = potential, tuple(biases)
        self.unbiased: Prediction | None = None
        self.bias_energy = 0.0
        self.variables: dict[str, float] = {}

    def results_for(self, atoms: Atoms) -> dict[str, Any]:  # Any: numbers and arrays
        """Return the results of the potential with its biases."""
        self.unbiased = unbiased = predict(self.potential, atoms)
        added = [bias(atoms, unbiased.energy) for bias in self.biases]
        self.bias_energy = float(sum(each.energy for each in added))
        self.variables = {name: value for each in added for name, value in each.variables.items()}
        forces = unbiased.forces + np.sum([each.forces for each in added], axis=0)
        stress = None
        if unbiased.stress is not None and is_periodic(atoms):
            stress = unbiased.stress + np.sum([each.stress for each in added if each.stress is not None], axis=0)
        return results_of(replace(unbiased, energy=unbiased.energy + self.bias_energy, forces=forces, stress=stress))
