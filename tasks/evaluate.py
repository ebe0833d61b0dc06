import hashlib
from concurrent.futures import Executor
from pathlib import Path

from prefect import task

from surveyor.dataset.evaluation import evaluate_dataset
from surveyor.pools.submission import Priority, SubmitOptions
from surveyor.potentials import Potential
from surveyor.tasks.execution import retried, run_with


@task(task_run_name="evaluate {name}", **retried(3))  # the file of predictions is the record
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
    content = hashlib.sha256(dataset.read_bytes()).hexdigest()
    key = f"evaluate {destination} on {content}"
    options = SubmitOptions(key, priority=Priority.TRAINING, outputs=(str(destination),), continues=True)
    return run_with(pool, options, evaluate_dataset, potential, dataset, destination)
