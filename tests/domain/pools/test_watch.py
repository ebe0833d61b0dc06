from dataclasses import replace

import pytest

from surveyor.pools.interruptions import Interruptions
from surveyor.pools.queues import Entry
from surveyor.pools.sites import SLURMSite
from surveyor.pools.watch import (
    CONNECT_S,
    DELIVERED_S,
    GONE_S,
    HURRY_S,
    LOST_S,
    RETURN_S,
    SAVING_S,
    Job,
    plan,
    wanted_jobs,
    what_is_awaited,
)

SITE = SLURMSite(cores_per_job=4, workers_per_job=2, min_jobs=0, max_jobs=3, idle_minutes=1)
NEW = Job("1", "pool-1", entry=None, unseen_s=1.0)
PENDING = replace(NEW, unseen_s=0.0, entry=Entry("pending"))
RUNNING = replace(PENDING, entry=Entry("running"), was_connected=True, runs_s=90.0)
GONE = {"entry": None, "unseen_s": GONE_S + 1}
IDLE = replace(RUNNING, idle_s=61.0)


@pytest.mark.parametrize(
    ("n_unfinished", "n_jobs"),
    [
        (0, 0),
        (1, 1),
        (2, 1),
        (3, 2),
        (5, 3),
        (1000, 3),
    ],
)
def test_there_are_as_many_jobs_as_there_is_work_within_bounds(n_unfinished: int, n_jobs: int) -> None:
    assert wanted_jobs(n_unfinished, SITE) == n_jobs
    assert plan([], n_unfinished, SITE).n_submit == n_jobs


def test_the_fewest_jobs_are_kept_without_work() -> None:
    site = SITE.model_copy(update={"min_jobs": 1})
    assert plan([], 0, site).n_submit == 1
    assert plan([IDLE], 0, site).retire == ()


def test_pending_and_new_jobs_count() -> None:
    assert plan([NEW, replace(PENDING, id="2")], 4, SITE).n_submit == 0
    assert plan([NEW, replace(PENDING, id="2")], 5, SITE).n_submit == 1


def test_a_job_that_a_cloud_refuses_after_all_is_replaced_and_has_not_failed() -> None:
    refused = replace(PENDING, entry=Entry("ending", "no room", is_refused=True))
    decided = plan([refused], 1, SITE)
    assert (decided.ended, decided.failed, decided.n_submit) == (("1",), (), 1)


def test_a_job_leaves_only_when_it_has_been_idle_for_long_and_is_not_needed() -> None:
    assert plan([IDLE], 0, SITE).retire == ("1",)
    assert plan([IDLE], 1, SITE).retire == ()
    assert plan([replace(IDLE, idle_s=59.0)], 0, SITE).retire == ()


def test_how_long_a_job_may_be_idle_is_said_in_minutes() -> None:
    patient = SITE.model_copy(update={"idle_minutes": 2.5})
    assert plan([replace(IDLE, idle_s=149.0)], 0, patient).retire == ()
    assert plan([replace(IDLE, idle_s=150.0)], 0, patient).retire == ("1",)


@pytest.mark.parametrize(
    "job",
    [
        replace(PENDING, entry=Entry("running"), runs_s=CONNECT_S),
        replace(RUNNING, away_s=RETURN_S),
        replace(RUNNING, leaving_s=RETURN_S),
        replace(RUNNING, entry=None, unseen_s=GONE_S),
    ],
)
def test_a_job_has_all_of_the_time_that_it_is_given(job: Job) -> None:
    decided = plan([job], 1, SITE)
    assert (decided.cancel, decided.ended, decided.failed) == ((), (), ())


def test_a_pending_job_that_nobody_needs_any_more_is_cancelled() -> None:
    waited = replace(PENDING, idle_s=61.0)
    assert plan([waited], 0, SITE).cancel == ("1",)
    assert plan([waited], 1, SITE).cancel == ()


def test_a_job_whose_machine_is_taken_away_is_replaced_and_ends_when_its_work_is_done_or_time_is_short() -> None:
    taken = replace(RUNNING, taken_in_s=100.0)
    decided = plan([taken], 1, SITE)
    assert (decided.pause, decided.evict, decided.n_submit, decided.cancel) == (("1",), (), 1, ())
    assert plan([replace(taken, idle_s=DELIVERED_S)], 1, SITE).evict == ()
    assert plan([replace(taken, idle_s=DELIVERED_S + 1)], 1, SITE).evict == ("1",)
    warned = replace(taken, warned_s=SAVING_S + 1)
    assert plan([replace(warned, taken_in_s=HURRY_S)], 1, SITE).evict == ()
    assert plan([replace(warned, taken_in_s=HURRY_S - 1)], 1, SITE).evict == ("1",)
    assert plan([replace(warned, taken_in_s=HURRY_S - 1, warned_s=SAVING_S)], 1, SITE).evict == ()
    ending = replace(warned, entry=Entry("ending"))
    assert (plan([ending], 1, SITE).ended, plan([ending], 1, SITE).pause) == ((), ("1",))
    assert plan([replace(ending, leaving_s=1.0)], 1, SITE).ended == ("1",)
    leaving = plan([replace(taken, taken_in_s=1.0, leaving_s=1.0)], 1, SITE)
    assert (leaving.pause, leaving.evict) == ((), ())


def test_what_a_lost_worker_ran_moves_if_its_machine_was_taken_away_and_fails_otherwise() -> None:
    lost = replace(RUNNING, lost_s=LOST_S)
    assert (plan([lost], 1, SITE).evict, plan([lost], 1, SITE).given_up) == ((), ())
    assert plan([replace(lost, lost_s=LOST_S + 1)], 1, SITE).given_up == ("1",)
    assert plan([replace(lost, leaving_s=1.0)], 1, SITE).given_up == ("1",)
    taken = plan([replace(lost, lost_s=LOST_S + 1, taken_in_s=100.0)], 1, SITE)
    assert (taken.evict, taken.given_up, taken.n_submit) == (("1",), (), 1)
    gone = replace(RUNNING, **GONE)
    assert (plan([gone], 1, SITE).ended, plan([gone], 1, SITE).evict) == (("1",), ())
    assert plan([replace(gone, taken_in_s=60.0)], 1, SITE).evict == ("1",)


def test_machines_taken_away_count_in_a_row() -> None:
    interruptions = Interruptions()
    for _ in range(2):
        interruptions.note(n_finished=5)
    assert not interruptions.are_many(3, 5)
    assert interruptions.are_many(2, 5)
    assert not interruptions.are_many(2, 6)
    assert not interruptions.are_many(None, 5)
    interruptions.note(n_finished=6)
    assert not interruptions.are_many(2, 6)


def test_of_several_idle_jobs_the_newest_leaves() -> None:
    assert plan([IDLE, replace(IDLE, id="2")], 1, SITE).retire == ("2",)


def test_a_job_that_ends_before_its_worker_connects_is_a_failure_and_is_replaced() -> None:
    decided = plan([replace(NEW, **GONE)], 1, SITE)
    assert decided.failed == (("1", "it was over before its worker connected"),)
    assert (decided.ended, decided.n_submit, decided.cancel) == (("1",), 1, ())


def test_a_job_that_was_just_submitted_may_not_be_shown_yet() -> None:
    assert plan([replace(NEW, unseen_s=GONE_S - 1)], 1, SITE) == plan([PENDING], 1, SITE)


def test_a_single_answer_without_a_job_does_not_cost_its_work() -> None:
    assert plan([replace(RUNNING, entry=None, unseen_s=GONE_S - 1)], 1, SITE) == plan([RUNNING], 1, SITE)


def test_a_job_that_is_being_ended_is_over() -> None:
    assert plan([replace(RUNNING, entry=Entry("ending"))], 1, SITE).ended == ("1",)


def test_a_job_that_has_worked_and_is_over_is_replaced_without_being_a_failure() -> None:
    decided = plan([replace(RUNNING, **GONE)], 1, SITE)
    assert (decided.ended, decided.failed, decided.n_submit) == (("1",), (), 1)


def test_a_job_that_the_queue_will_never_start_is_cancelled_and_a_failure() -> None:
    hopeless = replace(PENDING, entry=Entry("pending", "PartitionTimeLimit", is_hopeless=True))
    decided = plan([hopeless], 1, SITE)
    assert decided.cancel == ("1",)
    assert decided.failed == (("1", "the queue would never start it: PartitionTimeLimit"),)
    assert decided.certain == ()
    certain = replace(PENDING, entry=Entry("pending", "PartitionTimeLimit", is_hopeless=True, is_certain=True))
    assert plan([certain], 1, SITE).certain == ("1",)


def test_a_job_that_runs_and_can_start_no_worker_is_a_failure_of_its_own_kind() -> None:
    hopeless = replace(PENDING, entry=Entry("running", "ImagePullBackOff", is_hopeless=True))
    assert plan([hopeless], 1, SITE).failed == (("1", "no worker can be started in it: ImagePullBackOff"),)


def test_a_job_that_runs_without_its_worker_connecting_is_cancelled_and_a_failure() -> None:
    silent = replace(PENDING, entry=Entry("running"), runs_s=CONNECT_S + 1)
    decided = plan([silent], 1, SITE)
    assert (decided.cancel, decided.n_submit) == (("1",), 1)
    assert "without its worker connecting" in decided.failed[0][1]


def test_a_job_whose_workers_do_not_come_back_is_cancelled_and_replaced() -> None:
    away = replace(RUNNING, away_s=RETURN_S + 1)
    decided = plan([away], 1, SITE)
    assert (decided.cancel, decided.n_submit, decided.failed) == (("1",), 1, ())
    assert plan([replace(away, away_s=1.0)], 1, SITE).n_submit == 0


def test_a_job_that_was_told_to_leave_does_not_count() -> None:
    decided = plan([replace(RUNNING, leaving_s=1.0)], 1, SITE)
    assert (decided.n_submit, decided.retire, decided.cancel) == (1, (), ())


def test_a_job_that_does_not_leave_is_cancelled_again() -> None:
    assert plan([replace(RUNNING, leaving_s=RETURN_S + 1)], 1, SITE).cancel == ("1",)


def test_a_job_that_was_cancelled_while_it_waited_is_no_failure() -> None:
    decided = plan([replace(PENDING, **GONE, leaving_s=1.0)], 1, SITE)
    assert (decided.ended, decided.failed, decided.n_submit) == (("1",), (), 1)


def test_a_pending_job_may_wait_as_long_as_the_queue_wants() -> None:
    decided = plan([replace(PENDING, idle_s=1e6)], 1, SITE)
    assert (decided.n_submit, decided.cancel, decided.failed) == (0, (), ())


@pytest.mark.parametrize(
    ("entries", "failures", "waits"),
    [
        ([None], [], "submitted"),
        ([Entry("pending", "None")], [], "PENDING"),
        (
            [Entry("pending", "Resources"), Entry("pending", "Priority")],
            ["job 1: over"],
            "PENDING: Resources, Priority",
        ),
        ([Entry("pending", "Resources"), Entry("running")], [], "RUNNING, its worker starts"),
        ([Entry("running", "ContainerCreating\nnow")], [], "RUNNING: ContainerCreating, its worker starts"),
        (
            [Entry("ending")],
            ["job 1: over", "job 2: over", "job 3: no sbatch\nhere\nor there"],
            "the last one failed: job 3: no sbatch",
        ),
    ],
)
def test_what_work_without_a_worker_waits_for(entries: list[Entry | None], failures: list[str], waits: str) -> None:
    assert what_is_awaited(entries, failures) == waits
