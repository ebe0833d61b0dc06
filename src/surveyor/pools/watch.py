"""Decisions of a cluster pool on its jobs: pure functions of its observations, without a queue or a clock."""

from collections.abc import Sequence
from dataclasses import dataclass

from surveyor.pools.queues import Entry
from surveyor.pools.site import WorkersSite

CONNECT_S = 180.0  # a job that runs has its workers connected after so long, or never: importing is slow on some disks
FAILED_STARTS = 3  # so many jobs in a row may fail before any worker of theirs has connected
RETURN_S = 60.0  # a worker that was killed is started again by its job within seconds
DELIVERED_S = 5.0  # after the end of a function, its result has left the worker
HURRY_S = 30.0  # before a machine is taken away, what runs on it goes back to the queue: its end takes a while
SAVING_S = 10.0  # so long after the notice, what runs has sent its checkpoint, even where there is less than that time
LOST_S = 60.0  # so long after a worker was lost, it shows if its node is: Kubernetes misses one after 40 s
GONE_S = 5.0  # a job that the queue does not show for so long is over; one answer may lack jobs that are there


@dataclass(frozen=True, slots=True)
class Job:
    """A job of the pool.

    Attributes:
        id: id in the queue.
        name: name of its workers, or the beginning of it.
        entry: entry in the queue, or None.
        unseen_s: time since the queue last listed it.
        was_connected: whether any of its workers ever connected.
        runs_s: time for which it has been seen running.
        idle_s: time for which it has had no work.
        away_s: time without a connected worker, after one was connected.
        leaving_s: time since it was cancelled or its workers were told to end; None if it is to stay.
        taken_in_s: time until its machine is taken away; None where that is not announced.
        warned_s: time since that was announced.
        lost_s: time since the connection to a worker at work broke; None if none did, or if it is known why.
    """

    id: str
    name: str
    entry: Entry | None
    unseen_s: float = 0.0
    was_connected: bool = False
    runs_s: float = 0.0
    idle_s: float = 0.0
    away_s: float = 0.0
    leaving_s: float | None = None
    taken_in_s: float | None = None
    warned_s: float = 0.0
    lost_s: float | None = None


@dataclass(frozen=True, slots=True)
class Plan:
    """The actions due now.

    Attributes:
        n_submit: number of jobs to submit.
        cancel: jobs to cancel: they are not needed, or will never provide a worker.
        retire: jobs whose workers are to end after their current work.
        pause: jobs whose machines are taken away soon: nothing more is to begin there.
        evict: of these, the jobs to end now; their work goes back to the queue as if it had never begun.
        given_up: jobs that were not taken away; what their lost workers ran has failed.
        ended: jobs that have ended; workers of theirs that seem connected are gone.
        failed: jobs that ended or hung before any worker connected, each with its description.
        certain: failed jobs whose successors would also fail.
    """

    n_submit: int = 0
    cancel: tuple[str, ...] = ()
    retire: tuple[str, ...] = ()
    pause: tuple[str, ...] = ()
    evict: tuple[str, ...] = ()
    given_up: tuple[str, ...] = ()
    ended: tuple[str, ...] = ()
    failed: tuple[tuple[str, str], ...] = ()
    certain: tuple[str, ...] = ()


def plan(jobs: Sequence[Job], n_unfinished: int, site: WorkersSite) -> Plan:
    """Return the actions that a pool takes on its jobs.

    Args:
        jobs: submitted jobs that had not ended at the last look.
        n_unfinished: number of functions that wait or run.
        site: limits on the number of jobs.
    """
    ended = tuple(job.id for job in jobs if _is_over(job))
    reasons = {job.id: reason for job in jobs if (reason := _why_it_failed(job, site)) is not None}
    abandoned = [job.id for job in jobs if job.id not in ended and _is_abandoned(job)]
    staying = [job for job in jobs if job.leaving_s is None and job.id not in (*ended, *reasons, *abandoned)]
    alive = [job for job in staying if job.taken_in_s is None]
    taken = [job for job in staying if job.taken_in_s is not None]
    wanted = wanted_jobs(n_unfinished, site)
    idle = [job for job in reversed(alive) if job.idle_s >= 60 * site.idle_minutes]
    surplus = idle[: max(0, len(alive) - wanted)]
    useless = [job.id for job in surplus if not job.was_connected]
    return Plan(
        n_submit=max(0, wanted - len(alive)),
        cancel=(*useless, *abandoned, *(job for job in reasons if job not in ended)),
        retire=tuple(job.id for job in surplus if job.was_connected),
        pause=tuple(job.id for job in taken),
        evict=tuple(job.id for job in jobs if job.id in ended and job.taken_in_s is not None)
        + tuple(job.id for job in taken if _is_to_be_evicted(job)),
        given_up=tuple(job.id for job in jobs if _is_given_up(job)),
        ended=ended,
        failed=tuple(reasons.items()),
        certain=tuple(job.id for job in jobs if job.id in reasons and job.entry is not None and job.entry.is_certain),
    )


def wanted_jobs(n_unfinished: int, site: WorkersSite) -> int:
    """Return the number of jobs needed for a number of waiting and running functions."""
    return min(site.most_jobs, max(site.min_jobs, -(-n_unfinished // site.workers_per_job)))


def what_is_awaited(entries: Sequence[Entry | None], failures: Sequence[str]) -> str:
    """Return the reason why work waits while no worker is connected, such as "PENDING: Resources".

    Args:
        entries: what the queue shows of each job; None where it shows nothing.
        failures: of jobs that gave no worker, since one did.
    """
    known = [entry for entry in entries if entry is not None]
    if running := [entry for entry in known if entry.state == "running"]:
        return f"{_with_reasons('RUNNING', running)}, its worker starts"
    if pending := [entry for entry in known if entry.state == "pending"]:
        return _with_reasons("PENDING", pending)
    if failures:
        return f"the last one failed: {failures[-1].partition(chr(10))[0]}"
    return "submitted"


def _with_reasons(state: str, entries: Sequence[Entry]) -> str:
    lines = (entry.reason.partition("\n")[0] for entry in entries)
    reasons = ", ".join(dict.fromkeys(line for line in lines if line and line != "None"))
    return f"{state}: {reasons}" if reasons else state


def _why_it_failed(job: Job, site: WorkersSite) -> str | None:
    """Say why a job will never give a worker; None where it gave one, or still may."""
    if job.was_connected or job.leaving_s is not None:
        return None
    if job.entry is not None and job.entry.is_refused:
        return None
    if _is_over(job):
        return "it was over before its worker connected"
    if job.entry is None:
        return None
    if job.entry.is_hopeless:
        what = "the queue would never start it" if job.entry.state == "pending" else "no worker can be started in it"
        return f"{what}: {job.entry.reason}"
    if job.runs_s > (site.connect_s or CONNECT_S):
        return f"it ran for {job.runs_s:.0f} s without its worker connecting"
    return None


def _is_abandoned(job: Job) -> bool:
    """Return whether a job is in the queue although its workers do not come back, or although it was to leave."""
    return job.leaving_s > RETURN_S if job.leaving_s is not None else job.away_s > RETURN_S


def _is_to_be_evicted(job: Job) -> bool:
    """Return whether a job whose machine is taken away has nothing more to do, or no more time for it."""
    is_short = job.taken_in_s is not None and job.taken_in_s < HURRY_S and job.warned_s > SAVING_S
    return is_short or job.idle_s > DELIVERED_S or job.lost_s is not None


def _is_given_up(job: Job) -> bool:
    """Return whether nothing will show any more that the machine of a lost worker was taken away."""
    if job.lost_s is None or job.taken_in_s is not None:
        return False
    return job.lost_s > LOST_S or job.leaving_s is not None


def _is_over(job: Job) -> bool:
    if job.entry is None:
        return job.unseen_s > GONE_S
    is_left_time = job.taken_in_s is not None and job.leaving_s is None  # then it is evicted first
    return job.entry.state == "ending" and not is_left_time
