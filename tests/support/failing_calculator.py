from typing import Any

from ase import Atoms
from ase.calculators.calculator import SCFError, all_changes
from ase.calculators.emt import EMT


class FailingEMT(EMT):
    """ASE's EMT, which does not converge for structures whose first atom has moved up along z."""

    def calculate(
        self, atoms: Atoms | None = None, properties: Any = ("energy",), system_changes: Any = all_changes
    ) -> None:
        if atoms is not None and len(atoms) > 1 and atoms.positions[0, 2] > atoms.positions[:, 2].min() + 0.2:
            raise SCFError("did not converge")
        super().calculate(atoms, properties, system_changes)
