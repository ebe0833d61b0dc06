"""The summary of a complete training on given files."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from surveyor.dataset import DataSets
from surveyor.errors import InputError
from surveyor.files import read_json, write_json
from surveyor.metrics import Errors
from surveyor.models.model import Model
from surveyor.models.trainer import LOG
from surveyor.run_directory import SCHEMA_VERSION, GenerationDirectory, RunDirectory, check_schema
from surveyor.training.division import SETS

SUMMARY = "summary.json"


def write_summary(directory: RunDirectory, model: Model, data: DataSets, errors: Mapping[str, Errors]) -> None:
    """Write, last, what came of a training."""
    record = {
        "schema_version": SCHEMA_VERSION,
        "model": str(model.weights),
        "atomic_energies": dict(model.atomic_energies or {}),
        "n_structures": {name: len(getattr(data, name)) for name in SETS},
        "errors": {name: each.to_dict() for name, each in errors.items()},
        "logs": [path.relative_to(directory.path).as_posix() for path in _logs(directory)],
    }
    write_json(directory.path / SUMMARY, record)


def _logs(directory: RunDirectory) -> list[Path]:
    """Return the logs of the trainer: one, or one for each member of a committee; none of a model without a trainer."""
    return sorted(GenerationDirectory(directory.path).training.rglob(LOG))


def is_complete(directory: RunDirectory) -> bool:
    """Say whether a training is complete: its summary is written last."""
    return (directory.path / SUMMARY).is_file()


def read_training_summary(directory: RunDirectory) -> dict[str, Any]:  # Any: whatever JSON holds
    """Return the summary of a training.

    Raises:
        InputError: it is not complete, or was written by a newer surveyor.
    """
    path = directory.path / SUMMARY
    if not is_complete(directory):
        raise InputError(f"the training in {directory.path} is not complete; the same call continues it")
    summary: dict[str, Any] = read_json(path)
    check_schema(summary, path)
    return summary


def is_training(directory: RunDirectory) -> bool:
    """Say whether a folder is that of a training on files."""
    return directory.parameters.is_file() and "train" in read_json(directory.parameters)["parameters"]
