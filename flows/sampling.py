"""Sampling and labelling: the first half of a generation, and what comes before it."""

import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from contextvars import copy_context
from dataclasses import dataclass, field
from functools import partial
from queue import SimpleQueue

from ase import Atoms
from prefect.logging import get_run_logger

from surveyor.campaign import Campaign, freeze_atomic_energies
from surveyor.events.kinds import CampaignBegins, Event, GenerationBegins
from surveyor.events.recording import announce, reporting
from surveyor.events.relay import Relay
from surveyor.flows.cancellation import heeding_cancellation
from surveyor.flows.labels import Labels
from surveyor.flows.paths import of_run, run_url
from surveyor.flows.pool_checks import PoolChecks
from surveyor.flows.waits import telling_waits
from surveyor.flows.window import Window, n_at_once
from surveyor.learning import frames_per_sample, plan_propagations
from surveyor.outcomes import Outcome
from surveyor.pools.pool import Pool
from surveyor.potentials import Potential, evaluates_together
from surveyor.reading import announce_readings
from surveyor.run_directory import Generation, RunDirectory
from surveyor.sampling.batching import Itinerary, in_batches, name_of_batch
from surveyor.sampling.harvest import Harvest
from surveyor.sampling.walkers import Walker
from surveyor.structures import elements_of
from surveyor.tasks.resolve import compute_atomic_energy
from surveyor.tasks.sample import sample
from surveyor.tasks.wandb_run import TrainingCurves
from surveyor.words import number_of

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
        pools = campaign.pools
        also = None if curves is None else curves.tell
        opened.enter_context(relayed(campaign.directory, (pools.sampling, pools.labelling, pools.training), also=also))
        url = run_url()
        announce(logger, CampaignBegins(message=f"{campaign.directory.path}{of_run(url)}", url=url))
        announce_readings(campaign.reports)
        yield


@contextmanager
def relayed(
    directory: RunDirectory,
    pools: Sequence[Pool],
    *,
    passed_over: tuple[type[Event], ...] = (),
    also: Callable[[Event], None] | None = None,
) -> Iterator[None]:
    """Bring what happens, here and on the pools, to a file of events and to the log of the flow run.

    Args:
        directory: where the events are.
        pools: of the run, which may have to be waited for.
        passed_over: events too many for the log.
        also: is told each event.
    """
    log = get_run_logger()

    def tell(event: Event) -> None:
        if event.message and not isinstance(event, passed_over):
            log.log(event.level, "%s", event.message)
        if also is not None:
            also(event)

    # A thread calls it, which would not see that the run has another server than the one that is configured; Prefect
    # starts one more where none is.
    context = copy_context()
    relay = Relay(directory.workers, directory.events, lambda event: context.run(tell, event))
    with reporting(directory.events), relay.running(), telling_waits(pools), heeding_cancellation():
        yield


def label_isolated_atoms(
    campaign: Campaign, checks: PoolChecks, structures: Sequence[Atoms], check: Callable[[Mapping[str, float]], None]
) -> None:
    """Compute the energies of the isolated atoms of all elements, and keep them for the whole campaign.

    Args:
        campaign: gives reference, store and pool.
        checks: on its pools.
        structures: that hold the elements.
        check: raises `InputError` if the energies contradict the data; see `freeze_atomic_energies`.
    """

    def compute() -> dict[str, float]:
        checks.wait_for("labelling")
        futures = {
            element: compute_atomic_energy.submit(
                campaign.labelling,
                element,
                reference=campaign.reference,
                theory=checks.theory,
                store=campaign.store,
                scratch=campaign.directory.scratch,
            )
            for element in elements_of(structures)
        }
        return {element: future.result() for element, future in futures.items()}

    freeze_atomic_energies(campaign, compute, check)


def label_all(campaign: Campaign, checks: PoolChecks, structures: Sequence[Atoms], number: int) -> list[Outcome]:
    """Label structures, side by side.

    Args:
        campaign: gives reference, store and pool.
        checks: on its pools.
        structures: to be labelled.
        number: of the generation.
    """
    labels = Labels.begin(campaign, checks)
    _announce_generation(number, len(structures))
    names = [f"g{number:03d}-{index:03d}" for index in range(len(structures))]
    for name, structure in zip(names, structures, strict=True):
        labels.add(name, structure)
    labelled = labels.wait()
    return [Outcome(name, None, labelled[name]) for name in names]


def _announce_generation(number: int, n_samples: int) -> None:
    text = f"generation {number}: {number_of(n_samples, 'structure')}"
    announce(logger, GenerationBegins(message=text, generation=number, n_samples=n_samples))


def sample_and_label(
    campaign: Campaign, checks: PoolChecks, previous: Generation, potential: Potential, stopwatch: Stopwatch
) -> list[Outcome]:
    """Let the walkers move on, and label what each brings as soon as it is there.

    Walkers move in batches, if the potential is faster so; a walker that brings several samples brings them one after
    the other, without waiting for their labels. Labels that were pending when the generation before ended arrive in
    this one. A pool that has nothing left to do, as a former run has done it, is not waited for.

    Args:
        campaign: gives pools, reference and store.
        checks: on the pools.
        previous: where the walkers are.
        potential: on which they move.
        stopwatch: measures sampling and labelling, which overlap.
    """
    learning, number = campaign.parameters.learning, previous.number + 1
    directory = campaign.directory.generation(number)
    walkers = directory.walkers_of_last_try(previous.walkers)
    plan = directory.planned(
        lambda: plan_propagations(len(walkers), number, learning, previous.n_labels),
    )
    _announce_generation(number, sum(plan))
    itineraries = _itineraries(number, walkers, plan)
    ended: SimpleQueue[Callable[[], None]] = SimpleQueue()
    samples = Window(partial(n_at_once, campaign.pools.sampling), ended, partial(checks.is_ready, "sampling"))
    labels = Labels.begin(campaign, checks, ended)
    harvest = Harvest(
        itineraries,
        directory.samples,
        record=directory.duplicates,
        known=previous.data.everything,
        tolerance_A=learning.min_difference_A,
        n_frames=frames_per_sample(sum(plan), learning, previous.n_labels),
        label=labels.add,
    )

    def look() -> None:
        checks.heed()
        harvest.look()
        labels.window.fill()

    options = {"directory": directory.samples, "n_tries": learning.n_tries}
    with stopwatch.measuring("labelling"):
        for index, atoms in enumerate(previous.data.pending):
            labels.add(f"g{number:03d}-late-{index}", atoms)
        with stopwatch.measuring("sampling"):
            harvest.look_at_former_run()
            if not harvest.has_all_of(itineraries):
                while not checks.is_ready("sampling"):
                    samples.serve(look)
                size = batch_size(learning.walkers_per_batch, potential, len(itineraries), campaign.pools.sampling)
                for batch in in_batches(itineraries, size):
                    if not harvest.has_all_of(batch):
                        name = name_of_batch(batch)
                        submit = partial(sample.submit, campaign.sampling, batch, potential, name=name, **options)
                        samples.add(name, submit, harvest.look)
            samples.wait(look)
        for future in samples.futures.values():
            harvest.take(future.result())
        labelled = labels.wait()
    others = [Outcome(name, None, atoms) for name, atoms in labelled.items() if name not in harvest.samples]
    return others + [Outcome(name, brought, labelled.get(name)) for name, brought in harvest.samples.items()]


def _itineraries(number: int, walkers: Sequence[Walker], plan: Sequence[int]) -> list[Itinerary]:
    """Return which samples each walker is to bring, for those that are to bring some."""
    return [
        Itinerary(walker, tuple(f"g{number:03d}-w{walker.index:03d}-{turn}" for turn in range(n_samples)))
        for walker, n_samples in zip(walkers, plan, strict=True)
        if n_samples
    ]


def batch_size(wanted: int | None, potential: Potential, n_walkers: int, pool: Pool) -> int:
    """Return how many walkers move together: as many as keep all workers of a pool busy, if nothing else is asked.

    Args:
        wanted: by the user; None leaves it to this.
        potential: on which they move; those that gain nothing from batches have walkers move alone.
        n_walkers: how many there are.
        pool: where they move.
    """
    if wanted is None and evaluates_together(potential):
        n_batches = pool.size or n_walkers  # a pool without workers yet is to see what there is to do
        return max(1, -(-n_walkers // n_batches))  # rounded up
    return wanted or 1
