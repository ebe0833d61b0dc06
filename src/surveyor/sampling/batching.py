"""Batches of walkers that share a potential: one pass of the model serves all of them at each step."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path

from ase.calculators.calculator import Calculator

from surveyor.potentials import Potential, evaluates_together
from surveyor.sampling.lockstep import Lockstep
from surveyor.sampling.propagation import propagate
from surveyor.sampling.walkers import Sample, Walker
from surveyor.words import number_of


@dataclass(frozen=True, slots=True, eq=False)
class SamplePlan:
    """The samples that one walker is to return.

    Attributes:
        walker: as it was before.
        names: of its samples, one after the other.
    """

    walker: Walker
    names: tuple[str, ...]


def in_batches(plans: Sequence[SamplePlan], size: int) -> list[tuple[SamplePlan, ...]]:
    """Return the plans in order, in batches of nearly equal size."""
    n_batches = -(-len(plans) // size)  # rounded up
    bounds = [len(plans) * number // n_batches for number in range(n_batches + 1)] if n_batches else [0]
    return [tuple(plans[begin:end]) for begin, end in pairwise(bounds)]


def name_of_batch(batch: Sequence[SamplePlan]) -> str:
    """Return the name of a batch: the first of its samples, and the number of its other walkers."""
    first, n_others = batch[0].names[0], len(batch) - 1
    return f"{first} and {number_of(n_others, 'more walker')}" if n_others else first


def propagate_together(
    plans: Sequence[SamplePlan],
    potential: Potential | None,
    *,
    directory: Path,
    n_tries: int = 5,
    n_at_once: int | None = None,
) -> list[tuple[str, Sample]]:
    """Propagate several walkers together, and write each sample as soon as it is complete.

    Each walker is propagated as by `propagate`, with its own files. When a walker ends, a waiting one takes its place.

    Args:
        plans: the samples to obtain from each walker.
        potential: the potential, which evaluates all moving walkers at once; if it does not evaluate structures
            together, walkers move in sequence. None for walkers that perturb.
        directory: folder of samples and checkpoints.
        n_tries: maximum number of tries per sample.
        n_at_once: number of walkers that move at the same time; by default all.

    Returns:
        The samples with their names, in the order of the plans.
    """
    calls = [partial(_follow, plan, potential, directory=directory, n_tries=n_tries) for plan in plans]
    if potential is None or len(plans) == 1 or not evaluates_together(potential):
        brought = [call(None) for call in calls]
    else:
        lockstep: Lockstep[list[tuple[str, Sample]]] = Lockstep(potential, n_at_once or len(plans))
        brought = lockstep.run(calls)
    return [each for of_walker in brought for each in of_walker]


def _follow(
    plan: SamplePlan, potential: Potential | None, calculator: Calculator | None, *, directory: Path, n_tries: int
) -> list[tuple[str, Sample]]:
    samples, walker = [], plan.walker
    for name in plan.names:
        sample = propagate(walker, potential, directory=directory, name=name, n_tries=n_tries, calculator=calculator)
        samples.append((name, sample))
        walker = sample.walker
    return samples


def batch_size(wanted: int | None, potential: Potential, n_walkers: int, n_workers: int) -> int:
    """Return how many walkers move together: as many as keep all workers of a pool busy, if nothing else is asked.

    Args:
        wanted: by the user; None leaves it to this.
        potential: on which they move; those that gain nothing from batches have walkers move alone.
        n_walkers: how many there are.
        n_workers: of the pool where they move; 0 of one that has none yet, and is to see what there is to do.
    """
    if wanted is None and evaluates_together(potential):
        return max(1, -(-n_walkers // (n_workers or n_walkers)))  # rounded up
    return wanted or 1
