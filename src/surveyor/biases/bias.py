"""Biases: energies added to a potential to drive walkers to regions that it alone would not reach."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np


@dataclass(frozen=True, slots=True, eq=False)
class BiasValues:
    """The values of a bias for a structure.

    Attributes:
        energy: energy of the bias in eV.
        forces: forces in eV/Å, shape (n_atoms, 3).
        stress: six Voigt components in eV/Å³ with ASE's sign; None if the structure is not periodic in three
            directions.
        variables: collective variables by name, in the units in which the user gave their restraints.
    """

    energy: float
    forces: np.ndarray
    stress: np.ndarray | None = None
    variables: Mapping[str, float] = field(default_factory=dict)
