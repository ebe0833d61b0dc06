"""Training on given files as a kind of work, and its summary."""

from collections.abc import Mapping
from pathlib import Path

from surveyor.dataset import DataSets
from surveyor.dataset.metrics import Errors
from surveyor.models.model import Model
from surveyor.models.trainer import LOG
from surveyor.run_directory import GenerationDirectory, RunDirectory
from surveyor.works.summary import is_complete, write_summary
from surveyor.works.training.checks import CheckedTraining, read_and_check
from surveyor.works.training.division import SETS
from surveyor.works.training.parameters import TrainingParameters
from surveyor.works.work import Kind, Work


class Training(Work[TrainingParameters, CheckedTraining]):
    """A training on files, checked and open."""

    @property
    def is_complete(self) -> bool:
        """True if nothing is left to do but the report."""
        return is_complete(self.directory)

    @property
    def files(self) -> GenerationDirectory:
        """The sets, the training and the model, with the names that those of a generation have."""
        return GenerationDirectory(self.directory.path)


TRAINING = Kind(
    name="training",
    parameters=TrainingParameters,
    work=Training,
    field="train",
    expected="train, output_directory and model",
    may_change=("output_directory", "pool", "allow_leaks"),
    advice="choose another output directory, or restore the parameters and files",
    make=read_and_check,
)


def summarise(directory: RunDirectory, model: Model, data: DataSets, errors: Mapping[str, Errors]) -> None:
    """Write the summary of a training, as its last file."""
    content = {
        "model": str(model.weights),
        "atomic_energies": dict(model.atomic_energies or {}),
        "n_structures": {name: len(getattr(data, name)) for name in SETS},
        "errors": {name: each.to_dict() for name, each in errors.items()},
        "logs": [path.relative_to(directory.path).as_posix() for path in _logs(directory)],
    }
    write_summary(directory, content)


def _logs(directory: RunDirectory) -> list[Path]:
    """Return the logs of the trainer: one, or one for each member of a committee; none of a model without a trainer."""
    return sorted(GenerationDirectory(directory.path).training.rglob(LOG))
