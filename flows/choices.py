"""The choices of a selector: the structures to label next."""

import logging
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import CancelledError
from dataclasses import replace
from functools import partial
from queue import SimpleQueue
from typing import Any

from ase import Atoms
from prefect.futures import PrefectFuture

from surveyor.errors import AttemptFailed, PoolFailed, StorageFailed, WorkerLost
from surveyor.flows.pool_checks import PoolChecks
from surveyor.flows.task_queue import TaskQueue
from surveyor.learning.candidates import ALL_SAMPLES
from surveyor.learning.entries import Chosen
from surveyor.potentials import Potential
from surveyor.selection import BY_MODEL, SelectionRule
from surveyor.selection import Chosen as Choice
from surveyor.tasks.choose import choose
from surveyor.tasks.execution import submit_unlinked
from surveyor.words import number_of
from surveyor.works.campaign import Campaign

logger = logging.getLogger(__name__)

# Errors of machines, or of a run that ends: they say nothing about the selector.
INTERRUPTIONS = (WorkerLost, AttemptFailed, PoolFailed, StorageFailed, CancelledError)


class Choices:
    """The choices of a campaign, one at a time, on the sampling pool, whose workers have the models.

    Args:
        campaign: the open campaign.
        checks: checks of its pools.
        ended: actions due because tasks have ended.
        take: called with each choice.

    Attributes:
        failed: futures of choices that were cancelled, or that no machine has completed.
    """

    def __init__(
        self,
        campaign: Campaign,
        checks: PoolChecks,
        ended: "SimpleQueue[Callable[[], None]]",
        take: Callable[[Chosen], None],
    ) -> None:
        self.queue = TaskQueue(lambda: 1, ended, partial(checks.is_ready, "sampling"))
        learning = campaign.parameters.learning
        self._rule = SelectionRule(learning.select, learning.seed, learning.discard_forces_meV_per_A)
        self._pool, self._take = campaign.pools.sampling, take
        self.failed: list[PrefectFuture[Any]] = []  # Any: the choices

    def begin(
        self,
        n: int,
        candidates: Mapping[str, Atoms],
        requested: Sequence[Atoms],
        generation: int,
        potential: Potential,
    ) -> None:
        """Have structures chosen.

        Args:
            n: how many.
            candidates: structures among which the selector chooses, by name.
            requested: structures whose labels are requested, and which no model has learned.
            generation: number of the newest complete generation.
            potential: its potential.
        """
        rule = self._rule
        choose_walkers = partial(replace(rule, selector=ALL_SAMPLES).choose, None, candidates, requested, n)
        if rule.selector not in BY_MODEL:
            self._take(_entry(rule.choose(None, candidates, requested, n), rule.selector, generation))
            return
        name = f"{n} of {number_of(len(candidates), 'candidate')}"
        submit = partial(submit_unlinked, choose, self._pool, rule, potential, candidates, requested=requested, n=n)
        self.queue.add(name, submit, partial(self._end, name, generation, choose_walkers))

    def _end(self, name: str, generation: int, choose_walkers: Callable[[], Sequence[Choice]]) -> None:
        """Take the choice of a task; if the selector has failed, that of the walkers."""
        selector, future = self._rule.selector, self.queue.futures.pop(name)
        if future.state.is_completed():
            self._take(_entry(future.result(), selector, generation))
        elif (reason := _failure_of_selector(future)) is None:
            self.failed.append(future)
        else:
            logger.warning(
                "the selector %s failed to choose %s: %s; for these labels, the samples of walkers are taken instead",
                selector,
                name,
                reason,
            )
            self._take(_entry(choose_walkers(), ALL_SAMPLES, generation))


def _failure_of_selector(future: PrefectFuture[Any]) -> BaseException | None:  # Any: the choices
    """Return the error of a selector; None if the task was cancelled, or if the machine or the pool has failed."""
    if not future.state.is_failed():
        return None
    error = future.result(raise_on_failure=False)
    return None if isinstance(error, INTERRUPTIONS) else error


def _entry(choices: Sequence[Choice], selector: str, generation: int) -> Chosen:
    logger.info("%s chosen by the selector %s", number_of(len(choices), "structure"), selector)
    labels, scores = tuple(each.name for each in choices), tuple(each.score for each in choices)
    return Chosen(labels=labels, scores=scores, selector=selector, generation=generation)
