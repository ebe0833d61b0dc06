"""The machines of a pool in any cloud, and the identity that tells them from those of other pools."""

import asyncio
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Generic, TypeVar
from uuid import uuid4

from distributed import Security

from surveyor.pools.clouds.cloud_site import CloudSite
from surveyor.pools.clouds.marks import identity_of

S = TypeVar("S", bound=CloudSite)


class CloudMachines(Generic[S]):
    """Base of the machines of one pool.

    Args:
        name: name of the pool, such as ec2/gpu.
        site: settings of its machines.
        folder: folder of the pool, under a path that the machines see, too.
        address: address of the scheduler that the workers look for; needed to submit.
        security: certificates for the workers, by their files; needed to submit.
        check: arguments of the interpreter that compare the versions before a worker starts.
    """

    def __init__(
        self,
        name: str,
        site: S,
        folder: Path,
        address: str = "",
        security: Security | None = None,
        check: str = "",
    ) -> None:
        self.name = name
        self.site = site
        self.folder = folder.resolve()
        self._address, self._security, self._check = address, security or Security(), check
        self._begun = uuid4().hex  # the numbers of jobs begin again with each process

    @property
    def identity(self) -> str:
        """Identity of this folder, by which its machines differ from those of any other machine, user or folder."""
        return identity_of(self.folder)


async def for_each(jobs: Collection[str], act: Callable[[str], None]) -> None:
    """Do something with each job, in threads, whether or not it succeeds with the others.

    Raises:
        Exception: the first failure, after all jobs had their turn.
    """
    outcomes = await asyncio.gather(*(asyncio.to_thread(act, job) for job in jobs), return_exceptions=True)
    for failure in (outcome for outcome in outcomes if outcome is not None):
        raise failure
