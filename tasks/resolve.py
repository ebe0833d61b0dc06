"""Questions that only a pool can answer, asked before work begins."""

from collections.abc import Sequence
from concurrent.futures import Executor

from prefect import task
from prefect.futures import PrefectFuture

from surveyor.labels import LevelOfTheory
from surveyor.models.choice import ModelParameters, check_model_parameters
from surveyor.pools.submission import Priority, SubmitOptions
from surveyor.reference.atomic_energies import atomic_energy
from surveyor.reference.labelling import Labeller
from surveyor.reference.reference import Reference, time_limit_of
from surveyor.sampling.checks import check_walkers
from surveyor.sampling.conditions import Walkers
from surveyor.tasks.execution import retried, run_on, run_unclaimed, run_with


@task(**retried(3))  # asked anew, so that a program that was replaced is noticed
def resolve_theory(pool: Executor | None, reference: Reference) -> LevelOfTheory:
    """Return the level of theory, as the data files and the program on the labelling pool make it.

    Args:
        pool: where to run; None runs here.
        reference: whose level of theory it is.
    """
    return run_on(pool, reference.resolve)


@task(**retried(3))  # asked anew
def check_model(pool: Executor | None, parameters: ModelParameters, features_for: str = "") -> None:
    """Check that the training pool has the engine of a model, and that the engine knows the options.

    Args:
        pool: where to run; None runs here.
        parameters: of the model to be trained.
        features_for: the setting that needs the features of the model; see `check_model_parameters`.
    """
    run_on(pool, check_model_parameters, parameters, features_for)


@task(**retried(3))  # asked anew
def check_biases(pool: Executor | None, groups: Sequence[Walkers]) -> None:
    """Check that the sampling pool has PLUMED, which takes the inputs of walkers.

    Args:
        pool: where to run; None runs here.
        groups: of walkers with PLUMED inputs.
    """
    run_on(pool, check_walkers, groups)


def ask_about_biases(pool: Executor | None, groups: Sequence[Walkers]) -> PrefectFuture[None] | None:
    """Ask the sampling pool about walkers with PLUMED; return None without any, so that the pool is not opened.

    Args:
        pool: pool that runs the check; None runs it here.
        groups: groups of walkers.
    """
    biased = [group for group in groups if group.plumed is not None]
    return check_biases.submit(pool, biased) if biased else None


@task(task_run_name="atomic energy {element}", **retried(3))  # the label store is the cache
def compute_atomic_energy(
    pool: Executor | None,
    element: str,
    *,
    labeller: Labeller,
) -> float:
    """Return the energy in eV of the isolated atom of an element.

    Args:
        pool: where to run; None runs here.
        element: chemical symbol.
        labeller: computes it, and keeps the labels of the atom in all its multiplicities.
    """
    digest, store = labeller.theory.digest, labeller.store
    key, limit_s = f"atomic energy of {element}, {digest} in {store}", time_limit_of(labeller.reference)
    options = SubmitOptions(key, limit_s, Priority.LABELLING, (f"{labeller.scratch}/",))
    return run_unclaimed(store, lambda mine: run_with(pool, options, atomic_energy, element, labeller.with_store(mine)))
