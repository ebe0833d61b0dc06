"""A real PostgreSQL server on loopback, with a folder of its own; it ends with the test."""

import os
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

START_S = 60
STOP_S = 20
POLL_S = 0.1
DEBIAN = Path("/usr/lib/postgresql")  # each version has a folder there, none of them on the PATH
SYSTEM_USER = "postgres"  # made by Debian's package; PostgreSQL refuses to run as root


def postgresql_programs() -> Path | None:
    """Return the folder of PostgreSQL's programs, those of the newest version; None where it is not installed."""
    versions = sorted(DEBIAN.glob("*/bin/initdb"), key=lambda path: float(path.parents[1].name))
    found = str(versions[-1]) if versions else shutil.which("initdb")
    return None if found is None else Path(found).resolve().parent


@contextmanager
def postgresql_server() -> Iterator["PostgreSQL"]:
    """Run a server with a new folder for its data, and with the user and database `prefect` of the documentation."""
    programs = postgresql_programs()
    assert programs is not None, "apt-get install postgresql"
    folder = Path(tempfile.mkdtemp(prefix="surveyor-postgresql-"))
    if os.geteuid() == 0:
        shutil.chown(folder, SYSTEM_USER, SYSTEM_USER)
    server = PostgreSQL(programs, folder, _free_port(), secrets.token_hex(8))
    try:
        with server.running():
            yield server
    finally:
        shutil.rmtree(folder)


@dataclass(frozen=True)
class PostgreSQL:
    """A server of PostgreSQL that listens on loopback.

    Args:
        programs: folder of its programs.
        folder: its own one.
        port: where it listens.
        password: of the user.
        name: of the user and of the database.
    """

    programs: Path
    folder: Path
    port: int
    password: str
    name: str = "prefect"

    @property
    def url(self) -> str:
        """What Prefect's server connects to."""
        return f"postgresql+asyncpg://{self.name}:{self.password}@127.0.0.1:{self.port}/{self.name}"

    @contextmanager
    def running(self) -> Iterator[None]:
        data, log = self.folder / "data", self.folder / "log.txt"
        self._run("initdb", "--pgdata", str(data), "--auth-local=trust", "--auth-host=scram-sha-256", "--no-sync")
        command = [
            str(self.programs / "postgres"),
            *("-D", str(data)),
            "--listen_addresses=127.0.0.1",
            f"--port={self.port}",
            f"--unix_socket_directories={self.folder}",
        ]
        with log.open("wb") as output:
            process = subprocess.Popen(command, stdout=output, stderr=output, cwd=self.folder, **_user())
        try:
            self._wait(process, log)
            self.query(f"CREATE USER {self.name} PASSWORD '{self.password}'")
            self.query(f"CREATE DATABASE {self.name} OWNER {self.name}")
            yield
        finally:
            process.send_signal(signal.SIGINT)  # ends the connections, too; SIGTERM would wait for them
            process.wait(STOP_S)

    def query(self, statement: str, database: str = "postgres") -> str:
        """Return what a statement gives, as the superuser, without a header."""
        return self._psql(database, "--tuples-only", "--no-align", "--command", statement).strip()

    def load(self, statements: Path) -> None:
        """Have statements of a file done in its database, by its user."""
        self._psql(self.name, "--username", self.name, "--set", "ON_ERROR_STOP=1", "--quiet", "--file", str(statements))

    def _psql(self, database: str, *options: str) -> str:
        where = ["--host", str(self.folder), "--port", str(self.port), "--dbname", database]
        return self._run("psql", *where, "--no-psqlrc", *options)

    def _wait(self, process: "subprocess.Popen[bytes]", log: Path) -> None:
        deadline = time.monotonic() + START_S
        while "ready to accept connections" not in log.read_text():
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(POLL_S)

    def _run(self, program: str, *arguments: str) -> str:
        command = [str(self.programs / program), *arguments]
        done = subprocess.run(command, cwd=self.folder, capture_output=True, text=True, check=False, **_user())
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout


def _user() -> dict[str, str]:
    return {"user": SYSTEM_USER, "group": SYSTEM_USER} if os.geteuid() == 0 else {}


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
