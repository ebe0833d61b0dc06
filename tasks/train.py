import hashlib
from concurrent.futures import Executor
from typing import Any

from prefect import task
from prefect.cache_policies import CacheKeyFnPolicy
from prefect.context import TaskRunContext

from surveyor.models.committee import CommitteeModel
from surveyor.models.history import MEMBERS
from surveyor.models.model import Model, digest_of
from surveyor.models.training import train_model, train_one_member
from surveyor.pools.submission import Priority, SubmitOptions
from surveyor.pools.worker_check import CODE, versions
from surveyor.run_directory import GenerationDirectory
from surveyor.tasks.execution import retried, run_with


def training_key(_context: TaskRunContext, arguments: dict[str, Any]) -> str:  # Any: Prefect gives all arguments
    """Return the key under which Prefect remembers a training: task, version and code, model, data; no path."""
    return content_of(arguments["model"], arguments["directory"])


def content_of(model: Model, directory: GenerationDirectory) -> str:
    """Return a digest of the model, the data, and the version and the code of surveyor, on which a training depends."""
    contents = [directory.set_file(name).read_bytes() for name in ("train", "valid")]
    here = f"{versions()['surveyor']} {versions()[CODE]}"  # two checkouts of one version may differ
    parts = [b"train", here.encode(), digest_of(model).encode(), *contents]
    return hashlib.sha256(b"".join(hashlib.sha256(part).digest() for part in parts)).hexdigest()


RETRIED = retried(24)  # a training goes on from its last checkpoint, so each job brings it on: it may take many


@task(
    task_run_name="train {name}",
    **(RETRIED | {"cache_policy": CacheKeyFnPolicy(cache_key_fn=training_key)}),
    persist_result=True,
)
def train(pool: Executor | None, model: Model, *, directory: GenerationDirectory, name: str) -> str:
    """Train a model on the sets in a folder, such as that of a generation; the result is the model there.

    Args:
        pool: where to run; None runs here.
        model: initialized, or trained before.
        directory: with the sets.
        name: of the training, for people.

    Returns:
        The digest of the trained model.
    """
    test, written = directory.set_file("test"), (f"{directory.model}/", f"{directory.training}/")
    trained, _ = run_with(
        pool,
        SubmitOptions(
            f"train {directory.model}: {content_of(model, directory)}",
            priority=Priority.TRAINING,
            outputs=written,
            continues=True,
        ),
        train_model,
        model,
        directory.set_file("train"),
        directory.set_file("valid"),
        directory=directory.training,
        destination=directory.model,
        test=test if test.exists() else None,  # a flow of a user's own may have none
    )
    return digest_of(trained)


@task(task_run_name="train {name}, member {index}", **RETRIED)
def train_member(
    pool: Executor | None, model: CommitteeModel, index: int, *, directory: GenerationDirectory, name: str
) -> None:
    """Train one member of a committee on the sets in a folder; `train` finds it trained then.

    Args:
        pool: where to run; None runs here.
        model: initialized, or trained before.
        index: of the member, from 0.
        directory: with the sets.
        name: of the training, for people.
    """
    run_with(
        pool,
        SubmitOptions(
            f"train member {index} of {directory.model}: {content_of(model, directory)}",
            priority=Priority.TRAINING,
            outputs=(f"{directory.training / MEMBERS / str(index)}/",),
            continues=True,
        ),
        train_one_member,
        model,
        index,
        directory.set_file("train"),
        directory.set_file("valid"),
        directory=directory.training,
    )
