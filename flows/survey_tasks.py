"""The tasks of a survey: decisions of its schedule are made as events arrive, and carried out."""

from collections.abc import Mapping, Sequence
from contextvars import Context
from functools import partial
from typing import Any

from ase import Atoms
from prefect.futures import PrefectFuture

from surveyor.flows.choices import Choices
from surveyor.flows.labels import Labels
from surveyor.flows.pool_checks import PoolChecks
from surveyor.flows.task_queue import TaskQueue, n_at_once
from surveyor.learning.entries import ChoiceBegins, Chosen, ResetsDue, RunEnds, WalkerBegins
from surveyor.models.choice import load_model
from surveyor.potentials import Potential
from surveyor.run_directory import Generation
from surveyor.sampling.batching import SamplePlan, batch_size, in_batches, name_of_batch
from surveyor.sampling.collection import SampleCollector
from surveyor.sampling.propagation import announce_sample
from surveyor.sampling.walkers import Sample
from surveyor.tasks.execution import submit_unlinked
from surveyor.tasks.sample import sample
from surveyor.works.campaign import Campaign
from surveyor.works.campaign.survey_record import SurveyRecord


class SurveyTasks:
    """The tasks of walkers, choices and labels, all in the run of the campaign or all in that of the generation.

    Args:
        campaign: the open campaign.
        checks: checks of its pools.
        newest: the newest complete generation.

    Attributes:
        record: walkers, samples and labels that no model has learned.
        is_overlapped: whether walkers may move during a training.
    """

    def __init__(self, campaign: Campaign, checks: PoolChecks, newest: Generation) -> None:
        self._campaign, self._checks = campaign, checks
        self.record = SurveyRecord(campaign.directory, campaign.parameters.learning, campaign.checked.walkers, newest)
        rules = self.record.schedule.rules
        self.is_overlapped = rules is not None and rules.labels_ahead > rules.n_states
        self._labels = Labels.begin(campaign, checks)
        self.ended = self._labels.queue.ended
        is_ready = partial(checks.is_ready, "sampling")
        self._walkers = TaskQueue(partial(n_at_once, campaign.pools.sampling), self.ended, is_ready)
        self._choices = Choices(campaign, checks, self.ended, self._take_choice)
        self._collector = SampleCollector(self._take_sample)
        self._potentials: dict[int, Potential] = {}
        self._to_begin: list[tuple[int, SamplePlan]] = []  # with the generation whose model moves the walker
        self._failed: list[PrefectFuture[Any]] = []
        self._is_held = True  # as there is no run yet to which tasks could belong
        self._is_restored = self._is_deciding = self._is_ending = False

    def begin(self, context: Context, number: int, potential: Potential) -> None:
        """Begin the walkers that are due.

        Args:
            context: of the flow run whose tasks they are from now on.
            number: of the newest complete generation.
            potential: its potential.
        """
        for queue in (self._labels.queue, self._walkers, self._choices.queue):
            queue.context = context
        self._potentials.setdefault(number, potential)
        self._is_held = False
        self._is_deciding = True
        self._restore()
        self._walkers.fill()

    def act(self) -> None:
        """Wait a while for an event, act on it, and carry out the decisions that are due."""
        self._labels.queue.serve(self._look)
        if self._is_deciding:
            self._count_places()
            self._decide()

    def may_train(self) -> bool:
        """Return whether the next generation has its samples; raise the error of a failed task if no other one runs."""
        if self.is_idle and not self._to_begin:
            self._labels.check()
            for future in (*self._failed, *self._choices.failed):
                future.result()
        return self.record.may_train

    @property
    def is_idle(self) -> bool:
        """True if all tasks have ended, and nothing follows."""
        return self._walkers.is_idle and self._choices.queue.is_idle and self._labels.queue.is_idle

    def end_generation(self, newest: Generation, reason: str | None) -> None:
        """Forget the samples of a generation, which are learned.

        Args:
            newest: the generation.
            reason: why the campaign ends with it; None if it continues.
        """
        self.record.end_generation(newest.number, newest.n_labels)
        self._is_held = not self.is_overlapped
        if reason is not None:
            self.end(reason)

    def give_up(self, previous: Generation, to_reset: Sequence[str]) -> None:
        """Forget the samples of a generation that has brought nothing new, and decide nothing more.

        Args:
            previous: the newest complete generation.
            to_reset: names of the samples whose walkers are reset.
        """
        self._is_deciding = False
        self.record.record(ResetsDue(samples=tuple(to_reset)))
        self.record.end_generation(previous.number, previous.n_labels)

    def pass_over_former(self) -> bool:
        """Forget the samples of the next generation if guards of a former run rejected them; return if it was so.

        Walkers ahead of a generation that has brought nothing are under way when the run ends; the next run may have
        other guards.
        """
        if not (self.is_overlapped and self.record.is_of_former_guards):
            return False
        schedule = self.record.schedule
        self.record.end_generation(schedule.generation, schedule.n_labels)
        return True

    def end(self, reason: str) -> None:
        """Begin nothing more; samples that return now are labelled when the campaign is continued."""
        if not self._is_ending:
            self._is_ending = True
            self.record.record(RunEnds(reason=reason))
            self._walkers.close()
            self._labels.queue.close()

    def _decide(self) -> None:
        """Make the decisions that are due, and carry them out; walkers that begin together move in batches."""
        while decisions := self.record.decide():
            for decision in decisions:
                if isinstance(decision, WalkerBegins):
                    self._begin(decision)
                else:
                    self._choose(decision)
        if self._to_begin and not self._is_held and self._checks.is_ready("sampling"):
            begun, self._to_begin = self._to_begin, []
            for number in sorted({number for number, _ in begun}):
                self._submit(number, [plan for each, plan in begun if each == number])

    def _begin(self, decision: WalkerBegins) -> None:
        plan = self.record.begin(decision)
        self._collector.expect(plan, self.record.folder_of(plan))
        self._to_begin.append((decision.generation, plan))

    def _choose(self, decision: ChoiceBegins) -> None:
        record, newest = self.record, self.record.schedule.generation
        self._choices.begin(decision.n, record.candidates, record.requested, newest, self._potential(newest))

    def _take_choice(self, chosen: Chosen) -> None:
        self._request(self.record.take_choice(chosen))

    def _request(self, structures: Mapping[str, Atoms]) -> None:
        """Have structures labelled, by name; those that come after the end are labelled in the next run."""
        if not self._is_ending:
            for name, structure in structures.items():
                self._labels.add(name, structure, self.record.take_label)

    def _submit(self, number: int, plans: Sequence[SamplePlan]) -> None:
        """Have walkers move on the model of a generation."""
        learning, pool, potential = (
            self._campaign.parameters.learning,
            self._campaign.pools.sampling,
            self._potential(number),
        )
        size = batch_size(learning.walkers_per_batch, potential, len(plans), pool.size)
        for directory in sorted({self.record.folder_of(plan) for plan in plans}):
            of_round = [plan for plan in plans if self.record.folder_of(plan) == directory]
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
                self._walkers.add(name, submit, partial(self._take_batch, name))

    def _potential(self, number: int) -> Potential:
        if number not in self._potentials:  # of walkers that begin at the end of a generation, or began in a former run
            self._potentials[number] = load_model(self._campaign.directory.generation(number).model).deploy()
        return self._potentials[number]

    def _restore(self) -> None:
        """Resume the work that former runs have begun, once."""
        if self._is_restored:
            return
        self._request(self.record.outstanding)
        begun = list(self.record.moving())
        for _, plan, n_returned in begun:
            self._collector.expect(plan, self.record.folder_of(plan), n_returned)
        self._decide()
        self._collector.look()
        self._is_restored = True
        self._to_begin += [(number, plan) for number, plan, _ in begun if self.record.is_moving(plan)]

    def _take_batch(self, name: str) -> None:
        future = self._walkers.futures.pop(name)
        if future.state.is_completed():
            self._collector.take(future.result())
        else:
            self._failed.append(future)

    def _take_sample(self, name: str, sample: Sample) -> None:
        if not self._is_restored:
            announce_sample(name, sample, "found on disk")  # as no walker will
        self._request(self.record.take_sample(name, sample))

    def _count_places(self) -> None:
        if self._checks.is_ready("labelling"):
            self.record.take_places(self._campaign.pools.labelling.capacity)

    def _look(self) -> None:
        self._checks.heed()
        self._collector.look()
        self._walkers.fill()
        self._choices.queue.fill()
