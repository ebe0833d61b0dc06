"""Training and evaluation: the second half of a generation."""

import logging
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Protocol, TypeVar

from prefect.futures import PrefectFuture

from surveyor.dataset import Dataset, DataSets
from surveyor.dataset.evaluation import load_predictions
from surveyor.dataset.metrics import Errors, StructureError, coverage_in_words, covered, errors_of, structure_errors
from surveyor.events.kinds import ErrorsMeasured, TrainingBegins, TrainingEnds
from surveyor.events.recording import announce
from surveyor.files import make_folder, patiently
from surveyor.flows.stopwatch import Stopwatch
from surveyor.models.choice import load_model
from surveyor.models.committee import CommitteeModel
from surveyor.models.history import epoch_to_json, load_history
from surveyor.models.model import Model
from surveyor.models.training import DATA
from surveyor.potentials import Potential, Prediction
from surveyor.run_directory import GenerationDirectory
from surveyor.selection import WITH_POSTERIOR
from surveyor.tasks.evaluate import evaluate
from surveyor.tasks.posterior import write_posterior
from surveyor.tasks.train import train, train_member
from surveyor.words import number_of
from surveyor.works.campaign import Campaign

T = TypeVar("T")
logger = logging.getLogger(__name__)


class Wait(Protocol):
    """A function that waits for a task and returns its result; other work may go on meanwhile."""

    def __call__(self, future: PrefectFuture[T], /) -> T:
        """Return the result of a task."""


def result_of(future: PrefectFuture[T], /) -> T:
    """Return the result of a task; nothing else goes on meanwhile."""
    return future.result()


@dataclass(frozen=True, slots=True)
class BeforeTraining:
    """Errors of a model for structures that it has not seen.

    Attributes:
        over_all: errors over all structures.
        by_key: of each structure, by key of the label.
        predictions: of the model, by key.
        coverage: `n_covered` of `n` structures, and the `expected` fraction, of the uncertainty that a single model
            states; empty without one.
    """

    over_all: Errors
    by_key: Mapping[str, StructureError]
    predictions: Mapping[str, Prediction]
    coverage: Mapping[str, float] = field(default_factory=dict)

    @property
    def details(self) -> dict[str, Any]:  # Any: JSON
        """Part of the manifest of the generation."""
        return {"coverage": dict(self.coverage)} if self.coverage else {}

    @property
    def coverage_expected(self) -> float | None:
        """Fraction of structures whose largest error the stated uncertainty is to bound; None without such a bound."""
        return self.coverage.get("expected")


def errors_before_training(
    campaign: Campaign, number: int, potential: Potential, structures: Dataset, stopwatch: Stopwatch, wait: Wait
) -> BeforeTraining:
    """Measure how far the former model is off for a generation's structures, before it learns from them.

    Args:
        campaign: gives the pool.
        number: of the generation.
        potential: of the former model.
        structures: new ones; those without a label are left out.
        stopwatch: measures evaluation.
        wait: waits for tasks.
    """
    directory = campaign.directory.generation(number)
    structures.labelled().save(directory.labelled)
    labelled = Dataset.load(directory.labelled)
    with stopwatch.measuring("evaluation"):
        evaluation = evaluate.submit(
            campaign.training,
            potential,
            dataset=directory.labelled,
            destination=directory.before_training,
            name=f"before training {number}",
        )
        path = wait(evaluation)
    predictions = load_predictions(path, labelled)
    errors = errors_of(labelled, predictions)
    coverage = coverage_of(potential, labelled, predictions)
    calibration = f"; {coverage_in_words(**coverage)}" if coverage else ""
    text = f"generation {number}: before training {format_errors(errors)}{calibration}"
    announce(logger, ErrorsMeasured(message=text, errors=errors.to_dict()))
    by_key = dict(zip(labelled.keys(), predictions, strict=True))
    return BeforeTraining(errors, structure_errors(labelled, predictions), by_key, coverage)


def coverage_of(potential: Potential, labelled: Dataset, predictions: Sequence[Prediction]) -> dict[str, Any]:
    """Return the coverage of the uncertainty that a single model states; see `BeforeTraining`."""
    expected: float | None = getattr(potential, "coverage", None)  # a committee states the scale of errors, no bound
    n_covered, n = covered(labelled, predictions)
    return {} if expected is None or n == 0 else {"n_covered": n_covered, "n": n, "expected": expected}


@dataclass(frozen=True, slots=True)
class Trained:
    """A trained model, its errors by set, the sets as they are loaded, and the history of its training for JSON."""

    model: Model
    errors: Mapping[str, Errors]
    data: DataSets
    history: Sequence[Mapping[str, Any]]  # Any: numbers and None


def train_and_evaluate(
    campaign: Campaign, number: int, model: Model, data: DataSets, stopwatch: Stopwatch, wait: Wait = result_of
) -> Trained:
    """Train a model on the sets of a generation and evaluate it on each of them.

    Args:
        campaign: gives the pool.
        number: of the generation.
        model: initialized, or trained before.
        data: all sets so far; written to the generation's folder first.
        stopwatch: measures training and evaluation.
        wait: waits for tasks.
    """
    directory = campaign.directory.generation(number)
    name = f"generation {number}"
    trained = train_on(campaign.training, directory, model, data, stopwatch, name=name, wait=wait)
    if campaign.parameters.learning.select in WITH_POSTERIOR:
        with stopwatch.measuring("training"):
            wait(write_posterior.submit(campaign.training, directory=directory, name=name))
    return trained


def train_on(
    pool: Executor,
    directory: GenerationDirectory,
    model: Model,
    data: DataSets,
    stopwatch: Stopwatch,
    *,
    name: str,
    wait: Wait = result_of,
) -> Trained:
    """Train a model on sets and evaluate it on each of them.

    Args:
        pool: the pool.
        directory: folder for the sets, the training and the model; existing results are not computed again.
        model: an initialized or trained model.
        data: the sets, which are written to the folder first.
        stopwatch: measures training and evaluation.
        name: name of the training, for people.
        wait: waits for tasks.
    """
    data.save(directory.path)
    is_trained = directory.model.exists()
    if not is_trained:
        n_train, n_valid = len(data.train), len(data.valid)
        text = f"{name}: training on {number_of(n_train, 'structure')}, {n_valid} for validation"
        announce(logger, TrainingBegins(message=text, n_train=n_train, n_valid=n_valid))
    with stopwatch.measuring("training"):
        if isinstance(model, CommitteeModel) and not is_trained:
            _train_members(pool, directory, model, name, wait)
        # Prefect's memory of a training is worth nothing where the model is not in the folder.
        wait(train.with_options(refresh_cache=not is_trained).submit(pool, model, directory=directory, name=name))
    trained = load_model(directory.model)
    with stopwatch.measuring("evaluation"):
        errors, loaded = evaluate_sets(pool, directory, trained.deploy(), name, wait)
    history = load_history(directory.model)
    text = f"{name}: trained in {number_of(len(history), 'epoch')}"
    announce(logger, TrainingEnds(message=text, epochs=len(history)))
    return Trained(trained, errors, loaded, [epoch_to_json(epoch) for epoch in history])


def _train_members(
    pool: Executor, directory: GenerationDirectory, model: CommitteeModel, name: str, wait: Wait
) -> None:
    """Train the members of a committee side by side."""
    futures = [
        train_member.submit(pool, model, index, directory=directory, name=name) for index in range(len(model.members))
    ]
    for future in futures:
        wait(future)


def evaluate_sets(
    pool: Executor, directory: GenerationDirectory, potential: Potential, name: str, wait: Wait
) -> tuple[dict[str, Errors], DataSets]:
    """Evaluate a potential on training, validation and test set; return its errors, and all sets as they are loaded."""
    futures = {
        each: evaluate.submit(
            pool,
            potential,
            dataset=directory.set_file(each),
            destination=directory.predictions(each),
            name=f"{name} on {each}",
        )
        for each in ("train", "valid", "test")
    }
    data = DataSets.load(directory.path)  # while they are evaluated
    sets: dict[str, Dataset] = {each: getattr(data, each) for each in futures}
    errors = {each: errors_of(sets[each], load_predictions(wait(f), sets[each])) for each, f in futures.items()}
    return errors, data


def adopt(model: Model, directory: GenerationDirectory) -> None:
    """Make a copy of a trained model that of a generation, which then needs no training."""
    if not directory.model.exists() and model.weights is not None:
        patiently(partial(_copy, model.weights.parent, directory.model), directory.model)


def _copy(model: Path, destination: Path) -> None:
    make_folder(destination.parent)
    with tempfile.TemporaryDirectory(prefix=f".{destination.name}.", dir=destination.parent) as aside:
        copy = shutil.copytree(model, Path(aside) / "copy", ignore=shutil.ignore_patterns(DATA))
        copy.rename(destination)


def format_errors(errors: Errors) -> str:
    """Return errors as text for a log line."""
    if errors.energy_rmse is None or errors.forces_rmse is None:
        return "nothing to compare"
    return f"{1e3 * errors.energy_rmse:.2f} meV/atom{_offset(errors)}, {1e3 * errors.forces_rmse:.1f} meV/Å"


def _offset(errors: Errors) -> str:
    offset, scatter = errors.energy_offset, errors.energy_rmse_without_offset
    if offset is None or scatter is None or not errors.is_mostly_offset:
        return ""
    return f" (mostly a constant offset of {1e3 * offset:+.2f}; {1e3 * scatter:.2f} without it)"
