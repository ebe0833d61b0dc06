"""The survey of a campaign: its walkers move, and their samples are labelled, while models are trained."""

from collections.abc import Callable, Mapping, Sequence
from contextvars import copy_context
from functools import partial
from threading import Event
from typing import Any, TypeVar

from ase import Atoms
from prefect.futures import PrefectFuture

from surveyor.flows.choices import Choices
from surveyor.flows.labels import Labels, announce_generation
from surveyor.flows.pool_checks import PoolChecks
from surveyor.flows.stopwatch import Stopwatch
from surveyor.flows.task_queue import TaskQueue, n_at_once
from surveyor.learning.entries import ChoiceBegins, Chosen, ResetsDue, RunEnds, WalkerBegins
from surveyor.learning.labelled_samples import LabelledSample
from surveyor.models.choice import load_model
from surveyor.potentials import Potential
from surveyor.run_directory import Generation
from surveyor.sampling.batching import SamplePlan, batch_size, in_batches, name_of_batch
from surveyor.sampling.collection import SampleCollector
from surveyor.sampling.propagation import announce_sample
from surveyor.sampling.walkers import Sample, Walker
from surveyor.tasks.execution import submit_unlinked
from surveyor.tasks.sample import sample
from surveyor.works.campaign import Campaign
from surveyor.works.campaign.survey_record import SurveyRecord

T = TypeVar("T")


class Survey:
    """The walkers of a campaign, their samples, and the labels of these.

    Walkers move in batches if the potential is faster in batches, and take the newest model when they begin. Samples
    are labelled as soon as they exist, or when a selector has chosen them. If walkers may move during a training
    (`labels_ahead` above `n_states`), the tasks of walkers and labels belong to the run of the campaign, in which a
    survey is made: the run of a generation does not end before its own tasks. A pool without work left, because an
    earlier run has done it, is not needed.

    Args:
        campaign: the open campaign.
        checks: checks of its pools.
        newest: the newest complete generation.
    """

    def __init__(self, campaign: Campaign, checks: PoolChecks, newest: Generation) -> None:
        learning, self._checks, self._campaign = campaign.parameters.learning, checks, campaign
        self._record = SurveyRecord(campaign.directory, learning, campaign.checked.walkers, newest)
        rules = self._record.schedule.rules
        is_overlapped = rules is not None and rules.labels_ahead > rules.n_states
        context = copy_context() if is_overlapped else None
        self._labels = Labels.begin(campaign, checks, context)
        is_ready = partial(checks.is_ready, "sampling")
        self._queue = TaskQueue(
            partial(n_at_once, campaign.pools.sampling), self._labels.queue.ended, is_ready, context
        )
        self._choices = Choices(campaign, checks, self._labels.queue.ended, self._take_choice, context)
        self._collector = SampleCollector(self._take_sample)
        self._potentials: dict[int, Potential] = {}
        self._to_begin: list[tuple[int, SamplePlan]] = []  # with the generation whose model moves the walker
        self._failed: list[PrefectFuture[Any]] = []
        self._is_restored = self._is_ending = False

    def samples(self, previous: Generation, potential: Potential, stopwatch: Stopwatch) -> list[LabelledSample]:
        """Return the samples of the next generation, when all of them have their labels.

        Args:
            previous: the newest complete generation.
            potential: its potential, which walkers take when they begin.
            stopwatch: measures sampling and labelling, which overlap.
        """
        record = self._record
        self._potentials[previous.number] = potential
        self._restore()
        self._decide()
        announce_generation(previous.number + 1, record.n_expected)
        with stopwatch.measuring("labelling"):
            with stopwatch.measuring("sampling"):
                self._serve_until(lambda: self._may_train() or not record.schedule.n_moving)
            self._serve_until(self._may_train)
        return record.samples_in_training()

    def result(self, future: PrefectFuture[T]) -> T:
        """Return the result of a task; walkers and labels go on meanwhile."""
        has_ended = Event()
        future.add_done_callback(lambda _: self._labels.queue.ended.put(has_ended.set))
        self._serve_until(has_ended.is_set)
        return future.result()

    def wait_for_training_pool(self) -> None:
        """Wait until the training pool has answered; walkers and labels go on meanwhile."""
        self._serve_until(partial(self._checks.is_ready, "training"))

    def move_on(self, to_reset: Sequence[str], good: Sequence[str] = ()) -> tuple[Walker, ...]:
        """Have walkers reset or moved along their ramps; return all as they begin next, or as they began if they move.

        Args:
            to_reset: names of the samples whose walkers are reset.
            good: names of the samples whose labels move their walkers along their ramps.
        """
        self._record.record(ResetsDue(samples=tuple(to_reset), good=tuple(good)))
        return self._record.walkers()

    def meanwhile(self, action: Callable[[], None]) -> None:
        """Perform an action while the result of the next task is awaited, and before it is returned."""
        self._labels.queue.defer(action)

    def end_generation(self, newest: Generation) -> Generation:
        """Forget the samples of a generation, which are learned, or have brought nothing new; return the newest one."""
        self._record.end_generation(newest.number, newest.n_labels)
        return newest

    def end(self, reason: str) -> None:
        """Let what is in computation end, and begin nothing more: the campaign is complete.

        Samples that return now are labelled when the campaign is continued.
        """
        self._is_ending = True
        self._record.record(RunEnds(reason=reason))
        self._queue.close()
        self._labels.queue.close()
        self._serve_until(lambda: self._is_idle)

    @property
    def _is_idle(self) -> bool:
        return self._queue.is_idle and self._choices.queue.is_idle and self._labels.queue.is_idle

    def _may_train(self) -> bool:
        """Say whether the next generation has its samples; raise the error of a failed task if no other one runs."""
        if self._is_idle and not self._to_begin:
            self._labels.check()
            for future in self._failed:
                future.result()
        return self._record.may_train

    def _decide(self) -> None:
        """Make the decisions that are due, and carry them out; walkers that begin together move in batches."""
        while decisions := self._record.decide():
            for decision in decisions:
                if isinstance(decision, WalkerBegins):
                    self._begin(decision)
                else:
                    self._choose(decision)
        if self._to_begin and self._checks.is_ready("sampling"):
            begun, self._to_begin = self._to_begin, []
            for number in sorted({number for number, _ in begun}):
                self._submit(number, [plan for each, plan in begun if each == number])

    def _begin(self, decision: WalkerBegins) -> None:
        plan = self._record.begin(decision)
        self._collector.expect(plan, self._record.folder_of(plan))
        self._to_begin.append((decision.generation, plan))

    def _choose(self, decision: ChoiceBegins) -> None:
        record, newest = self._record, self._record.schedule.generation
        self._choices.begin(decision.n, record.candidates, record.requested, newest, self._potential(newest))

    def _take_choice(self, chosen: Chosen) -> None:
        self._request(self._record.take_choice(chosen))

    def _request(self, structures: Mapping[str, Atoms]) -> None:
        """Have structures labelled, by name; those that come after the end are labelled in the next run."""
        if not self._is_ending:
            for name, structure in structures.items():
                self._labels.add(name, structure, self._record.take_label)

    def _submit(self, number: int, plans: Sequence[SamplePlan]) -> None:
        """Have walkers move on the model of a generation."""
        learning, pool, potential = (
            self._campaign.parameters.learning,
            self._campaign.pools.sampling,
            self._potential(number),
        )
        size = batch_size(learning.walkers_per_batch, potential, len(plans), pool.size)
        for directory in sorted({self._record.folder_of(plan) for plan in plans}):
            of_round = [plan for plan in plans if self._record.folder_of(plan) == directory]
            for batch in in_batches(of_round, size):
                name = name_of_batch(batch)
                submit = partial(
                    submit_unlinked,
                    sample,
                    self._campaign.sampling,
                    batch,
                    potential,
                    directory=directory,
                    n_tries=learning.n_tries,
                    name=name,
                )
                self._queue.add(name, submit, partial(self._take_batch, name))

    def _potential(self, number: int) -> Potential:
        if number not in self._potentials:  # of walkers that a former run has begun
            self._potentials[number] = load_model(self._campaign.directory.generation(number).model).deploy()
        return self._potentials[number]

    def _restore(self) -> None:
        """Take up what former runs have begun, once."""
        if self._is_restored:
            return
        self._request(self._record.outstanding)
        begun = list(self._record.moving())
        for _, plan, n_returned in begun:
            self._collector.expect(plan, self._record.folder_of(plan), n_returned)
        self._decide()
        self._collector.look()
        self._is_restored = True
        self._to_begin += [(number, plan) for number, plan, _ in begun if self._record.is_moving(plan)]

    def _take_batch(self, name: str) -> None:
        future = self._queue.futures.pop(name)
        if future.state.is_completed():
            self._collector.take(future.result())
        else:
            self._failed.append(future)

    def _take_sample(self, name: str, sample: Sample) -> None:
        if not self._is_restored:
            announce_sample(name, sample, "found on disk")  # as no walker will
        self._request(self._record.take_sample(name, sample))

    def _serve_until(self, is_done: Callable[[], bool]) -> None:
        """Serve walkers, choices and labels until a condition holds."""
        self._decide()
        while not is_done():
            self._labels.queue.serve(self._look)
            self._count_places()
            self._decide()

    def _count_places(self) -> None:
        if self._checks.is_ready("labelling"):
            self._record.take_places(self._campaign.pools.labelling.capacity)

    def _look(self) -> None:
        self._checks.heed()
        self._collector.look()
        self._queue.fill()
        self._choices.queue.fill()
