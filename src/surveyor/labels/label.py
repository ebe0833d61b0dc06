"""Labels: energy, forces and stress of a structure at a level of theory."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from ase import Atoms

WORK = "work"  # in the provenance of a label: the work that computed it, see `surveyor.labels.claims.Claimant`


@dataclass(frozen=True, slots=True, eq=False)
class Label:
    """Energy, forces and stress of a structure at a level of theory.

    Attributes:
        energy: force-consistent total energy in eV, unshifted.
        forces: in eV/Å, shape (n_atoms, 3).
        stress: six Voigt components in eV/Å³ with ASE's sign, None where the structure is not periodic in three
            directions.
        provenance: hash of the inputs, program, version, SCF steps, wall time, host, and the work that computed it.
    """

    energy: float
    forces: np.ndarray
    stress: np.ndarray | None = None
    provenance: Mapping[str, Any] = field(default_factory=dict)  # Any: whatever JSON holds

    def is_complete_for(self, atoms: Atoms) -> bool:
        """Return whether all numbers exist for the given number of atoms, and are finite."""
        has_all = self.forces.shape == (len(atoms), 3) and (self.stress is None or self.stress.shape == (6,))
        numbers = (self.energy, self.forces, () if self.stress is None else self.stress)
        return has_all and all(bool(np.isfinite(each).all()) for each in numbers)
