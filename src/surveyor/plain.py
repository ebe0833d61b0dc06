"""The steps of the loop for plain Python: a `for` statement and any executor, without Prefect."""

from collections.abc import Callable, Sequence
from concurrent.futures import Executor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from ase import Atoms

from surveyor.dataset import with_label
from surveyor.labels import LabelStore, LevelOfTheory, label_key
from surveyor.outcomes import Outcome
from surveyor.potentials import Potential
from surveyor.reference.labelling import label_structure
from surveyor.reference.reference import Reference
from surveyor.sampling.propagation import propagate
from surveyor.sampling.walkers import Walker


@dataclass(frozen=True, slots=True)
class Labeller:
    """A function from a structure to the structure with its label; any executor can call it.

    Attributes:
        reference: computes labels.
        theory: its level of theory.
        store: where labels are kept; what it has is not computed again.
        scratch: folder for the files of calculations.
    """

    reference: Reference
    theory: LevelOfTheory
    store: LabelStore
    scratch: Path

    @classmethod
    def in_folder(cls, folder: Path, reference: Reference) -> Self:
        """Return a labeller whose store is `labels` in a folder, and whose calculations are beside it.

        Raises:
            InputError: the program of the reference is missing, or lacks what is needed.
        """
        store = LabelStore.in_folder(folder / "labels")
        return cls(reference, reference.resolve(), store, folder / "calculations")

    def __call__(self, atoms: Atoms) -> Atoms:
        """Return a structure with its label, or with the reason why it has none."""
        outcome = label_structure(atoms, self.reference, self.theory, self.store, self.scratch)
        return with_label(atoms, label_key(atoms, self.theory), outcome)


def explore(
    pool: Executor, walkers: Sequence[Walker], potential: Potential, label: Callable[[Atoms], Atoms], directory: Path
) -> list[Outcome]:
    """Let each walker bring a structure, and label it as soon as it is there.

    Args:
        pool: where walkers move and structures are labelled.
        walkers: where they are now.
        potential: on which they move.
        label: returns a structure with its label, such as a `Labeller`.
        directory: for the files of this generation; what it has is not sampled again.
    """
    runs = [
        pool.submit(propagate, walker, potential, directory=directory, name=f"walker-{walker.index}")
        for walker in walkers
    ]
    samples = (run.result() for run in as_completed(runs))
    futures = [(each, None if each.structure is None else pool.submit(label, each.structure)) for each in samples]
    return [Outcome(f"walker-{each.walker.index}", each, future and future.result()) for each, future in futures]
