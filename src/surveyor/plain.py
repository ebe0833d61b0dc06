"""The steps of the loop for plain Python: a `for` statement and any executor, without Prefect."""

from collections.abc import Callable, Sequence
from concurrent.futures import Executor, as_completed
from pathlib import Path

from ase import Atoms

from surveyor.outcomes import Outcome
from surveyor.potentials import Potential
from surveyor.sampling.propagation import propagate
from surveyor.sampling.walkers import Walker


def explore(
    pool: Executor, walkers: Sequence[Walker], potential: Potential, label: Callable[[Atoms], Atoms], directory: Path
) -> list[Outcome]:
    """Propagate each walker until it returns a structure, and label the structure at once.

    Args:
        pool: executor for walkers and labels.
        walkers: walkers in their current states.
        potential: the potential.
        label: returns a structure with its label, such as a `Labeller`.
        directory: folder of this generation; existing samples are not repeated.
    """
    runs = [
        pool.submit(propagate, walker, potential, directory=directory, name=f"walker-{walker.index}")
        for walker in walkers
    ]
    samples = (run.result() for run in as_completed(runs))
    futures = [(each, None if each.structure is None else pool.submit(label, each.structure)) for each in samples]
    return [Outcome(f"walker-{each.walker.index}", each, future and future.result()) for each, future in futures]
