"""Training on given files: labelled structures in, a model and its errors out."""

import logging
from pathlib import Path

from surveyor.errors import TrainingFailed
from surveyor.events.kinds import ErrorsMeasured, TrainingEnds, WorkBegins
from surveyor.events.recording import announce
from surveyor.flows.opening import opened, relayed
from surveyor.flows.paths import of_run, run_url
from surveyor.flows.stopwatch import Stopwatch
from surveyor.flows.train_commands import TRAINING_VIEW
from surveyor.flows.training import format_errors, train_on
from surveyor.flows.users_flow import users_flow
from surveyor.models.choice import ModelParameters
from surveyor.pools.choice import LOCAL
from surveyor.reading import announce_readings
from surveyor.reading.keys import REF_KEYS, LabelKeys
from surveyor.tasks.report import report_training
from surveyor.works.training import TRAINING, Training, summarise

logger = logging.getLogger(__name__)


@users_flow(TRAINING_VIEW)
def train_model(
    train: Path,
    output_directory: Path,
    model: ModelParameters | None = None,
    valid: Path | None = None,
    valid_fraction: float = 0.1,
    test: Path | None = None,
    label_keys: LabelKeys = REF_KEYS,
    allow_leaks: bool = False,
    atomic_energies: dict[str, float] | None = None,
    seed: int = 0,
    start: Path | None = None,
    pool: str = LOCAL,
) -> Path:
    """Train a model on labelled structures; the same call on the same folder continues where it stopped.

    Args:
        train: File with labelled structures, an absolute path.
        output_directory: Folder of the results, an absolute path.
        model: The potential to train; give exactly one, or none if `start` is given.
        valid: File with labelled structures used to choose the best epoch; by default a part of the training data.
        valid_fraction: Fraction of the training data drawn at random for validation, if no validation data are given.
        test: File with labelled structures that are never used in the training.
        label_keys: Names of energy, forces and stress in these files.
        allow_leaks: Train even if structures of the test data are also in the training or validation data.
        atomic_energies: Energy of the isolated atom in eV by chemical symbol. Energies of other
            elements are taken from isolated atoms in the data, or else fitted.
        seed: Seed of the weights, the order of batches and the division of the data.
        start: Folder of a saved model from whose weights the training starts.
        pool: Pool that runs the training.

    Returns:
        The native file of the model; beside its folder are `summary.json`, the predictions and the figures.
    """
    with opened(TRAINING, locals()) as training, relayed(training.directory, training.pools):
        return train_on_files(training)


def train_on_files(training: Training) -> Path:
    """Train within a flow, unless the training is complete, and write the summary.

    Args:
        training: the open training.

    Returns:
        The native file of the model.
    """
    path, url, checked = training.directory.path, run_url(), training.checked
    announce(logger, WorkBegins(message=f"{path}{of_run(url)}", url=url))
    if training.is_complete and checked.model.weights is not None:
        announce(logger, TrainingEnds(message=f"{path.name} is complete"))
        _report(training)
        return checked.model.weights
    announce_readings(checked.reports)
    trained = train_on(training.training, training.files, checked.model, checked.data, Stopwatch(), name=path.name)
    if trained.model.weights is None:
        raise TrainingFailed("the training left no model", path)
    summarise(training.directory, trained.model, checked.data, trained.errors)
    for name, errors in trained.errors.items():
        if errors.n_structures:
            announce(
                logger, ErrorsMeasured(message=f"{name}: {format_errors(errors)}", set=name, errors=errors.to_dict())
            )
    _report(training)
    return trained.model.weights


def _report(training: Training) -> None:
    """Draw the figures and show them in the interface, unless that was done before."""
    if training.files.figures.exists():
        return
    state = report_training(training.directory, return_state=True)
    if state.is_failed():
        # The model is there; the same call writes the report again.
        logger.error("the report failed: %s", state.message)
