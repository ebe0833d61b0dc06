from concurrent.futures import Executor
from pathlib import Path

from prefect import task

from surveyor.benchmark import Point, learn_point
from surveyor.pools.submission import Priority, SubmitOptions
from surveyor.tasks.execution import retried, run_with


@task(task_run_name="learn {name}", **retried(24))  # a training continues from its last checkpoint
def learn(pool: Executor | None, point: Point, *, name: str) -> Path:
    """Compute a point of a learning curve of a benchmark: choose structures, train a model, and measure its errors.

    Args:
        pool: pool that trains; None trains here.
        point: the point; the one before it on its curve is complete.
        name: name for people.

    Returns:
        The file with the results.
    """
    options = SubmitOptions(f"learn {point.files.path}", priority=Priority.TRAINING)
    return run_with(pool, options, learn_point, point)
