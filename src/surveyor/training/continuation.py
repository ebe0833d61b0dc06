"""Rules by which a call continues the training in its folder."""

from pathlib import Path

from surveyor.errors import InputError
from surveyor.models.choice import load_model
from surveyor.models.record import RECORD
from surveyor.run_directory import RunDirectory
from surveyor.training.parameters import TrainingParameters
from surveyor.works.continuation import check_same_parameters

MAY_CHANGE = ("output_directory", "pool", "allow_leaks")


def check_continuation(directory: RunDirectory, parameters: TrainingParameters) -> None:
    """Check that a folder is new, or holds a training with these parameters.

    Raises:
        InputError: it holds one with other parameters: shows the difference.
    """
    advice = "choose another output directory, or restore the parameters and files"
    check_same_parameters(directory, parameters, recorded_files(parameters), MAY_CHANGE, "training", advice)


def recorded_files(parameters: TrainingParameters) -> dict[str, Path]:
    """Return the files whose contents make a training what it is, by field; those of `start` stand for its folder."""
    files = parameters.input_files()
    if parameters.start is None:
        return files
    weights = load_model(parameters.start).weights
    if weights is None or not weights.is_file():
        raise InputError(f"start: {parameters.start} has no weights; give a folder that surveyor saved a model to")
    return {**files, "start": weights, "start.record": parameters.start / RECORD}
