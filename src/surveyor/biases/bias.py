"""Biases: what is added to a potential so that walkers go where it alone would not lead them."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np


@dataclass(frozen=True, slots=True, eq=False)
class BiasValues:
    """What a bias says of a structure.

    Attributes:
        energy: of the bias, in eV.
        forces: in eV/Å, shape (n_atoms, 3).
        stress: six Voigt components in eV/Å³ with ASE's sign; None where the structure is not periodic in three
            directions.
        variables: collective variables by name, in the units in which the user gave their restraints.
    """

    energy: float
    forces: np.ndarray
    stress: np.ndarray | None = None
    variables: Mapping[str, float] = field(default_factory=dict)
