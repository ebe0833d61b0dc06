"""Checks of the pools, made once per run, while stages whose own pools have answered proceed."""

import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from threading import Event
from typing import Any, Literal

from prefect.futures import PrefectFuture

from surveyor.labels import LevelOfTheory, load_theory
from surveyor.models.choice import with_contents, without_uncertainty
from surveyor.pools.pool import Pool
from surveyor.tasks.resolve import ask_about_biases, check_model, resolve_theory
from surveyor.works.campaign import Campaign, freeze_theory, is_model_checked, note_checked_model

Stage = Literal["sampling", "labelling", "training"]

AT_HAND_S = 60.0  # so long is an answer waited for that a stage does not need, from a pool that has workers


@dataclass(slots=True)
class _Check:
    """A check on the pool of a stage.

    Attributes:
        stage: stage that needs the answer.
        result: waits for the answer, and returns it or raises.
        has_answered: set when the pool has answered.
        then: called once with the answer.
        is_good: whether the answer was received without an error.
    """

    stage: Stage
    result: Callable[[], Any]  # Any: whatever is asked
    then: Callable[[Any], object] = lambda _: None
    has_answered: Event = field(default_factory=Event)
    is_good: bool = False

    def hear(self) -> None:
        """Wait for the answer; raise its error, if any."""
        if not self.is_good:
            self.then(self.result())
            self.is_good = True


class PoolChecks:
    """The checks of the pools of a campaign. They run in parallel, and each stage waits only for its own.

    Args:
        campaign: the open campaign.
    """

    def __init__(self, campaign: Campaign) -> None:
        self._campaign = campaign
        self._checks: list[_Check] = []
        self._theory: LevelOfTheory | None = None  # as the labelling pool has told it in this run

    def begun(self) -> "PoolChecks":
        """Return these checks, begun; called in the run of the campaign, as no generation's run ends before its tasks.

        The training pool is asked for the model unless it has taken it before: a training checks it, too.
        """
        if not self._checks:
            self._open_pools()
            campaign = self._campaign
            self._ask("labelling", resolve_theory.submit(campaign.labelling, campaign.checked.reference), self._freeze)
            if not is_model_checked(campaign):
                self._ask("training", self._ask_about_model(), lambda _: note_checked_model(campaign))
            if of_biases := ask_about_biases(campaign.sampling, campaign.parameters.walkers):
                self._ask("sampling", of_biases)
        return self

    @property
    def theory(self) -> LevelOfTheory:
        """The level of theory; the labelling pool is waited for where it is not known from a former run.

        Once the pool has answered, it knows under which digests work of other versions has the same labels.
        """
        path = self._campaign.directory.theory
        if not path.exists():
            self.wait_for("labelling")
        return self._theory or load_theory(path)

    def heed(self) -> None:
        """Raise errors of the checks that have answered so far.

        Raises:
            PoolFailed: a pool cannot be opened, even if it is not needed yet.
            InputError: a pool lacks a requirement, or the level of theory has changed since the campaign began.
        """
        for check in self._checks:
            if check.has_answered.is_set():
                check.hear()

    def is_ready(self, stage: Stage) -> bool:
        """Return whether the pool of a stage has answered; raise errors of any pool, as `heed` does."""
        self.heed()
        return all(check.is_good for check in self._checks if check.stage == stage)

    def wait_for(self, stage: Stage) -> None:
        """Wait until the pool of a stage has answered; raise its error, if any."""
        for check in self._checks:
            if check.stage == stage:
                check.hear()

    def wait_for_those_at_hand(self) -> None:
        """Wait for the answers of pools that have workers, so that errors are known before labels are computed."""
        pools = self._campaign.pools
        deadline = time.monotonic() + AT_HAND_S
        for check in self._checks:
            pool: Pool = getattr(pools, check.stage)
            while pool.waiting is None and time.monotonic() < deadline and not check.has_answered.wait(0.2):
                pass
        self.heed()

    def _open_pools(self) -> None:
        """Open all pools now, so that one that cannot be opened is known although it is not needed yet."""
        threads = ThreadPoolExecutor()
        stages: tuple[Stage, ...] = ("sampling", "labelling", "training")
        for stage in stages:
            self._ask(stage, threads.submit(getattr(self._campaign.pools, stage).open))
        threads.shutdown(wait=False)

    def _ask_about_model(self) -> PrefectFuture[None]:
        parameters = self._campaign.parameters
        model = with_contents(parameters.model)
        if self._campaign.directory.n_complete():  # begun, maybe with an earlier surveyor, which took such a model
            model = without_uncertainty(model)
        return check_model.submit(self._campaign.training, model, parameters.features_for)

    def _ask(
        self,
        stage: Stage,
        future: PrefectFuture[Any] | Future[None],
        then: Callable[[Any], object] = lambda _: None,  # Any: whatever is asked
    ) -> None:
        check = _Check(stage, future.result, then)
        future.add_done_callback(lambda _: check.has_answered.set())
        self._checks.append(check)

    def _freeze(self, theory: LevelOfTheory) -> None:
        self._theory = freeze_theory(self._campaign, theory)
