"""History of a job, as the process of a pool remembers it."""

import time
from dataclasses import dataclass

from surveyor.pools.queues import Entry
from surveyor.pools.watch import Job


@dataclass(slots=True)
class JobRecord:
    """The history of a job, in seconds of the monotonic clock."""

    name: str
    busy: float  # when it last had something to do
    entry: Entry | None = None
    missed: float | None = None  # since when the queue has not shown it
    running: float | None = None
    connected: float | None = None  # when a worker was last seen
    leaving: float | None = None  # when it was cancelled, or its workers were told to leave
    taken_at: float | None = None  # when its machine is taken away, in seconds since the epoch
    warned: float | None = None  # when that was announced
    lost: float | None = None  # when the connection to a worker at work broke, until it is known why

    def note_entry(self, entry: Entry | None, now: float) -> None:
        """Record the queue's entry of the job; None if the queue shows none."""
        self.entry = entry
        self.missed = None if entry is not None else now if self.missed is None else self.missed
        if entry is not None and entry.state == "running" and self.running is None:
            self.running = now

    def view(self, job: str, now: float) -> Job:
        """Return the job as it is now."""
        return Job(
            id=job,
            name=self.name,
            entry=self.entry,
            unseen_s=0.0 if self.missed is None else now - self.missed,
            was_connected=self.connected is not None,
            runs_s=0.0 if self.running is None else now - self.running,
            idle_s=now - self.busy,
            away_s=0.0 if self.connected is None else now - self.connected,
            leaving_s=None if self.leaving is None else now - self.leaving,
            taken_in_s=None if self.taken_at is None else self.taken_at - time.time(),
            warned_s=0.0 if self.warned is None else now - self.warned,
            lost_s=None if self.lost is None else now - self.lost,
        )
