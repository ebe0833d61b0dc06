"""A calculator of a potential with its biases."""

from collections.abc import Callable, Sequence

import numpy as np
from ase import Atoms
from ase.calculators.calculator import Calculator, all_changes

from surveyor.biases.bias import BiasValues
from surveyor.potentials import UNCERTAINTY, Prediction, predict
from surveyor.structures import is_periodic

Bias = Callable[[Atoms, float], BiasValues]  # of a structure and what the potential says is its energy, in eV


class BiasedCalculator(Calculator):  # type: ignore[misc]  # mypy sees no types of ASE's
    """ASE calculator of the sum of a potential and its biases.

    Each structure is evaluated once, as biases may have a history. The attributes `unbiased` (of the potential alone),
    `bias_energy` (eV) and `variables` (collective variables by name) are those of the last structure.
    """

    implemented_properties = ["energy", "free_energy", "forces", "stress"]  # noqa: RUF012  (ASE declares a plain list)

    def __init__(self, potential: Calculator, biases: Sequence[Bias]) -> None:
        super().__init__()
        self.potential, self.biases = potential, tuple(biases)
        self.unbiased: Prediction | None = None
        self.bias_energy = 0.0
        self.variables: dict[str, float] = {}

    def calculate(
        self,
        atoms: Atoms | None = None,
        properties: Sequence[str] = ("energy",),
        system_changes: Sequence[str] = tuple(all_changes),
    ) -> None:
        """Compute energy, forces and, where the structure is periodic, stress."""
        super().calculate(atoms, properties, system_changes)
        self.unbiased = unbiased = predict(self.potential, self.atoms)
        added = [bias(self.atoms, unbiased.energy) for bias in self.biases]
        self.bias_energy = float(sum(each.energy for each in added))
        self.variables = {name: value for each in added for name, value in each.variables.items()}
        energy = unbiased.energy + self.bias_energy
        forces = unbiased.forces + np.sum([each.forces for each in added], axis=0)
        self.results = {"energy": energy, "free_energy": energy, "forces": forces}
        if unbiased.stress is not None and is_periodic(self.atoms):
            stresses = [each.stress for each in added if each.stress is not None]
            self.results["stress"] = unbiased.stress + np.sum(stresses, axis=0)
        if unbiased.uncertainty is not None:
            self.results[UNCERTAINTY] = unbiased.uncertainty
