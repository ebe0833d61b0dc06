"""The labels of a generation: those that the store has, and those that are computed."""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from queue import SimpleQueue
from typing import Any

from ase import Atoms
from prefect import runtime
from prefect.futures import PrefectFuture

from surveyor.dataset import with_label
from surveyor.events.kinds import GenerationBegins
from surveyor.events.recording import announce
from surveyor.flows.pool_checks import PoolChecks
from surveyor.flows.task_queue import TaskQueue, n_at_once
from surveyor.labels import LabelRequest
from surveyor.labels.claims import Claimant, Watch
from surveyor.learning.labelled_samples import LabelledSample
from surveyor.reference.labelling import Labeller
from surveyor.structures import elements_of
from surveyor.tasks.execution import submit_unlinked
from surveyor.tasks.label import CLAIMED, label
from surveyor.tasks.resolve import compute_atomic_energy
from surveyor.words import number_of
from surveyor.works.campaign import Campaign, freeze_atomic_energies, labeller_of

logger = logging.getLogger(__name__)


Handler = Callable[[str, Atoms], None]


@dataclass(slots=True)
class Labels:
    """The labels of a campaign, each handed over when it arrives.

    Labels in the store are used at once. Missing labels are computed as soon as the labelling pool has reported its
    level of theory, which must be that of the campaign; labels in computation by other processes come last.

    Attributes:
        campaign: the open campaign.
        checks: checks of its pools.
        queue: queue of the label tasks.
        watch: observer of the labels in computation by other processes.
        failed: futures of tasks that have brought neither a label nor a reason why there is none.
    """

    campaign: Campaign
    checks: PoolChecks
    queue: TaskQueue
    watch: Watch
    failed: list[PrefectFuture[Any]] = field(default_factory=list)

    @classmethod
    def begin(cls, campaign: Campaign, checks: PoolChecks) -> "Labels":
        """Return the labels of a campaign, none yet.

        Args:
            campaign: the open campaign.
            checks: checks of its pools.
        """
        n_at_most = partial(n_at_once, campaign.pools.labelling)
        queue = TaskQueue(n_at_most, SimpleQueue(), partial(checks.is_ready, "labelling"))
        return cls(campaign, checks, queue, Watch(campaign.store.claims))

    def add(self, name: str, structure: Atoms, handle: Handler) -> None:
        """Have a structure labelled.

        Args:
            name: a name of its own.
            structure: the structure.
            handle: called with the name, and the structure with its label or the reason why there is none.
        """
        labeller = self.labeller
        request = labeller.request(structure)
        outcome = labeller.stored(request.key)
        if outcome is not None:
            self.queue.defer(partial(handle, name, with_label(structure, request.key, outcome)))
            return
        submit, then = partial(self._submit, name, structure, request), partial(self._take, name, structure, handle)
        self.queue.add(name, submit, then, partial(self.watch.is_held, request.key))

    def wait(self) -> None:
        """Wait for all labels."""
        self.queue.wait(self.checks.heed)
        self.check()

    def check(self) -> None:
        """Raise the error of a task that has brought no outcome."""
        for future in self.failed:
            future.result()

    @property
    def labeller(self) -> Labeller:
        """The labeller of the campaign; waits for the labelling pool until its level of theory is known."""
        return labeller_of(self.campaign, self.checks.theory)

    def _submit(self, name: str, structure: Atoms, request: LabelRequest) -> PrefectFuture[Any]:  # Any: the structure
        # A task and its retries: a claim of the same work is that of a lost worker.
        store = self.campaign.store.on_behalf_of(Claimant(f"{runtime.flow_run.id} {name}", self.watch.dead))
        labeller = self.labeller.with_store(store)
        pool = self.campaign.labelling
        return submit_unlinked(label, pool, structure, labeller=labeller, name=name, request=request)

    def _take(self, name: str, structure: Atoms, handle: Handler) -> None:
        """Hand a label over, or request it again if another process has claimed it meanwhile."""
        future = self.queue.futures.pop(name)
        if future.state.name == CLAIMED:
            self.add(name, structure, handle)
        elif future.state.is_completed():
            handle(name, future.result())
        else:
            self.failed.append(future)


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
        labeller = labeller_of(campaign, checks.theory)
        futures = {
            element: compute_atomic_energy.submit(campaign.labelling, element, labeller=labeller)
            for element in elements_of(structures)
        }
        return {element: future.result() for element, future in futures.items()}

    freeze_atomic_energies(campaign, compute, check)


def label_all(campaign: Campaign, checks: PoolChecks, structures: Sequence[Atoms], number: int) -> list[LabelledSample]:
    """Label structures, side by side.

    Args:
        campaign: gives reference, store and pool.
        checks: on its pools.
        structures: to be labelled.
        number: of the generation.
    """
    labels = Labels.begin(campaign, checks)
    announce_generation(number, len(structures))
    names = [f"g{number:03d}-{index:03d}" for index in range(len(structures))]
    labelled: dict[str, Atoms] = {}
    for name, structure in zip(names, structures, strict=True):
        labels.add(name, structure, labelled.__setitem__)
    labels.wait()
    return [LabelledSample(name, None, labelled[name]) for name in names]


def announce_generation(number: int, n_samples: int) -> None:
    """Announce the beginning of a generation, with its number of structures."""
    text = f"generation {number}: {number_of(n_samples, 'structure')}"
    announce(logger, GenerationBegins(message=text, generation=number, n_samples=n_samples))
