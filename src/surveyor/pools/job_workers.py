"""The workers of the jobs of a pool, as its scheduler knows them: found, paused, moved, removed."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from distributed.core import Status
from distributed.scheduler import WorkerState

from surveyor.pools.job_record import JobRecord
from surveyor.pools.scheduler import PoolScheduler

logger = logging.getLogger("surveyor.pools.cluster")


@dataclass(frozen=True, slots=True)
class JobWorkers:
    """The workers of each job at one moment.

    Attributes:
        scheduler: scheduler of the pool.
        by_job: its workers by the ids of their jobs.
    """

    scheduler: PoolScheduler
    by_job: Mapping[str, Sequence[WorkerState]]

    @classmethod
    def now(cls, scheduler: PoolScheduler, records: Mapping[str, JobRecord]) -> "JobWorkers":
        """Return the workers that are connected now, and those that were lost and whose fate is not known yet."""
        names = {record.name: job for job, record in records.items()}
        found: dict[str, list[WorkerState]] = {job: [] for job in records}
        for worker in scheduler.workers.values():
            name = str(worker.name)
            job = names.get(name) or names.get(name.rpartition("-")[0])
            if job is not None:
                found[job].append(worker)
        return cls(scheduler, found)

    def lost_since(self, job: str) -> float | None:
        """Return since when a worker of a job is lost and nobody knows why; None if none is."""
        lost = self.scheduler.lost
        return min((lost[worker.address] for worker in self.by_job[job] if worker.address in lost), default=None)

    async def fail(self, jobs: Sequence[str]) -> None:
        """Remove the workers of ended jobs, even if their connections are still open, and fail their functions."""
        for job in jobs:
            for worker in (each for each in self.by_job[job] if each.address in self.scheduler.workers):
                logger.warning("job %s is over, and takes worker %s with it", job, worker.name)
                await self.scheduler.fail_worker(worker.address, f"job-{job}-is-over")

    async def fail_lost(self, jobs: Sequence[str]) -> None:
        """Remove the lost workers of jobs whose machines were not taken away, and fail their functions."""
        for worker in (each for job in jobs for each in self.by_job[job] if each.address in self.scheduler.lost):
            await self.scheduler.fail_worker(worker.address, "lost-for-long")

    async def retire(self, job: str) -> bool:
        """End the workers of an idle job; return whether all could, as one may hold results that no other can take."""
        addresses = {worker.address for worker in self.by_job[job]}
        retired = await self.scheduler.retire_workers(list(addresses), close_workers=True)
        return addresses.isdisjoint(self.scheduler.workers.keys() - retired.keys())

    async def pause(self, jobs: Sequence[str]) -> None:
        """Let nothing more begin on the workers of jobs."""
        addresses = [each.address for job in jobs for each in self.by_job[job] if each.status == Status.running]
        if addresses:
            await self.scheduler.retire_workers(addresses, close_workers=False, remove=False)

    async def evict(self, jobs: Sequence[str]) -> None:
        """Remove the workers of jobs; their functions wait for other workers, and have not failed."""
        for worker in (each for job in jobs for each in self.by_job[job]):
            await self.scheduler.remove_worker(worker.address, stimulus_id="taken-away", expected=True)
