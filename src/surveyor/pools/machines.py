"""The operations that a pool needs of the service that runs its jobs: a queue of a cluster, or a cloud."""

from collections.abc import Collection, Mapping, Sequence
from typing import Protocol

from surveyor.errors import PoolFailed
from surveyor.pools.queues import Entry

OUTPUT_LINES = 15  # of a job, in messages


class Refused(PoolFailed):
    """The service refuses a job, and would refuse another one that asks for the same."""


class QueueSilent(Exception):
    """The service does not answer, which says nothing about its jobs."""


class NoCapacity(Exception):
    """The service has no room for a job at present; another one may begin later.

    Args:
        message: what the service said.
        is_offered: whether the service has such machines at all.
    """

    def __init__(self, message: str, is_offered: bool = True) -> None:
        super().__init__(message, is_offered)
        self.message = message
        self.is_offered = is_offered

    def __str__(self) -> str:
        return self.message


def of_all(refusals: Sequence[NoCapacity]) -> Refused | NoCapacity:
    """Return the exception for an instance that no zone and no type has room for."""
    messages = "; ".join(dict.fromkeys(str(refusal) for refusal in refusals))
    if not any(refusal.is_offered for refusal in refusals):
        return Refused(f"no zone of the pool offers these types of instances: {messages}")
    return NoCapacity(messages)


class Machines(Protocol):
    """The jobs of one pool, wherever they run."""

    async def submit(self, name: str, *, firm: bool = False) -> str:
        """Submit a job and return its id.

        Args:
            name: name of the job and of its worker; several workers append -0, -1 and so on.
            firm: ask for a machine that is not taken away, where the pool prefers cheaper ones that may be.

        Raises:
            Refused: the service refuses the job permanently; with its message.
            PoolFailed: the service refuses the job for now.
            NoCapacity: the service has no room for the job at present, which is no failure.
            QueueSilent: the service does not answer.
        """

    async def look(self, jobs: Sequence[str]) -> Mapping[str, Entry]:
        """Return the state of some jobs, and of any other one known to be of this pool, without those that have ended.

        Raises:
            QueueSilent: the service does not answer.
        """

    async def cancel(self, jobs: Collection[str]) -> None:
        """Cancel jobs; those that have ended are passed over.

        Raises:
            QueueSilent: the service does not answer.
        """

    def output(self, job: str) -> str:
        """Return the last lines that a job printed; it may wait for the service."""
