"""Connections to machines: each is a process of ssh through which workers run, with forwards in both directions."""

import asyncio
import random
import socket
import subprocess
import time
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from distributed import Security

from surveyor.pools.machines import OUTPUT_LINES, NoCapacity
from surveyor.pools.pool_folder import PoolFolder
from surveyor.pools.site import WorkersSite
from surveyor.pools.ssh.command import ALLOCATED, LOGIN_S, Login, command_of, refusal_of
from surveyor.pools.ssh.script import Order, worker_script
from surveyor.pools.ssh.watch import ENDED

LOCAL = "127.0.0.1"
POLL_S = 0.1
PORTS = range(20000, 32000)  # of workers: below those that systems give to whoever asks for any


@dataclass(slots=True)
class Connection:
    """A process of ssh, whose other end is a machine."""

    host: str
    process: "subprocess.Popen[bytes]"
    leaving: float | None = None  # when its workers were told to end

    @property
    def is_open(self) -> bool:
        """True while its process runs."""
        return self.process.poll() is None

    def end_input(self) -> None:
        """Close the standard input of the watch on the machine, which then ends the workers."""
        if self.process.stdin is not None:
            with suppress(BrokenPipeError):
                self.process.stdin.close()

    def cut(self) -> None:
        """Kill the process."""
        self.process.kill()
        self.process.wait()
        self.end_input()


@dataclass(frozen=True, slots=True)
class Work:
    """Work of a machine for a job.

    Attributes:
        name: name of the job and of its worker; several workers append -0, -1 and so on.
        leash: file that is held open while the workers run; empty for none.
        notice: kind of the cloud that may take the machine away; empty where nobody does.
    """

    name: str
    leash: str = ""
    notice: str = ""


@dataclass(frozen=True, slots=True)
class Dialer:
    """A dialer, which opens connections to machines and starts the workers of a pool through them.

    Attributes:
        site: settings of the pool.
        folder: folder of the pool.
        address: address of its scheduler.
        security: certificates for the workers, by their files.
        orphan_s: time in seconds after which workers end if the scheduler does not answer.
        shares_folder: whether the machines have to see the folder.
    """

    site: WorkersSite
    folder: PoolFolder
    address: str
    security: Security
    orphan_s: float
    shares_folder: bool

    def output(self, name: str) -> Path:
        """Return the file with all that a job prints."""
        return self._outputs / f"{name}.out"

    def log(self, name: str) -> Path:
        """Return the file to which ssh itself writes."""
        return self._outputs / f"{name}.ssh"

    def said(self, name: str) -> list[str]:
        """Return the last lines that a job printed, and all that ssh said."""
        said = [line for line in lines_of(self.log(name)) if not ALLOCATED.match(line)]
        return [*(line for line in lines_of(self.output(name)) if line != ENDED), *said][-OUTPUT_LINES:]

    async def open(self, login: Login, host: str, work: Work) -> Connection:
        """Connect to a machine, and have its workers started.

        Raises:
            Refused: the machine does not accept this user, or its key is not known.
            PoolFailed: ssh fails for another reason.
            NoCapacity: the machine cannot be reached.
        """
        self._outputs.mkdir(exist_ok=True)
        ports = random.sample(PORTS, self.site.workers_per_job)
        own, name = _free_ports(len(ports)), work.name
        scheduler = urlsplit(self.address)
        forwards = ["-E", str(self.log(name)), "-R", f"{LOCAL}:0:{scheduler.hostname}:{scheduler.port}"]
        for here, there in zip(own, ports, strict=True):
            forwards += ["-L", f"{LOCAL}:{here}:{LOCAL}:{there}"]
        self.log(name).unlink(missing_ok=True)
        with self.output(name).open("wb") as output:
            process = subprocess.Popen(
                command_of(login, host, forwards), stdin=subprocess.PIPE, stdout=output, stderr=output
            )
        connection = Connection(host, process)
        with ExitStack() as unfinished:
            unfinished.callback(connection.cut)
            port = await self._forwarded_port(login, host, name, process)
            self._send(connection, self._order(work, f"{scheduler.scheme}://{LOCAL}:{port}", ports, own))
            unfinished.pop_all()
        return connection

    @property
    def _outputs(self) -> Path:
        return self.folder.path / "jobs"

    async def _forwarded_port(self, login: Login, host: str, name: str, process: "subprocess.Popen[bytes]") -> int:
        """Wait for the login, and return the port at which the machine reaches the scheduler."""
        deadline = time.monotonic() + LOGIN_S
        while True:
            has_ended, said = process.poll() is not None, _text(self.log(name))
            if allocated := ALLOCATED.search(said):
                return int(allocated[1])
            if has_ended:
                raise refusal_of(login, host, f"{said}{_text(self.output(name))}")
            if time.monotonic() > deadline:
                raise NoCapacity(f"ssh to {host} gave no connection within {LOGIN_S:.0f} s")
            await asyncio.sleep(POLL_S)

    def _order(self, work: Work, scheduler: str, ports: Sequence[int], own: Sequence[int]) -> Order:
        return Order(
            work.name,
            scheduler,
            ports,
            [f"tls://{LOCAL}:{port}" for port in own],
            Path(str(self.security.tls_ca_file)).read_text(),
            Path(str(self.security.tls_worker_key)).read_text(),
            self.orphan_s,
            self.site.walltime_s,
            work.leash,
            work.notice,
        )

    def _send(self, connection: Connection, order: Order) -> None:
        """Send the script and the order, which holds the certificate."""
        folder = self.folder
        seen = folder.path if self.shares_folder else None
        script = worker_script(self.site, seen, folder.check.read_text(), folder.versions.read_text())
        if connection.process.stdin is None:
            raise RuntimeError("ssh has no standard input")
        try:
            connection.process.stdin.write(f"{script}{order.line}".encode())
            connection.process.stdin.flush()
        except BrokenPipeError as error:
            raise NoCapacity(f"the connection to {connection.host} broke at once") from error


def lines_of(path: Path) -> list[str]:
    """Return the lines of a file that may not exist, without empty ones."""
    return [line for line in _text(path).splitlines() if line.strip()]


def _free_ports(count: int) -> list[int]:
    """Return ports of this machine that nobody listens at now."""
    with ExitStack() as opened:
        probes = [opened.enter_context(socket.create_server((LOCAL, 0))) for _ in range(count)]
        return [int(probe.getsockname()[1]) for probe in probes]


def _text(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except FileNotFoundError:
        return ""
