"""The instances of a pool in a cloud that reaches them by ssh alone: a laptop, or a machine in another network.

The cloud starts and ends them; their workers are started through one connection each, as on other machines.
"""

import asyncio
import logging
import shutil
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Protocol

from distributed import Security

from surveyor.errors import InputError, PoolFailed
from surveyor.pools.clouds.rented_site import RentedSite
from surveyor.pools.clouds.ssh_door import LEASH, Door
from surveyor.pools.machines import Machines, NoCapacity, QueueSilent, Refused
from surveyor.pools.pool_folder import PoolFolder
from surveyor.pools.queues import Entry
from surveyor.pools.ssh.command import Login
from surveyor.pools.ssh.connection import Connection, Dialer, Work

logger = logging.getLogger("surveyor.pools.cluster")

RETRY_S = 3.0  # until an instance that boots is tried again
POLL_S = 0.5
REFUSALS = 3  # in a row: while an instance boots, it may refuse those whom it accepts later


class InstancesWithDoors(Machines, Protocol):
    """The instances of one pool in a cloud, each of which has a door."""

    def door(self, job: str) -> Door | None:
        """Return where a running instance is reached; None as long as it has not shown its keys.

        Raises:
            QueueSilent: the cloud does not answer.
            Refused: the credentials may not ask.
        """


class Tunnels:
    """The instances of one pool, and a connection to each.

    Args:
        instances: what starts and ends them.
        site: settings of the pool.
        login: user, key and way to them.
        folder: folder of the pool.
        address: address of the scheduler; needed to connect.
        security: certificates for the workers, by their files; needed to connect.

    Raises:
        InputError: there is no program `ssh`.
    """

    def __init__(
        self,
        instances: InstancesWithDoors,
        site: RentedSite,
        login: Login,
        folder: Path,
        address: str = "",
        security: Security | None = None,
    ) -> None:
        if shutil.which("ssh") is None:
            raise InputError("connection: ssh needs the program ssh; install the client of OpenSSH")
        self.folder = PoolFolder(folder.resolve())
        self._instances, self._site, self._login = instances, site, login
        shares_folder, orphan_s = site.workspace is None, 60 * site.orphan_minutes
        self._dialer = Dialer(site, self.folder, address, security or Security(), orphan_s, shares_folder)
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._names: dict[str, str] = {}
        self._refusals: dict[str, Refused] = {}
        self._failures: dict[str, str] = {}  # why it was in vain to connect, until it was not

    async def submit(self, name: str, *, firm: bool = False) -> str:
        """Start an instance and return its id; see those of the cloud."""
        return await self._instances.submit(name, firm=firm)

    async def look(self, jobs: Sequence[str]) -> Mapping[str, Entry]:
        """Return the state of all instances of this pool, and connect to those of the given ones that run.

        Raises:
            QueueSilent: the cloud does not answer.
            Refused: the credentials may not look.
        """
        entries = await self._instances.look(jobs)
        for job in jobs:
            entry = entries.get(job)
            if self._dialer.address and job not in self._tasks and entry is not None and entry.state == "running":
                self._names[job] = entry.name
                self._tasks[job] = asyncio.create_task(self._serve(job, entry.name))
        refused = {job: self._refusals[job] for job in entries if job in self._refusals}
        complaints = {
            job: replace(entries[job], reason=str(error), is_hopeless=True, is_certain=True)
            for job, error in refused.items()
            if entries[job].state == "running"
        }
        awaited = {
            job: replace(entries[job], reason=reason)
            for job, reason in self._failures.items()
            if job in entries and entries[job].state == "running"
        }
        return {**entries, **awaited, **complaints}

    async def cancel(self, jobs: Collection[str]) -> None:
        """Cut the connections to instances, and terminate them.

        Raises:
            QueueSilent: the cloud does not answer, or refuses; with its words.
        """
        tasks = [self._tasks[job] for job in jobs if job in self._tasks]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._instances.cancel(jobs)

    def output(self, job: str) -> str:
        """Return the last lines of a worker and of ssh, and the report on its instance."""
        name = self._names.get(job, job)
        said = self._dialer.said(name)
        lines = [f"Job {job} printed last ({self._dialer.output(name)}):", *said] if said else []
        if not said and job in self._failures:
            lines = [self._failures[job]]
        return "\n".join([*lines, self._instances.output(job)])

    async def _serve(self, job: str, name: str) -> None:
        """Connect to an instance, and terminate it when its connection is over: nothing else starts a worker in it."""
        try:
            connection = await self._connected(job, name)
        except Refused as error:
            logger.warning("instance %s cannot be used: %s", job, error)
            self._refusals[job] = error
            return
        try:
            while connection.is_open:
                await asyncio.sleep(POLL_S)
        finally:
            connection.cut()
        with suppress(QueueSilent):  # it ends by itself, too
            await self._instances.cancel([job])

    async def _connected(self, job: str, name: str) -> Connection:
        """Return a connection to an instance that may still boot.

        Raises:
            Refused: it refuses, or another machine answers in its place.
        """
        n_refusals = 0
        while True:
            try:
                door = await asyncio.to_thread(self._instances.door, job)
                if door is not None:
                    host = _host(job)
                    connection = await self._dialer.open(self._login_to(host, name, door), host, self._work(name))
                    self._failures.pop(job, None)
                    return connection
                self._failures[job] = f"Instance {job} has not shown its keys on its console"
            except Refused as error:
                n_refusals += 1
                if n_refusals == REFUSALS:
                    raise
                self._failures[job] = str(error)
            except (PoolFailed, NoCapacity, QueueSilent, OSError) as error:
                n_refusals, self._failures[job] = 0, str(error)
            await asyncio.sleep(RETRY_S)

    def _login_to(self, host: str, name: str, door: Door) -> Login:
        """Return how to log in to an instance that shows keys, and to no other machine."""
        known = self._dialer.output(name).with_suffix(".known")
        known.parent.mkdir(exist_ok=True)
        known.write_text("".join(f"{host} {key}\n" for key in door.keys))
        return replace(self._login, address=door.address, known_keys=known)

    def _work(self, name: str) -> Work:
        return Work(name, LEASH, self._site.kind if self._site.spot else "")


def _host(job: str) -> str:
    """Return the name of an instance as ssh takes it, without its zone."""
    return job.rpartition("/")[2]
