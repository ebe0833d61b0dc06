"""A reference that counts its launches, and a flow of a user's own, to be run as a script."""

import sys
from pathlib import Path
from typing import Any

from ase import Atoms
from ase.build import bulk
from prefect import flow
from prefect_dask import DaskTaskRunner

from surveyor.labels import LabelStore, LevelOfTheory
from surveyor.pools.pool import Pool
from surveyor.reference.ase import EMTParameters, EMTReference
from surveyor.reference.labelling import Labeller
from surveyor.reference.reference import Reference
from surveyor.reference.rehearsal import Rehearsal
from surveyor.tasks.label import label


def copper(n_structures: int) -> list[Atoms]:
    structures = []
    for seed in range(n_structures):
        structures.append(bulk("Cu", cubic=True))
        structures[-1].rattle(0.05, seed=seed)
    return structures


class Bench:
    """A reference that counts its launches, and a store."""

    def __init__(self, folder: Path, delay_s: float = 0.0) -> None:
        self.log = folder / "launches.log"
        self.reference: Reference = EMTReference(EMTParameters(rehearsal=Rehearsal(log=str(self.log), delay_s=delay_s)))
        self.theory: LevelOfTheory = self.reference.resolve()
        self.store = LabelStore.in_folder(folder / "labels")
        self.scratch = folder / "calculations"

    def submit(
        self, pool: Pool | None, atoms: Atoms, name: str
    ) -> Any:  # Any: Prefect's futures depend on the task runner
        return label.submit(
            pool,
            atoms,
            labeller=Labeller(self.reference, self.theory, self.store, self.scratch),
            name=name,
        )


@flow(
    name="users-own",
    task_runner=DaskTaskRunner(cluster_kwargs={"n_workers": 2, "threads_per_worker": 1, "dashboard_address": None}),
)
def users_own(folder: Path) -> list[Atoms]:
    """Label three structures, one of them twice, where the task runner likes."""
    bench = Bench(folder)
    first = bench.submit(None, copper(1)[0], "first").result()
    futures = [bench.submit(None, atoms, str(number)) for number, atoms in enumerate(copper(3))]
    return [first, *(future.result() for future in futures)]


if __name__ == "__main__":
    users_own(Path(sys.argv[1]))
