"""The survey of a campaign: its walkers move, and their samples are labelled, while models are trained."""

import logging
from collections.abc import Callable, Sequence
from contextvars import copy_context
from functools import partial
from threading import Event
from types import TracebackType
from typing import TypeVar

from prefect.futures import PrefectFuture

from surveyor.events.kinds import GenerationFails
from surveyor.events.recording import announce
from surveyor.flows.event_loop import END_S, EventLoop
from surveyor.flows.labels import announce_generation
from surveyor.flows.pool_checks import PoolChecks
from surveyor.flows.stopwatch import Stopwatch
from surveyor.flows.survey_tasks import SurveyTasks
from surveyor.learning.decisions import reason_to_stop
from surveyor.learning.entries import ResetsDue
from surveyor.learning.labelled_samples import LabelledSample
from surveyor.potentials import Potential
from surveyor.run_directory import Generation
from surveyor.sampling.walkers import Walker
from surveyor.works.campaign import Campaign

T = TypeVar("T")
logger = logging.getLogger(__name__)


class Survey:
    """The walkers of a campaign, their samples, and the labels of these.

    Walkers move in batches if the potential is faster in batches, and take the newest model when they begin. Samples
    are labelled as soon as they exist, or when a selector has chosen them. All this happens in a thread of its own, so
    that nothing waits while the flow trains, writes files or talks to the server. If walkers may move during a training
    (`labels_ahead` above `n_states`), the tasks of walkers and labels belong to the run of the campaign, in which a
    survey is made: the run of a generation does not end before its own tasks. A pool without work left, because an
    earlier run has done it, is not needed.

    Args:
        campaign: the open campaign.
        checks: checks of its pools, begun.
        newest: the newest complete generation.

    Attributes:
        newest: the newest complete generation.
    """

    # Prefect would otherwise copy all structures of the campaign to show them as the parameter of a flow run.
    __slots__ = ("_actions", "_checks", "_context", "_loop", "_tasks", "campaign", "newest")

    def __init__(self, campaign: Campaign, checks: PoolChecks, newest: Generation) -> None:
        self.campaign, self._checks, self.newest = campaign, checks, newest
        self._tasks = SurveyTasks(campaign, checks, newest)
        self._context = copy_context()
        self._actions: list[Callable[[], None]] = []
        self._loop = EventLoop(self._tasks.ended, self._tasks.act)

    def samples(self, previous: Generation, potential: Potential, stopwatch: Stopwatch) -> list[LabelledSample]:
        """Return the samples of the next generation, when all of them have their labels.

        Args:
            previous: the newest complete generation.
            potential: its potential, which walkers take when they begin.
            stopwatch: measures sampling and labelling, which overlap.
        """
        loop, tasks, record = self._loop, self._tasks, self._tasks.record
        context = self._context if tasks.is_overlapped else copy_context()
        loop.call(partial(tasks.begin, context, previous.number, potential))
        number, is_passed_over = previous.number + 1, True
        while is_passed_over:
            announce_generation(number, loop.call(lambda: record.n_expected))
            with stopwatch.measuring("labelling"):
                with stopwatch.measuring("sampling"):
                    loop.wait_until(lambda: tasks.may_train() or not record.schedule.n_moving)
                loop.wait_until(tasks.may_train)
            if is_passed_over := loop.call(tasks.pass_over_former):
                text = f"generation {number}: samples that an earlier run began were rejected; others are awaited"
                announce(logger, GenerationFails(message=text, generation=number))
        return loop.call(record.samples_in_training)

    def result(self, future: PrefectFuture[T]) -> T:
        """Return the result of a task, after the actions that are to be performed meanwhile."""
        actions, self._actions = self._actions, []
        for action in actions:
            action()
        has_ended = Event()
        future.add_done_callback(lambda _: has_ended.set())
        self._loop.wait_for(has_ended)
        return future.result()

    def wait_for_training_pool(self) -> None:
        """Wait until the training pool has answered."""
        self._loop.wait_until(partial(self._checks.is_ready, "training"))

    def move_on(self, to_reset: Sequence[str], good: Sequence[str] = ()) -> tuple[Walker, ...]:
        """Have walkers reset or moved along their ramps; return all as they begin next, or as they began if they move.

        Args:
            to_reset: names of the samples whose walkers are reset.
            good: names of the samples whose labels move their walkers along their ramps.
        """
        record, resets = self._tasks.record, ResetsDue(samples=tuple(to_reset), good=tuple(good))
        self._loop.call(partial(record.record, resets))
        return self._loop.call(record.walkers)

    def meanwhile(self, action: Callable[[], None]) -> None:
        """Perform an action while the result of the next task is awaited, and before it is returned."""
        self._actions.append(action)

    def end_generation(self, newest: Generation) -> Generation:
        """Forget the samples of a generation, which are learned; return the generation."""
        reason = reason_to_stop(newest.progress, self.campaign.parameters.learning)
        self._loop.call(partial(self._tasks.end_generation, newest, reason))
        self.newest = newest
        return newest

    def give_up(self, previous: Generation, to_reset: Sequence[str]) -> None:
        """Forget the samples of a generation that has brought nothing new, and begin nothing more in this run.

        Args:
            previous: the newest complete generation.
            to_reset: names of the samples whose walkers are reset.
        """

        def give_up() -> None:
            self._tasks.give_up(previous, to_reset)
            self._loop.end()  # no event is recorded before the decisions that are due, which the next run makes

        self._loop.call(give_up)

    def end(self, reason: str) -> None:
        """Let the computations under way end, and begin nothing more: the campaign is complete.

        Samples that return now are labelled when the campaign is continued.
        """
        self._loop.call(partial(self._tasks.end, reason))
        self._loop.wait_until(lambda: self._tasks.is_idle)

    def abandon(self) -> None:
        """Abandon the work on the pools, and act on no further event."""
        self._loop.end()
        self.campaign.abandon()

    def __enter__(self) -> "Survey":
        return self

    def __exit__(self, kind: type[BaseException] | None, _error: BaseException | None, _: TracebackType | None) -> None:
        self._loop.end()
        self._loop.join(None if kind is None or issubclass(kind, Exception) else END_S)
