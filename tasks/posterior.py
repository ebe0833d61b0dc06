from concurrent.futures import Executor

from prefect import task

from surveyor.models.training import add_posterior
from surveyor.pools.submission import Priority, SubmitOptions
from surveyor.run_directory import GenerationDirectory
from surveyor.tasks.execution import retried, run_with


@task(task_run_name="posterior of {name}", **retried(3))  # the file beside the model is the record
def write_posterior(pool: Executor | None, *, directory: GenerationDirectory, name: str) -> None:
    """Write the last-layer posterior of a trained model, which a selector needs, beside the model.

    Args:
        pool: pool that computes it; None computes it here.
        directory: folder with the sets and the model.
        name: name of the training, for people.
    """
    key, outputs = f"posterior {directory.model}", (f"{directory.model}/",)
    options = SubmitOptions(key, priority=Priority.TRAINING, outputs=outputs, continues=True)
    train, valid = directory.set_file("train"), directory.set_file("valid")
    run_with(pool, options, add_posterior, directory.model, train, valid)
