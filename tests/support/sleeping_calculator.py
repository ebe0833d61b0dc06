from pathlib import Path
from typing import Any

from ase import Atoms
from ase.calculators.calculator import all_changes

from surveyor.programs import run_program
from surveyor.testing.references import CountingEMT


class SleepingEMT(CountingEMT):
    """ASE's EMT, which counts what it computes, after a program has run to its end.

    Args:
        log: file for the traces of launches; the program's output goes beside it.
        seconds: how long the program runs.
    """

    def __init__(self, log: str, seconds: float) -> None:
        super().__init__(log)
        self.folder = Path(log).parent
        self.seconds = seconds

    def calculate(
        self, atoms: Atoms | None = None, properties: Any = ("energy",), system_changes: Any = all_changes
    ) -> None:
        command = ["sleep", str(self.seconds)]
        assert run_program(command, directory=self.folder, output=self.folder / "sleep.log").returncode == 0
        super().calculate(atoms, properties, system_changes)
