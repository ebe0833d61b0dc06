"""A folder in which a small campaign runs by a call in Python."""

from pathlib import Path
from typing import Any

import ase.io
from ase import Atoms
from ase.build import bulk
from ase.cluster import Icosahedron

from surveyor.dataset import DataSets
from surveyor.flows.online_learning import online_learning
from surveyor.run_directory import RunDirectory
from surveyor.testing.references import launches

LOOSE = {
    "reset_energy_meV_per_atom": 1e6,
    "reset_forces_meV_per_A": 1e6,
    "discard_energy_meV_per_atom": 1e6,
    "discard_forces_meV_per_A": 1e6,
}


def write_starts(path: Path, *structures: Atoms) -> Path:
    ase.io.write(path, structures or [bulk("Cu", cubic=True), Icosahedron("Cu", 2)], format="extxyz")
    return path


class Folder:
    """A folder with a start file, in which a campaign runs whose reference counts its launches."""

    def __init__(self, path: Path) -> None:
        path.mkdir(exist_ok=True)
        self.path = path
        self.log = path / "launches.log"
        self.directory = RunDirectory(path / "run")
        self.walkers = {"start": write_starts(path / "starts.extxyz"), "n_steps": 20, "max_temperature_factor": 100}

    def parameters(self, n_walkers: int = 2, learning: dict[str, Any] | None = None, **others: Any) -> dict[str, Any]:
        counting = {"log": str(self.log)}
        return {
            "run_directory": self.directory.path,
            "walkers": [{**self.walkers, "n_walkers": n_walkers}],
            "reference": {"emt": {"rehearsal": counting}},
            "model": {"pair": {"n_basis": 8}},
            "bootstrap": {"n_structures": 6},
            "learning": {"n_generations": 1, **LOOSE, **(learning or {})},
            **others,
        }

    def run(self, **changes: Any) -> Path:
        return online_learning(**self.parameters(**changes))

    def n_launches(self) -> int:
        return len(launches(self.log))

    def data(self, number: int) -> DataSets:
        return self.directory.load_generation(number, ()).data

    def n_brought(self, number: int) -> int:
        return len(self.data(number).keys()) - (len(self.data(number - 1).keys()) if number else 0)
