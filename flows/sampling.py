"""Sampling and labelling: the first half of a generation, and what comes before it."""

import logging
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from queue import SimpleQueue
from threading import BoundedSemaphore
from typing import Any

from ase import Atoms
from prefect import runtime
from prefect.futures import PrefectFuture
from prefect.logging import get_run_logger

from surveyor.campaign import Campaign, freeze_atomic_energies, freeze_theory
from surveyor.events import Relay, announce, reporting
from surveyor.flows.cancellation import heeding_cancellation
from surveyor.labels import LevelOfTheory
from surveyor.learning import plan_propagations
from surveyor.models.choice import with_contents
from surveyor.outcomes import Outcome
from surveyor.pools.pool import Pool
from surveyor.potentials import Potential
from surveyor.run_directory import Generation, RunDirectory
from surveyor.sampling.walkers import Sample, Walker
from surveyor.structures import elements_of
from surveyor.tasks.label import label
from surveyor.tasks.resolve import check_model, compute_atomic_energy, resolve_theory
from surveyor.tasks.sample import sample
from surveyor.tasks.wandb_run import TrainingCurves

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
    with ExitStack() as opened:
        curves = None
        if campaign.parameters.wandb is not None:
            curves = TrainingCurves(campaign.directory, campaign.parameters.wandb)
            opened.callback(curves.close)
        opened.enter_context(relayed(campaign.directory, also=None if curves is None else curves.tell))
        url = runtime.flow_run.ui_url
        announce(logger, "campaign_begins", f"{campaign.directory.path}; this run: {url}", url=url)
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
    calls = [partial(submit_label, campaign, theory, *pair) for pair in zip(structures, names, strict=True)]
    futures = submit_some_at_once(calls, n_at_once(campaign.pools.labelling))
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


def n_at_once(pool: Pool) -> int:
    """Return how many tasks of a pool may be unfinished: more would wait in threads, and hinder each other."""
    return max(LEAST_AT_ONCE, pool.capacity)


@dataclass(slots=True)
class Window:
    """Tasks of which some run and the others are not yet submitted.

    Attributes:
        n_at_once: how many may be unfinished.
        ended: what is to be done here because tasks have ended; windows that share it serve each other.
        futures: of the tasks that were submitted, by name.
    """

    n_at_once: int
    ended: "SimpleQueue[Callable[[], None]]"
    futures: dict[str, PrefectFuture[Any]] = field(default_factory=dict)  # Any: whatever the tasks return
    _waiting: deque[Callable[[], None]] = field(default_factory=deque)
    _n_unfinished: int = 0

    def add(self, name: str, submit: Callable[[], PrefectFuture[Any]], then: Callable[[], None] = lambda: None) -> None:
        """Have a task submitted as soon as there is room for it.

        Args:
            name: its own one in this window.
            submit: submits it and returns its future.
            then: called when the task has ended, in whatever way.
        """
        self._waiting.append(partial(self._submit, name, submit, then))
        self._fill()

    def wait(self) -> None:
        """Wait until all tasks have ended, those too that are added meanwhile."""
        while self._n_unfinished:
            self.ended.get()()

    def _fill(self) -> None:
        while self._waiting and self._n_unfinished < self.n_at_once:
            self._n_unfinished += 1
            self._waiting.popleft()()

    def _submit(self, name: str, submit: Callable[[], PrefectFuture[Any]], then: Callable[[], None]) -> None:
        self.futures[name] = future = submit()
        future.add_done_callback(lambda _: self.ended.put(partial(self._end, future, then)))

    def _end(self, future: PrefectFuture[Any], then: Callable[[], None]) -> None:
        future.wait()  # it has ended, and now knows its state; tasks that are given it would ask the server for that
        self._n_unfinished -= 1
        then()
        self._fill()


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
    names = [
        [f"g{number:03d}-w{walker.index:03d}-{turn}" for turn in range(n_samples)]
        for walker, n_samples in zip(previous.walkers, plan, strict=True)
    ]
    late = [f"g{number:03d}-late-{index}" for index in range(len(previous.data.pending))]
    ended: SimpleQueue[Callable[[], None]] = SimpleQueue()
    samples = Window(n_at_once(campaign.pools.sampling), ended)
    labels = Window(n_at_once(campaign.pools.labelling), ended)

    def move_on(walker: Walker | PrefectFuture[Sample], name: str, *later: str) -> None:
        def follow() -> None:
            reached = samples.futures[name]  # Prefect resolves it for the next task
            labels.add(name, partial(submit_label, campaign, theory, reached, name))
            if later:
                move_on(reached, *later)

        options = {"directory": directory.samples, "n_tries": learning.n_tries, "name": name}
        samples.add(name, partial(sample.submit, campaign.sampling, walker, potential, **options), follow)

    with stopwatch.measuring("labelling"):
        for name, atoms in zip(late, previous.data.pending, strict=True):
            labels.add(name, partial(submit_label, campaign, theory, atoms, name))
        with stopwatch.measuring("sampling"):
            for walker, to_come in zip(previous.walkers, names, strict=True):
                if to_come:
                    move_on(walker, *to_come)
            samples.wait()
        labels.wait()
    arrived = [Outcome("late", None, labels.futures[name].result()) for name in late]
    return arrived + [
        Outcome(name, samples.futures[name].result(), labels.futures[name].result())
        for to_come in names
        for name in to_come
    ]
