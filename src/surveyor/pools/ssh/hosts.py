"""The machines of a pool that are reached by ssh: one connection for each job, in both directions."""

import logging
import os
import shutil
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from distributed import Security

from surveyor.errors import InputError, PoolFailed
from surveyor.pools.clouds.instance_watch import ANSWER_S, LOOK_S
from surveyor.pools.machines import NoCapacity, Refused
from surveyor.pools.pool_folder import PoolFolder
from surveyor.pools.queues import Entry
from surveyor.pools.ssh.command import LOGIN_S, login_of
from surveyor.pools.ssh.connection import Connection, Dialer, Work, lines_of
from surveyor.pools.ssh.script import UNFIT
from surveyor.pools.ssh.site import SSHSite
from surveyor.pools.ssh.watch import ENDED

logger = logging.getLogger("surveyor.pools.cluster")

UNREACHABLE_S = 60.0  # until a machine that cannot be reached is tried again
REFUSED_S = 600.0  # until one that refuses is tried again
CLOSE_S = 10.0  # in which the workers of a cancelled job end, before its connection is cut


@dataclass(frozen=True, slots=True)
class _Aside:
    """A pause in the use of a machine, with its reason."""

    until: float
    reason: Refused | NoCapacity


class Hosts:
    """The machines of one pool, each of which runs one job at a time.

    Args:
        name: name of the pool, such as ssh/lab.
        site: names the machines.
        folder: folder of the pool; without a workspace, under a path that the machines see, too.
        address: address of the scheduler that the workers look for; needed to submit.
        security: certificates for the workers, by their files; needed to submit.

    Raises:
        InputError: there is no program `ssh`.
    """

    def __init__(
        self, name: str, site: SSHSite, folder: Path, address: str = "", security: Security | None = None
    ) -> None:
        if shutil.which("ssh") is None:
            raise InputError("pools of the kind ssh need the program ssh; install the client of OpenSSH")
        self.name = name
        self.site = site
        self.folder = PoolFolder(folder.resolve())
        shares_folder = site.workspace is None
        self._dialer = Dialer(site, self.folder, address, security or Security(), site.orphan_s, shares_folder)
        self._login = login_of(site)
        self._connections: dict[str, Connection] = {}
        self._over: set[str] = set()
        self._aside: dict[str, _Aside] = {}
        self._failed: dict[str, float] = {}  # when something last went wrong on a machine that can be reached

    async def submit(self, name: str, *, firm: bool = False) -> str:
        """Start a job on the first free machine that can be reached, and return its id.

        Args:
            name: name of the job and of its worker; several workers append -0, -1 and so on.
            firm: of no effect.

        Raises:
            Refused: no machine accepts this user, or their keys are not known.
            PoolFailed: ssh fails for another reason.
            NoCapacity: all machines are in use, or cannot be reached.
        """
        begin, busy = time.monotonic(), {each.host for each in self._connections.values() if each.is_open}
        free = [host for host in self.site.hosts if host not in busy]
        reasons: dict[str, PoolFailed | NoCapacity] = {
            host: self._aside[host].reason for host in free if self._is_aside(host)
        }
        tried = [host for host in free if host not in reasons]
        for host in sorted(tried, key=lambda host: self._failed.get(host, 0.0)):
            if time.monotonic() > begin + LOGIN_S:
                reasons[host] = NoCapacity(f"{host} is tried next")  # in between, the pool looks after the others
                continue
            try:
                return await self._start(host, name)
            except (PoolFailed, NoCapacity) as error:
                reasons[host] = error
                self._note_trouble(host, error)
        raise _of_all(list(reasons.values()), is_any_busy=bool(busy))

    async def look(self, jobs: Sequence[str]) -> Mapping[str, Entry]:
        """Return the jobs whose connection is open, and those of another process of the pool that may still run."""
        now = time.monotonic()
        for job, connection in list(self._connections.items()):
            if connection.is_open:
                if connection.leaving is not None and now > connection.leaving + CLOSE_S:
                    connection.process.kill()
                continue
            self._note_end(job, connection)
        others = [job for job in jobs if job not in {*self._connections, *self._over} and self._may_run_still(job)]
        holder = self.folder.read_holder() if others else None
        is_held = holder is not None and holder["pid"] != os.getpid()  # asked by another process, such as the doctor's
        open_ones = {
            job: Entry("running" if each.leaving is None else "ending") for job, each in self._connections.items()
        }
        return {**{job: Entry("running" if is_held else "ending") for job in others}, **open_ones}

    async def cancel(self, jobs: Collection[str]) -> None:
        """End jobs: their workers end when the standard input of ssh does."""
        for connection in (self._connections[job] for job in jobs if job in self._connections):
            if connection.leaving is None:
                connection.leaving = time.monotonic()
                connection.end_input()

    def output(self, job: str) -> str:
        """Return the last lines printed by a job and by ssh."""
        name = job.partition(":")[0]
        lines, path = self._dialer.said(name), self._dialer.output(name)
        if not lines:
            return f"job {job} printed nothing into {path}"
        return "\n".join([f"job {job} printed last ({path}):", *lines])

    async def _start(self, host: str, name: str) -> str:
        job = f"{name}:{host}"
        self._connections[job] = await self._dialer.open(self._login, host, Work(name))
        self._aside.pop(host, None)
        return job

    def _note_end(self, job: str, connection: Connection) -> None:
        connection.end_input()
        self._over.add(job)
        del self._connections[job]
        status, host = connection.process.returncode, connection.host
        if status == UNFIT:
            said = lines_of(self._dialer.output(job.partition(":")[0]))[-1:]
            self._note_trouble(host, Refused(f"{host}: {' '.join(said)}"))
        elif status and connection.leaving is None:
            self._failed[host] = time.monotonic()

    def _is_aside(self, host: str) -> bool:
        return host in self._aside and time.monotonic() < self._aside[host].until

    def _note_trouble(self, host: str, error: PoolFailed | NoCapacity) -> None:
        now, former = time.monotonic(), self._aside.get(host)
        if former is None or str(former.reason) != str(error):
            logger.warning("pool %s: %s", self.name, error)
        if isinstance(error, Refused | NoCapacity):
            self._aside[host] = _Aside(now + (REFUSED_S if isinstance(error, Refused) else UNREACHABLE_S), error)
        else:
            self._failed[host] = now

    def _may_run_still(self, job: str) -> bool:
        """Return whether the workers of a job may run that another process of the pool has started.

        They have ended where the output says so; or else when they have not heard of that process for long enough.
        """
        if ENDED in lines_of(self._dialer.output(job.partition(":")[0]))[-1:]:
            return False
        last_known = float((self.folder.read_state() or {}).get("time", 0.0))
        return time.time() < last_known + self.site.orphan_s + ANSWER_S + LOOK_S


def _of_all(reasons: Sequence[PoolFailed | NoCapacity], *, is_any_busy: bool) -> PoolFailed | NoCapacity:
    """Return the exception for a job that no machine takes."""
    messages = "; ".join(dict.fromkeys(str(reason) for reason in reasons))
    if is_any_busy:
        return NoCapacity(f"the other machines are in use; {messages}" if messages else "all machines are in use")
    if all(isinstance(reason, Refused) for reason in reasons):
        return Refused(messages)
    return NoCapacity(messages) if any(isinstance(reason, NoCapacity) for reason in reasons) else PoolFailed(messages)
