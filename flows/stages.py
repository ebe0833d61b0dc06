"""The stages of a generation, composed of tasks; what several flows share."""

import hashlib
import logging
import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from threading import BoundedSemaphore
from typing import Any

from ase import Atoms
from prefect import allow_failure, runtime
from prefect.futures import PrefectFuture, wait
from prefect.logging import get_run_logger

from surveyor.campaign import Campaign, freeze_atomic_energies, freeze_theory
from surveyor.dataset import Dataset, DataSets
from surveyor.errors import InputError
from surveyor.evaluation import load_predictions
from surveyor.events import Relay, announce, reporting
from surveyor.files import read_json, temporary_beside, write_json
from surveyor.labels import LevelOfTheory
from surveyor.learning import StructureError, plan_propagations, structure_error
from surveyor.metrics import Errors, errors_of
from surveyor.models.choice import load_model
from surveyor.models.history import epoch_to_json, load_history
from surveyor.models.model import Model
from surveyor.outcomes import Outcome
from surveyor.potentials import Potential
from surveyor.run_directory import SCHEMA_VERSION, Generation, GenerationDirectory
from surveyor.sampling.walkers import Sample
from surveyor.structures import elements_of
from surveyor.tasks.evaluate import evaluate
from surveyor.tasks.label import label
from surveyor.tasks.report import report, tag_run
from surveyor.tasks.resolve import check_model, compute_atomic_energy, resolve_theory
from surveyor.tasks.sample import sample
from surveyor.tasks.train import train

logger = logging.getLogger(__name__)

LEAST_AT_ONCE = 16  # cheap labels: as few as keep a small pool busy, as a task takes longer to begin than they take


@dataclass(frozen=True, slots=True)
class Stopwatch:
    """Wall times of the stages of a generation.

    Attributes:
        seconds: by stage.
    """

    seconds: dict[str, float] = field(default_factory=dict)

    @property
    def times(self) -> dict[str, dict[str, float]]:
        """The times as the manifest of a generation keeps them."""
        return {"wall_time_s": {stage: round(seconds, 3) for stage, seconds in self.seconds.items()}}

    @contextmanager
    def measuring(self, stage: str) -> Iterator[None]:
        """Add the time that this lasts to a stage."""
        begin = time.monotonic()
        try:
            yield
        finally:
            self.seconds[stage] = self.seconds.get(stage, 0.0) + time.monotonic() - begin


@contextmanager
def followed(campaign: Campaign) -> Iterator[None]:
    """Bring what happens, here and on the pools, to the campaign's events and to the log of the flow run."""
    log = get_run_logger()

    def tell(event: Mapping[str, Any]) -> None:  # Any: whatever JSON holds
        if "message" in event:
            log.log(event.get("level", logging.INFO), "%s", event["message"])

    relay = Relay(campaign.directory.workers, campaign.directory.events, tell)
    with reporting(campaign.directory.events), relay.running():
        url = runtime.flow_run.ui_url
        announce(logger, "campaign_begins", f"{campaign.directory.path}; this run: {url}", url=url)
        yield


def resolve(campaign: Campaign) -> LevelOfTheory:
    """Ask the pools what only they know; return the level of theory, which must be that of the campaign.

    Raises:
        InputError: a pool lacks what is needed, or the level of theory is another one than when the campaign began.
    """
    checked = check_model.submit(campaign.training, campaign.parameters.model)
    theory = resolve_theory(campaign.labelling, campaign.reference)
    checked.result()
    return freeze_theory(campaign, theory)


def label_isolated_atoms(campaign: Campaign, theory: LevelOfTheory, structures: Sequence[Atoms]) -> None:
    """Compute the energies of the isolated atoms of all elements, and keep them for the whole campaign."""

    def compute() -> dict[str, float]:
        futures = {
            element: compute_atomic_energy.submit(
                campaign.labelling,
                element,
                reference=campaign.reference,
                theory=theory,
                store=campaign.store,
                scratch=campaign.directory.scratch,
            )
            for element in elements_of(structures)
        }
        return {element: future.result() for element, future in futures.items()}

    freeze_atomic_energies(campaign, compute)


def submit_label(
    campaign: Campaign, theory: LevelOfTheory, structure: Atoms | PrefectFuture[Sample], name: str
) -> PrefectFuture[Any]:  # Any: the labelled structure, or None
    """Submit the label of a structure, or of what a walker will bring: then it is computed as soon as it is there."""
    return label.submit(
        campaign.labelling,
        structure,
        reference=campaign.reference,
        theory=theory,
        store=campaign.store,
        scratch=campaign.directory.scratch,
        name=name,
    )


def label_all(campaign: Campaign, theory: LevelOfTheory, structures: Sequence[Atoms], number: int) -> list[Outcome]:
    """Label structures, side by side.

    Args:
        campaign: gives reference, store and pool.
        theory: the level of theory.
        structures: to be labelled.
        number: of the generation.
    """
    _announce_generation(number, len(structures))
    names = [f"g{number:03d}-{index:03d}" for index in range(len(structures))]
    n_at_once = max(LEAST_AT_ONCE, campaign.pools.labelling.capacity)
    calls = [partial(submit_label, campaign, theory, *pair) for pair in zip(structures, names, strict=True)]
    futures = submit_some_at_once(calls, n_at_once)
    return [Outcome(name, None, future.result()) for name, future in zip(names, futures, strict=True)]


def submit_some_at_once(calls: Iterable[Callable[[], PrefectFuture[Any]]], n_at_once: int) -> list[PrefectFuture[Any]]:
    """Submit tasks so that some run and the others are not yet submitted: a thousand waiting threads hinder each other.

    Args:
        calls: each submits one task and returns its future; Any: of whatever the task returns.
        n_at_once: how many may be unfinished.

    Returns:
        The futures, in the order of the calls; the last ones may be unfinished.
    """
    places = BoundedSemaphore(n_at_once)
    futures = []
    for submit in calls:
        places.acquire()
        future = submit()
        future.add_done_callback(lambda _: places.release())
        futures.append(future)
    return futures


def _announce_generation(number: int, n_samples: int) -> None:
    text = f"generation {number}: {n_samples} structures"
    announce(logger, "generation_begins", text, generation=number, n_samples=n_samples)


def sample_and_label(
    campaign: Campaign, theory: LevelOfTheory, previous: Generation, potential: Potential, stopwatch: Stopwatch
) -> list[Outcome]:
    """Let the walkers move on, and label what each brings as soon as it is there.

    A walker that brings several samples brings them one after the other, without waiting for their labels. Labels that
    were pending when the generation before ended arrive in this one.

    Args:
        campaign: gives pools, reference and store.
        theory: the level of theory.
        previous: where the walkers are.
        potential: on which they move.
        stopwatch: measures sampling and labelling, which overlap.
    """
    learning, number = campaign.parameters.learning, previous.number + 1
    directory = campaign.directory.generation(number)
    plan = directory.planned(
        lambda: plan_propagations(len(previous.walkers), number, learning, previous.n_labels),
    )
    _announce_generation(number, sum(plan))
    names, samples, labels = [], [], []
    for walker, n_samples in zip(previous.walkers, plan, strict=True):
        reached: Any = walker  # Any: then the future of its sample, which Prefect resolves for the next task
        for turn in range(n_samples):
            name = f"g{number:03d}-w{walker.index:03d}-{turn}"
            reached = sample.submit(
                campaign.sampling,
                reached,
                potential,
                directory=directory.samples,
                n_tries=learning.n_tries,
                name=name,
            )
            names.append(name)
            samples.append(reached)
            labels.append(submit_label(campaign, theory, reached, name))
    late = [submit_label(campaign, theory, atoms, f"g{number:03d}-late") for atoms in previous.data.pending]
    with stopwatch.measuring("labelling"):
        with stopwatch.measuring("sampling"):
            wait(samples)
        wait(labels)
    arrived = [Outcome("late", None, labelled.result()) for labelled in late]
    return arrived + [
        Outcome(name, brought.result(), labelled.result())
        for name, brought, labelled in zip(names, samples, labels, strict=True)
    ]


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
    announce(logger, "errors", f"generation {number}: before training {_errors(errors)}", **errors.to_dict())
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
        # Prefect's memory of a training is worth nothing where the model is not in the generation's folder.
        remembered = train.with_options(refresh_cache=not is_trained)
        remembered(campaign.training, model, directory=directory, name=str(number))
    trained = load_model(directory.model)
    with stopwatch.measuring("evaluation"):
        errors = evaluate_sets(campaign, number, trained.deploy())
    history = load_history(directory.model)
    announce(logger, "training_ends", f"generation {number}: trained in {len(history)} epochs", epochs=len(history))
    return Trained(trained, errors, [epoch_to_json(epoch) for epoch in history])


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
            shutil.copytree(model.weights.parent, aside)
            aside.rename(directory.model)


def complete(campaign: Campaign, generation: Generation) -> Generation:
    """Write the manifest of a generation, and tag its run by the reasons of failures; return it as it was written."""
    completed = campaign.directory.complete_generation(generation)
    test = completed.errors["test"]
    text = f"generation {completed.number} is complete: {completed.n_labels} labels; on the test set {_errors(test)}"
    announce(logger, "generation_complete", text, generation=completed.number, n_labels=completed.n_labels)
    tag_run(sorted(completed.details.get("failures", ())))
    return completed


def _errors(errors: Errors) -> str:
    if errors.energy_rmse is None or errors.forces_rmse is None:
        return "nothing to compare"
    return f"{1e3 * errors.energy_rmse:.2f} meV/atom, {1e3 * errors.forces_rmse:.1f} meV/Å"


class Reports:
    """Reports on generations, made one after the other while the campaign goes on.

    Args:
        campaign: open.
    """

    def __init__(self, campaign: Campaign) -> None:
        self.campaign = campaign
        self._futures: list[PrefectFuture[Path]] = []

    def begin(self, number: int) -> None:
        """Submit the report on a generation; it waits for the one before, and nothing waits for it."""
        before = [allow_failure(future) for future in self._futures[-1:]]
        wandb = self.campaign.parameters.wandb
        future = report.submit(self.campaign.directory, number, wandb, wait_for=before, return_state=False)
        self._futures.append(future)

    def __enter__(self) -> "Reports":
        return self

    def __exit__(self, *_exception: object) -> None:
        wait(self._futures)
        for future in self._futures:
            if future.state.is_failed():
                # The generations are safe; a report can be written again, and must not end a campaign.
                logger.error("a report failed: %s", future.state.message)


def compare(campaign: Campaign, last: Generation) -> None:
    """Evaluate the models of all generations on the final test set, and keep the errors."""
    test_set = campaign.directory.generation(last.number).set_file("test")
    digest = hashlib.sha256(test_set.read_bytes()).hexdigest()
    path = campaign.directory.comparison
    if not path.exists() or read_json(path)["test_set"] != digest or len(read_json(path)["errors"]) <= last.number:
        structures = Dataset.load(test_set)
        files = {number: _evaluate_generation(campaign, number, test_set, digest) for number in range(last.number + 1)}
        errors = {
            number: errors_of(structures, load_predictions(f.result(), structures)) for number, f in files.items()
        }
        record = {"schema_version": SCHEMA_VERSION, "test_set": digest, "n_structures": len(structures)}
        write_json(path, {**record, "errors": {str(number): each.to_dict() for number, each in errors.items()}})


def _evaluate_generation(campaign: Campaign, number: int, test_set: Path, digest: str) -> PrefectFuture[Path]:
    directory = campaign.directory.generation(number)
    return evaluate.submit(
        campaign.training,
        load_model(directory.model).deploy(),
        dataset=test_set,
        destination=directory.predictions(f"final-test-{digest[:12]}"),
        name=f"generation {number} on final test",
    )


def conclude(campaign: Campaign, last: Generation, reason: str, reports: Reports) -> Path:
    """End a campaign in order: compare the models of all generations, report, and say where the final one is.

    Args:
        campaign: open.
        last: its newest generation.
        reason: why it ends.
        reports: get the last one.

    Returns:
        The native file of the final model.
    """
    compare(campaign, last)
    directory = campaign.directory
    announce(logger, "campaign_complete", f"the campaign is complete: {reason}", reason=reason)
    if not directory.report.exists() or directory.report.stat().st_mtime < directory.comparison.stat().st_mtime:
        reports.begin(last.number)
    if last.model.weights is None:
        raise InputError(f"generation {last.number} of {directory.path} has no model")
    return last.model.weights
