"""Training and evaluation: the second half of a generation."""

import logging
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from surveyor.campaign import Campaign
from surveyor.dataset import Dataset, DataSets
from surveyor.evaluation import load_predictions
from surveyor.events import announce
from surveyor.files import temporary_beside
from surveyor.flows.sampling import Stopwatch
from surveyor.learning import StructureError, structure_error
from surveyor.metrics import Errors, errors_of
from surveyor.models.choice import load_model
from surveyor.models.committee import CommitteeModel
from surveyor.models.history import epoch_to_json, load_history
from surveyor.models.model import Model
from surveyor.models.training import DATA
from surveyor.potentials import Potential
from surveyor.run_directory import GenerationDirectory
from surveyor.tasks.evaluate import evaluate
from surveyor.tasks.train import train, train_member

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class BeforeTraining:
    """How far a model is off for structures that it has not seen: over all, and by key of the label."""

    over_all: Errors
    by_key: Mapping[str, StructureError]


def errors_before_training(
    campaign: Campaign, number: int, potential: Potential, structures: Dataset, stopwatch: Stopwatch
) -> BeforeTraining:
    """Measure how far the former model is off for a generation's structures, before it learns from them.

    Args:
        campaign: gives the pool.
        number: of the generation.
        potential: of the former model.
        structures: new ones; those without a label are left out.
        stopwatch: measures evaluation.
    """
    directory = campaign.directory.generation(number)
    structures.labelled().save(directory.labelled)
    labelled = Dataset.load(directory.labelled)
    with stopwatch.measuring("evaluation"):
        path = evaluate(
            campaign.training,
            potential,
            dataset=directory.labelled,
            destination=directory.before_training,
            name=f"before training {number}",
        )
    predictions = load_predictions(path, labelled)
    pairs = zip(labelled.keys(), labelled, predictions, strict=True)
    errors = errors_of(labelled, predictions)
    announce(logger, "errors", f"generation {number}: before training {told(errors)}", **errors.to_dict())
    return BeforeTraining(errors, {key: structure_error(atoms, each) for key, atoms, each in pairs})


@dataclass(frozen=True, slots=True)
class Trained:
    """A trained model, its errors by set, and the history of its training, ready for JSON."""

    model: Model
    errors: Mapping[str, Errors]
    history: Sequence[Mapping[str, Any]]  # Any: numbers and None


def train_and_evaluate(campaign: Campaign, number: int, model: Model, data: DataSets, stopwatch: Stopwatch) -> Trained:
    """Train a model on the sets of a generation and evaluate it on each of them.

    Args:
        campaign: gives the pool.
        number: of the generation.
        model: initialized, or trained before.
        data: all sets so far; written to the generation's folder first.
        stopwatch: measures training and evaluation.
    """
    directory = campaign.directory.generation(number)
    data.save(directory.path)
    is_trained = directory.model.exists()
    if not is_trained:
        n_train, n_valid = len(data.train), len(data.valid)
        text = f"generation {number}: training on {n_train} structures, {n_valid} for validation"
        announce(logger, "training_begins", text, generation=number, n_train=n_train, n_valid=n_valid)
    with stopwatch.measuring("training"):
        if isinstance(model, CommitteeModel) and not is_trained:
            _train_members(campaign, number, model)
        # Prefect's memory of a training is worth nothing where the model is not in the generation's folder.
        remembered = train.with_options(refresh_cache=not is_trained)
        remembered(campaign.training, model, directory=directory, name=str(number))
    trained = load_model(directory.model)
    with stopwatch.measuring("evaluation"):
        errors = evaluate_sets(campaign, number, trained.deploy())
    history = load_history(directory.model)
    announce(logger, "training_ends", f"generation {number}: trained in {len(history)} epochs", epochs=len(history))
    return Trained(trained, errors, [epoch_to_json(epoch) for epoch in history])


def _train_members(campaign: Campaign, number: int, model: CommitteeModel) -> None:
    """Train the members of a committee side by side."""
    directory = campaign.directory.generation(number)
    futures = [
        train_member.submit(campaign.training, model, index, directory=directory, name=str(number))
        for index in range(len(model.members))
    ]
    for future in futures:
        future.result()


def evaluate_sets(campaign: Campaign, number: int, potential: Potential) -> dict[str, Errors]:
    """Evaluate a potential on training, validation and test set of a generation."""
    directory = campaign.directory.generation(number)
    futures = {
        name: evaluate.submit(
            campaign.training,
            potential,
            dataset=directory.set_file(name),
            destination=directory.predictions(name),
            name=f"generation {number} on {name}",
        )
        for name in ("train", "valid", "test")
    }
    datasets = {name: Dataset.load(directory.set_file(name)) for name in futures}
    return {
        name: errors_of(datasets[name], load_predictions(f.result(), datasets[name])) for name, f in futures.items()
    }


def adopt(model: Model, directory: GenerationDirectory) -> None:
    """Make a copy of a trained model that of a generation, which then needs no training."""
    if not directory.model.exists() and model.weights is not None:
        with temporary_beside(directory.model) as aside:
            aside.unlink()
            shutil.copytree(model.weights.parent, aside, ignore=shutil.ignore_patterns(DATA))
            aside.rename(directory.model)


def told(errors: Errors) -> str:
    """Return errors as a log line tells them."""
    if errors.energy_rmse is None or errors.forces_rmse is None:
        return "nothing to compare"
    return f"{1e3 * errors.energy_rmse:.2f} meV/atom, {1e3 * errors.forces_rmse:.1f} meV/Å"
