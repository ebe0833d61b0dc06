"""Sampling and labelling: the first half of a generation, and what comes before it."""

import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Executor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from queue import SimpleQueue
from typing import Any

from ase import Atoms
from prefect.futures import PrefectFuture
from prefect.logging import get_run_logger

from surveyor.campaign import Campaign, freeze_atomic_energies, freeze_theory
from surveyor.events import Relay, announce, reporting
from surveyor.flows.cancellation import heeding_cancellation
from surveyor.flows.paths import run_url
from surveyor.flows.window import Window, n_at_once, submit_some_at_once
from surveyor.labels import LevelOfTheory
from surveyor.learning import frames_per_sample, plan_propagations
from surveyor.models.choice import with_contents
from surveyor.outcomes import Outcome
from surveyor.pools.pool import Pool
from surveyor.potentials import Potential, evaluates_together
from surveyor.reading import announce_readings
from surveyor.run_directory import Generation, RunDirectory
from surveyor.sampling.batching import Itinerary, in_batches, name_of_batch
from surveyor.sampling.conditions import Walkers
from surveyor.sampling.harvest import Harvest
from surveyor.structures import elements_of
from surveyor.tasks.label import label
from surveyor.tasks.resolve import check_biases, check_model, compute_atomic_energy, resolve_theory
from surveyor.tasks.sample import sample
from surveyor.tasks.wandb_run import TrainingCurves

logger = logging.getLogger(__name__)


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
    with ExitStack() as opened:
        curves = None
        if campaign.parameters.wandb is not None:
            curves = TrainingCurves(campaign.directory, campaign.parameters.wandb)
            opened.callback(curves.close)
        opened.enter_context(relayed(campaign.directory, also=None if curves is None else curves.tell))
        url = run_url()
        announce(logger, "campaign_begins", f"{campaign.directory.path}; this run: {url}", url=url)
        announce_readings(campaign.reports)
        yield


@contextmanager
def relayed(
    directory: RunDirectory,
    *,
    passed_over: Sequence[str] = (),
    also: Callable[[Mapping[str, Any]], None] | None = None,  # Any: whatever JSON holds
) -> Iterator[None]:
    """Bring what happens, here and on the pools, to a file of events and to the log of the flow run.

    Args:
        directory: where the events are.
        passed_over: events too many for the log.
        also: is told each event.
    """
    log = get_run_logger()

    def tell(event: Mapping[str, Any]) -> None:  # Any: whatever JSON holds
        if "message" in event and event["event"] not in passed_over:
            log.log(event.get("level", logging.INFO), "%s", event["message"])
        if also is not None:
            also(event)

    relay = Relay(directory.workers, directory.events, tell)
    with reporting(directory.events), relay.running(), heeding_cancellation():
        yield


def resolve(campaign: Campaign) -> LevelOfTheory:
    """Ask the pools what only they know; return the level of theory, which must be that of the campaign.

    Raises:
        PoolFailed: a pool cannot be opened, even if it is not needed yet.
        InputError: a pool lacks what is needed, or the level of theory is another one than when the campaign began.
    """
    campaign.pools.attach()
    checked = check_model.submit(campaign.training, with_contents(campaign.parameters.model))
    check_plumed(campaign.sampling, campaign.parameters.walkers)
    theory = resolve_theory(campaign.labelling, campaign.reference)
    checked.result()
    return freeze_theory(campaign, theory)


def check_plumed(pool: Executor, groups: Sequence[Walkers]) -> None:
    """Ask a pool whether it has PLUMED and takes the inputs of walkers, where they have some.

    Raises:
        InputError: it does not; with PLUMED's own message.
    """
    if biased := [group for group in groups if group.plumed is not None]:
        check_biases(pool, biased)


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
    campaign: Campaign, theory: LevelOfTheory, structure: Atoms, name: str
) -> PrefectFuture[Any]:  # Any: the labelled structure
    """Submit the label of a structure."""
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
    calls = [partial(submit_label, campaign, theory, *pair) for pair in zip(structures, names, strict=True)]
    futures = submit_some_at_once(calls, n_at_once(campaign.pools.labelling))
    return [Outcome(name, None, future.result()) for name, future in zip(names, futures, strict=True)]


def _announce_generation(number: int, n_samples: int) -> None:
    text = f"generation {number}: {n_samples} structures"
    announce(logger, "generation_begins", text, generation=number, n_samples=n_samples)


def sample_and_label(
    campaign: Campaign, theory: LevelOfTheory, previous: Generation, potential: Potential, stopwatch: Stopwatch
) -> list[Outcome]:
    """Let the walkers move on, and label what each brings as soon as it is there.

    Walkers move in batches, if the potential is faster so; a walker that brings several samples brings them one after
    the other, without waiting for their labels. Labels that were pending when the generation before ended arrive in
    this one.

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
    itineraries = [
        Itinerary(walker, tuple(f"g{number:03d}-w{walker.index:03d}-{turn}" for turn in range(n_samples)))
        for walker, n_samples in zip(previous.walkers, plan, strict=True)
        if n_samples
    ]
    ended: SimpleQueue[Callable[[], None]] = SimpleQueue()
    samples = Window(n_at_once(campaign.pools.sampling), ended)
    labels = Window(n_at_once(campaign.pools.labelling), ended)

    def label_it(name: str, structure: Atoms) -> None:
        labels.add(name, partial(submit_label, campaign, theory, structure, name))

    harvest = Harvest(
        itineraries,
        directory.samples,
        record=directory.duplicates,
        known=previous.data.everything,
        tolerance_A=learning.min_difference_A,
        n_frames=frames_per_sample(sum(plan), learning, previous.n_labels),
        label=label_it,
    )
    options = {"directory": directory.samples, "n_tries": learning.n_tries}
    with stopwatch.measuring("labelling"):
        for index, atoms in enumerate(previous.data.pending):
            label_it(f"g{number:03d}-late-{index}", atoms)
        with stopwatch.measuring("sampling"):
            harvest.look()
            size = batch_size(learning.walkers_per_batch, potential, len(itineraries), campaign.pools.sampling)
            for batch in in_batches(itineraries, size):
                name = name_of_batch(batch)
                submit = partial(sample.submit, campaign.sampling, batch, potential, name=name, **options)
                samples.add(name, submit, harvest.look)
            samples.wait(harvest.look)
        for future in samples.futures.values():
            harvest.take(future.result())
        labels.wait()
    labelled = {name: future.result() for name, future in labels.futures.items()}
    others = [Outcome(name, None, atoms) for name, atoms in labelled.items() if name not in harvest.samples]
    return others + [Outcome(name, brought, labelled.get(name)) for name, brought in harvest.samples.items()]


def batch_size(wanted: int | None, potential: Potential, n_walkers: int, pool: Pool) -> int:
    """Return how many walkers move together: as many as keep all workers of a pool busy, if nothing else is asked.

    Args:
        wanted: by the user; None leaves it to this.
        potential: on which they move; those that gain nothing from batches have walkers move alone.
        n_walkers: how many there are.
        pool: where they move.
    """
    if wanted is None and evaluates_together(potential):
        return max(1, -(-n_walkers // max(1, pool.size)))  # rounded up
    return wanted or 1
