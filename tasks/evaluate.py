import hashlib
from concurrent.futures import Executor
from pathlib import Path

from prefect import task
from prefect.cache_policies import NO_CACHE

from surveyor.evaluation import evaluate_dataset
from surveyor.pools.terms import Terms
from surveyor.potentials import Potential
from surveyor.tasks.execution import run_under, worker_was_lost


@task(
    task_run_name="evaluate {name}",
    retries=3,  # only for a dead worker
    retry_delay_seconds=[1, 10, 60],
    retry_condition_fn=worker_was_lost,
    cache_policy=NO_CACHE,  # the file of predictions is the record
)
def evaluate(pool: Executor | None, potential: Potential, *, dataset: Path, destination: Path, name: str) -> Path:
    """Evaluate a potential on the structures of a file.

    Args:
        pool: pool that runs the evaluation; None runs it here.
        potential: the potential.
        dataset: extxyz file.
        destination: file for the predictions; if it exists, nothing is done.
        name: name for people.

    Returns:
        The file with the predictions.
    """
    terms = Terms(f"evaluate {destination} on {hashlib.sha256(dataset.read_bytes()).hexdigest()}")
    return run_under(pool, terms, evaluate_dataset, potential, dataset, destination)
