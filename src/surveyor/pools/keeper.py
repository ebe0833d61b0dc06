"""The process of a pool, which keeps as many jobs as there is work for, watches them, and counts their cost."""

import asyncio
import logging
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field

from distributed.core import Status
from distributed.scheduler import WorkerState

from surveyor.errors import PoolFailed
from surveyor.files import write_json
from surveyor.lease import Lease
from surveyor.pools import worker_check
from surveyor.pools.interruptions import Interruptions
from surveyor.pools.job_record import JobRecord
from surveyor.pools.job_workers import JobWorkers
from surveyor.pools.machines import Machines, NoCapacity, QueueSilent, Refused
from surveyor.pools.pool_folder import PoolFolder
from surveyor.pools.queues import Entry
from surveyor.pools.scheduler import PoolScheduler
from surveyor.pools.site import WorkersSite
from surveyor.pools.spending import Spending
from surveyor.pools.watch import FAILED_STARTS, Plan, plan, what_is_awaited

logger = logging.getLogger("surveyor.pools.cluster")

MOST_TAKEN = 3  # machines in a row that may be gone without a notice and without any result between them
LOOK_S = 2.0  # how often the queue is asked; each answer costs the cluster's controller something
SUBMIT_AT_ONCE = 10  # then the queue is looked at again, and a signal is heeded
RETRY_S = 60.0  # until jobs are submitted again, where jobs fail but some workers are there
SILENCE_S = 3600.0  # so long may the queue be silent while work waits and nothing runs: masters are updated
STRAYS_S = 300.0  # so long after a submission that was not answered its job may turn up
CAPACITY_S = 30.0  # until an instance is asked for again, where the cloud has no room
SHORTAGE_S = 600.0  # so often it is said that the cloud has no room
SILENT_S = 15.0  # until jobs are submitted again, where the controller of the queue does not answer
CANCEL_S = 30.0  # so long is it tried to cancel the jobs of a pool that closes
ATTACH_S = 60.0  # so long does a new pool wait for its first client before it counts as idle


@dataclass(slots=True)
class Keeper:
    """The keeper of a pool's jobs: as many as there is work for."""

    name: str
    site: WorkersSite
    folder: PoolFolder
    lease: Lease
    scheduler: PoolScheduler
    machines: Machines
    records: dict[str, JobRecord] = field(default_factory=dict)
    n_submitted: int = 0
    failures: list[str] = field(default_factory=list)  # in a row, since a worker connected
    is_certain: bool = False  # whether the last one would come again
    next_submission: float = 0.0
    silent: float | None = None  # since when the queue does not answer
    unanswered: dict[str, float] = field(
        default_factory=dict
    )  # names of jobs whose submission was not answered, and when
    short: tuple[float, float, str] | None = None  # since when the cloud has no room, when that was said, and its words
    spending: Spending | None = None
    interruptions: Interruptions = field(default_factory=Interruptions)
    used: float = field(default_factory=lambda: time.monotonic() + ATTACH_S)

    async def end_former_jobs(self) -> None:
        """Cancel the jobs left by a killed process, which would otherwise compute the same work as the new jobs."""
        if self.site.price is not None:
            state = self.folder.read_state() or {}
            unwatched_s, n_left = time.time() - state.get("time", time.time()), len(self.folder.read_jobs())
            spent = float(state.get("spent") or 0.0)
            self.spending = Spending.continued(self.site.price, spent, n_left, unwatched_s, time.monotonic())
        left = await self._cancelled(self.folder.read_jobs(), self.site.leave_s, whole=True)
        if left:
            raise PoolFailed(
                f"pool {self.name}: jobs {', '.join(left)} of its former process do not leave the queue; cancel them "
                "and see why"
            )

    async def keep(self, stop: asyncio.Event) -> None:
        """Look after the jobs until the pool is to be closed, or another process has its folder.

        Raises:
            PoolFailed: jobs fail again and again.
        """
        while not stop.is_set() and self.scheduler.status == Status.running and not self._is_unused():
            if self.lease.is_lost:
                break
            await self._look()
            with suppress(TimeoutError):
                await asyncio.wait_for(stop.wait(), LOOK_S)

    async def close(self) -> None:
        """Cancel all jobs; those that could not be cancelled remain recorded for the next process of the pool."""
        if self.lease.is_lost:  # what is written in the folder now is of the other process
            with suppress(QueueSilent):
                await self.machines.cancel(list(self.records))
            return
        left = await self._cancelled([*{*self.folder.read_jobs(), *self.records}], CANCEL_S, whole=False)
        if left:
            logger.error("pool %s: jobs %s could not be cancelled", self.name, ", ".join(left))
        if self.spending is not None:
            self._count_cost(self.spending)
        self.records = {job: record for job, record in self.records.items() if job in left}
        self._note()  # the next process of the pool goes on with what was spent
        with suppress(OSError):
            self.folder.write_jobs(left)  # those of the process before, too

    async def _cancelled(self, jobs: list[str], within_s: float, *, whole: bool) -> list[str]:
        """Cancel jobs and any others of this pool in the queue; return those that remain.

        Args:
            jobs: their ids.
            within_s: time limit.
            whole: also wait for the end of jobs that are being terminated.
        """
        deadline = time.monotonic() + within_s
        while time.monotonic() < deadline:
            with suppress(QueueSilent):
                await self.machines.cancel(jobs)
                entries = await self.machines.look(jobs)
                jobs = [job for job, entry in entries.items() if whole or entry.state != "ending"]
            if not jobs:
                break
            await asyncio.sleep(0.5)
        return jobs

    def _is_unused(self) -> bool:
        now = time.monotonic()
        if self.scheduler.n_attached or self.scheduler.n_unfinished:
            self.used = now
        return now - self.used >= 60 * self.site.idle_minutes

    async def _look(self) -> None:
        self._count()
        self.unanswered = {job: at for job, at in self.unanswered.items() if time.monotonic() < at + STRAYS_S}
        try:
            entries = await self.machines.look(list(self.records)) if self.records or self.unanswered else {}
        except QueueSilent as error:
            self._bear_silence(error)
            self._note()
            return
        if self.records:
            self.silent = None
        if self.lease.is_lost:
            return  # what the queue shows of this folder may be of the other process
        await self._settle_unknown(entries)
        now, workers = time.monotonic(), JobWorkers.now(self.scheduler, self.records)
        for job, record in self.records.items():
            record.lost = workers.lost_since(job)
            self._note_job(record, entries.get(job), workers.by_job[job], now)
        views = [record.view(job, now) for job, record in self.records.items()]
        await self._carry_out(plan(views, self.scheduler.n_unfinished, self.site), workers)
        self._note()

    async def _settle_unknown(self, entries: Mapping[str, Entry]) -> None:
        """Keep the jobs whose submission was not answered, as their workers may be at work, and cancel all others."""
        unknown = {job: entry for job, entry in entries.items() if job not in self.records and entry.state != "ending"}
        for job, entry in unknown.items():
            if self.unanswered.pop(entry.name, None) is not None:
                logger.info("pool %s: %s was submitted, although the queue did not say so", self.name, entry.name)
                self.records[job] = JobRecord(entry.name, busy=time.monotonic())
        await self._cancel(tuple(unknown.keys() - self.records.keys()))

    def _count(self) -> None:
        """Count the cost of the jobs.

        Raises:
            PoolFailed: the budget is spent, and there is work or a job.
        """
        if self.spending is None:
            return
        self._count_cost(self.spending)
        if self.spending.complaint is not None and (self.records or self.scheduler.n_unfinished):
            raise PoolFailed(f"pool {self.name}: {self.spending.complaint}")

    def _count_cost(self, spending: Spending) -> None:
        costs = [spending.price.counts_pending or each.running is not None for each in self.records.values()]
        spending.count(sum(costs), time.monotonic())

    async def _carry_out(self, decided: Plan, workers: JobWorkers) -> None:
        for job, reason in decided.failed:
            output = await asyncio.to_thread(self.machines.output, job)  # a cloud takes a while to answer
            message = f"job {job}: {reason}. {output}"
            is_different = self.site.has_equal_jobs and worker_check.DIFFERENT in message
            self._note_failure(message, is_certain=job in decided.certain or is_different)
        await workers.pause(decided.pause)
        await workers.evict(decided.evict)
        await workers.fail(decided.ended)
        await workers.fail_lost(decided.given_up)
        await self._retire(decided.retire, workers)
        await self._cancel((*decided.evict, *decided.cancel))
        for ended in [self.records.pop(job) for job in decided.ended]:
            if ended.entry is not None and ended.entry.is_refused:
                self._note_shortage(ended.entry.reason)
        self._judge()
        for _ in range(min(decided.n_submit, SUBMIT_AT_ONCE)):
            await self._submit()

    def _note_job(self, record: JobRecord, entry: Entry | None, workers: Sequence[WorkerState], now: float) -> None:
        awaited = entry.reason if entry is not None and entry.state != "ending" else ""
        if awaited and (record.entry is None or record.entry.reason != awaited):
            logger.info("pool %s: %s waits: %s", self.name, record.name, awaited)
        if entry is not None and entry.state == "running" and record.running is None:
            self.short = None
        record.note_entry(entry, now)
        if workers or (record.connected is None and self._was_connected(record)):
            if record.connected is None:
                self.failures.clear()
            record.connected = now
        if any(worker.processing for worker in workers):
            record.busy = now
        if record.taken_at is None and (at := self._taken_at(record, entry)) is not None:
            self._note_interruption(record, at)

    def _taken_at(self, record: JobRecord, entry: Entry | None) -> float | None:
        """Return when the machine of a job is or was taken away, by its own notice or by the queue's entry."""
        if record.leaving is not None:
            return None
        shown = None if entry is None else entry.taken_at
        if entry is not None and entry.is_silent and record.lost is not None:
            shown = time.time()
        at = self.scheduler.taken.get(record.name) if shown is None else shown  # the queue knows it exactly
        is_at_work = record.connected is not None and record.lost is None
        # Work may itself be why its nodes lack memory or disk; it is not to go round for ever.
        is_bounded = self.interruptions.are_many(MOST_TAKEN, self.scheduler.n_finished)
        return None if is_bounded and not is_at_work else at

    def _was_connected(self, record: JobRecord) -> bool:
        several = (f"{record.name}-{number}" for number in range(self.site.workers_per_job))
        return not self.scheduler.names_seen.isdisjoint([record.name, *several])

    async def _cancel(self, jobs: tuple[str, ...]) -> None:
        """Cancel jobs; one is forgotten when the queue shows it no more, and cancelled again when that takes long."""
        for job in self.records.keys() & {*jobs}:
            self.records[job].leaving = time.monotonic()
        try:
            await self.machines.cancel(jobs)
        except QueueSilent as error:
            logger.warning("pool %s: jobs could not be cancelled: %s", self.name, error)

    async def _retire(self, jobs: tuple[str, ...], workers: JobWorkers) -> None:
        """End idle jobs, except those that hold results which no other worker can take: they stay for a while more."""
        for job in jobs:
            record = self.records[job]
            record.leaving = time.monotonic()
            if not await workers.retire(job):
                logger.info("pool %s: %s stays, as results on it have not been fetched yet", self.name, record.name)
                record.leaving, record.busy = None, time.monotonic()

    def _note_interruption(self, record: JobRecord, at: float) -> None:
        record.taken_at, record.warned = at, time.monotonic()
        self.interruptions.note(self.scheduler.n_finished)
        reason = f" ({record.entry.reason})" if record.entry is not None and record.entry.state == "ending" else ""
        logger.warning(
            "pool %s: the machine of %s is taken away%s; its work goes to another one", self.name, record.name, reason
        )

    def _note_failure(self, message: str, *, is_certain: bool) -> None:
        logger.warning("pool %s: %s", self.name, message)
        self.failures.append(message)
        self.is_certain = is_certain
        # The first failures are answered at once; a cluster that refuses is not asked again and again.
        self.next_submission = time.monotonic() + LOOK_S * len(self.failures)

    def _bear_silence(self, error: QueueSilent) -> None:
        """Wait for a queue that does not answer, as long as something works, or a while where nothing does.

        Raises:
            PoolFailed: it has not answered for very long, there is work, and no worker.
        """
        now = time.monotonic()
        self.silent = now if self.silent is None else self.silent
        logger.warning("pool %s: the queue does not answer: %s", self.name, error)
        if now - self.silent > SILENCE_S and self.scheduler.n_unfinished and not self.scheduler.n_connected:
            raise PoolFailed(
                f"pool {self.name}: work waits, and the queue has not answered for {SILENCE_S / 60:.0f} min: {error}"
            )

    def _bear_shortage(self, error: NoCapacity) -> None:
        """Wait for a cloud that has no room, as long as it takes: the instances of others end at some time."""
        self._note_shortage(str(error))
        self.next_submission = time.monotonic() + CAPACITY_S

    def _note_shortage(self, words: str) -> None:
        now = time.monotonic()
        since, said, _ = self.short or (now, now, "")
        if now - said > SHORTAGE_S:
            logger.warning("pool %s: no capacity for %.0f min: %s", self.name, (now - since) / 60, words)
            said = now
        self.short = (since, said, words)

    def _judge(self) -> None:
        # Another job would find the same environment or limits, maybe after hours in the queue.
        is_final = bool(self.failures) and self.is_certain
        if len(self.failures) < FAILED_STARTS and not is_final:
            return
        if any(record.connected is not None for record in self.records.values()):
            self.next_submission = time.monotonic() + RETRY_S  # what there is goes on
            self.failures.clear()
            return
        if self.records and not self.site.has_equal_jobs:
            return  # another machine may still give a worker
        if is_final:
            raise PoolFailed(f"pool {self.name}: a job gave no worker, nor would another: {self.failures[-1]}")
        raise PoolFailed(
            f"pool {self.name}: {len(self.failures)} jobs in a row gave no worker. The last one: {self.failures[-1]}"
        )

    async def _submit(self) -> None:
        if time.monotonic() < self.next_submission:
            return
        self.n_submitted += 1
        name = f"{self.folder.label}-{self.n_submitted}"
        try:
            firm = self.interruptions.are_many(self.site.firm_after, self.scheduler.n_finished)
            job = await self.machines.submit(name, firm=firm)
        except QueueSilent as error:
            self.unanswered[name] = time.monotonic()
            self.next_submission = time.monotonic() + SILENT_S
            self._bear_silence(error)
            return
        except NoCapacity as error:
            self._bear_shortage(error)
            return
        except PoolFailed as error:
            self._note_failure(str(error), is_certain=isinstance(error, Refused))
            self._judge()
            return
        self.silent = None
        self.records[job] = JobRecord(name, busy=time.monotonic())
        self._note()

    def _note(self) -> None:
        try:
            self._write_state()
        except OSError as error:  # a full disk is no reason to end jobs that work
            logger.warning("pool %s: its state cannot be written: %s", self.name, error)

    def _write_state(self) -> None:
        self.folder.write_jobs(list(self.records))
        states = [record.entry.state if record.entry else "submitted" for record in self.records.values()]
        write_json(
            self.folder.state,
            {
                "time": time.time(),
                "jobs": {state: states.count(state) for state in set(states)},
                "workers": self.scheduler.n_connected,
                "unfinished": self.scheduler.n_unfinished,
                "attached": self.scheduler.n_attached,
                "failures": self.failures,
                "queue_is_silent": self.silent is not None,
                "waiting": self._waiting(),
                "spent": None if self.spending is None else self.spending.spent,
            },
            is_patient=False,  # what looks after the jobs must not stand still
        )

    def _waiting(self) -> str | None:
        if not self.scheduler.n_unfinished or self.scheduler.n_connected:
            return None
        if self.silent is not None:
            return "the queue does not answer"
        if self.short is not None and not self.records:
            return f"no capacity: {self.short[2]}"
        return what_is_awaited([record.entry for record in self.records.values()], self.failures)
