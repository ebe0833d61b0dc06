from collections.abc import Mapping, Sequence
from concurrent.futures import Executor

from ase import Atoms
from prefect import task

from surveyor.pools.submission import Priority, SubmitOptions
from surveyor.potentials import Potential
from surveyor.selection import Chosen, SelectionRule
from surveyor.tasks.execution import retried, run_with


@task(task_run_name="choose {n} structures", **retried(3))
def choose(
    pool: Executor | None,
    rule: SelectionRule,
    potential: Potential | None,
    candidates: Mapping[str, Atoms],
    *,
    requested: Sequence[Atoms],
    n: int,
) -> tuple[Chosen, ...]:
    """Choose the structures to be labelled next.

    Args:
        pool: pool that evaluates the potential; None evaluates it here.
        rule: how they are chosen.
        potential: potential of the newest model.
        candidates: structures among which it chooses, by name.
        requested: structures whose labels are requested, and which the model has not learned.
        n: number of structures to choose.
    """
    options = SubmitOptions(priority=Priority.LABELLING)  # labels wait for it
    return run_with(pool, options, rule.choose, potential, candidates, requested, n)
