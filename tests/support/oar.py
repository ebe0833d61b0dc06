"""A real OAR on this machine, for tests; it ends with them, however they end.

Needs root, PostgreSQL, the Perl modules that OAR needs, and the Debian packages oar-server, oar-user, oar-common and
liboar-perl. These make a user and are set up for one server a machine, so they are unpacked into a folder, which the
variable `SURVEYOR_TEST_OAR` names, and only the programs of OAR that are Perl scripts are used. What gives them the
rights of other users is left out, as everything runs as root here, and a node is reached by a shell in place of ssh.
"""

import os
import secrets
import shutil
import socket
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from postgresql import PostgreSQL, postgresql_programs
from processes import PATIENCE_S, Servers, free_ports, kill_all, processes_where, servers, wait_until

INSTALLED = Path(os.environ.get("SURVEYOR_TEST_OAR", "/usr"))
PROGRAMS = INSTALLED / "lib" / "oar"
MODULES = INSTALLED / "share" / "perl5"
PERL_MODULES = ("DBD::Pg", "Sort::Versions")

QUEUE = "default"
NODE = "node1"
CORES = 4
OFFERED = ("oarsub", "oarstat", "oardel", "oarnodes", "oarnodesetting", "oarhold", "oarresume")
DATABASE = "oar"


class OAR:
    """A running OAR, with one node.

    Args:
        own: its servers, of which none is started yet.
    """

    def __init__(self, own: Servers) -> None:
        self.folder = own.folder
        self.commands = self.folder / "bin"
        self._servers = own
        self._almighty: subprocess.Popen[bytes] | None = None
        self._port, database_port = free_ports(2)
        programs = postgresql_programs()
        assert programs is not None, "apt-get install postgresql"
        folder = self.folder / "postgresql"
        self.database = PostgreSQL(programs, folder, database_port, secrets.token_hex(8), name=DATABASE)

    def run(self, command: Sequence[str]) -> str:
        """Run one of OAR's commands and return what it prints."""
        done = subprocess.run(
            [str(self.commands / command[0]), *command[1:]],
            cwd=self.folder,
            capture_output=True,
            text=True,
            check=False,
            timeout=PATIENCE_S,
        )
        assert done.returncode == 0, f"{' '.join(command)}: {done.stderr or done.stdout}\n{self._logs()}"
        return done.stdout.strip()

    def queue(self) -> dict[int, str]:
        """Return the states of the jobs that have not ended, in OAR's words, such as Waiting and Running."""
        ended = "('Terminated', 'Error')"
        rows = self.database.query(f"SELECT job_id, state FROM jobs WHERE state NOT IN {ended}", DATABASE).split()
        return {int(job): state for job, state in (row.split("|") for row in rows)}

    def state(self, job: int) -> str:
        """Return the state of a job, which may have ended."""
        return self.database.query(f"SELECT state FROM jobs WHERE job_id = {job}", DATABASE)

    def events(self, job: int) -> str:
        """Return what has happened to a job."""
        return self.run(["oarstat", "--events", "-j", str(job)])

    def hold(self) -> None:
        """Let jobs wait; those that run go on."""
        self.run(["oarnodesetting", "-n", "-s", "Absent", "-h", NODE])
        self._wait_for_nodes("Absent")

    def release(self) -> None:
        """Let jobs begin."""
        self.run(["oarnodesetting", "-s", "Alive", "-h", NODE])
        self._wait_for_nodes("Alive")

    def expire(self, job: int) -> None:
        """Let the walltime of a running job be reached: it ends within 20 seconds, as OAR looks every ten."""
        table, mine = "moldable_job_descriptions", f"moldable_job_id = {job}"
        self.database.query(f"UPDATE {table} SET moldable_walltime = 0 WHERE {mine}", DATABASE)

    @contextmanager
    def without_server(self) -> Iterator[None]:
        """Have no server, so that no job starts or ends."""
        assert self._almighty is not None
        kill_all(lambda: processes_where(lambda process: process.pid == self._almighty.pid))
        try:
            yield
        finally:
            self._start()

    def reset(self) -> None:
        """Empty the queue and let jobs begin, whatever a test has done to it."""
        self.release()
        if jobs := [str(job) for job in self.queue()]:
            self.run(["oardel", *jobs])
        wait_until(lambda: not self.queue(), lambda: f"left in the queue: {self.queue()}\n{self._logs()}")

    @contextmanager
    def running(self) -> Iterator[None]:
        """Have the database and the server, and a node that takes jobs."""
        self._write_files()
        with self.database.running():
            self._fill_database()
            self._start()
            for core in range(CORES):
                self.run(["oarnodesetting", "-a", "-h", NODE, "-p", f"core={core + 1}", "-p", f"cpuset={core}"])
            self._wait_for_nodes("Alive")
            yield

    def _start(self) -> None:
        command = str(self.commands / "Almighty")
        self._almighty = self._servers.start(command, environment={"OARDIR": str(self.folder / "oar")})
        wait_until(self._listens, self._logs)

    def _listens(self) -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self._port)) == 0

    def _wait_for_nodes(self, state: str) -> None:
        wanted = f"SELECT count(*) FROM resources WHERE state = '{state}'"
        wait_until(lambda: self.database.query(wanted, DATABASE) == str(CORES), self._logs)

    def _logs(self) -> str:
        return self._servers.logs("*.log")

    def _write_files(self) -> None:
        for name in ("bin", "jobs", "postgresql"):
            (self.folder / name).mkdir()
        shutil.chown(self.folder / "postgresql", "postgres", "postgres")
        programs = self.folder / "oar"
        shutil.copytree(PROGRAMS, programs, ignore=shutil.ignore_patterns("oardodo", "setup"))
        bipbip = programs / "bipbip"
        bipbip.write_text(bipbip.read_text().replace("/usr/share/perl5", str(MODULES)))
        (self.folder / "oar.conf").write_text(self._configuration())
        for name in ("Almighty", *OFFERED):
            self._write_command(name, f'exec perl {programs / name} "$@"')
        self._write_command("oardodo", 'exec "$@"')
        # What follows the options and the name of the node is a line for a shell there, as ssh has it.
        self._write_command("on-node", 'while [[ $1 == -* ]]; do shift; done; shift; exec bash -c "$*"')

    def _write_command(self, name: str, line: str) -> None:
        environment = {
            "OARDIR": self.folder / "oar",
            "OARCONFFILE": self.folder / "oar.conf",
            "OARDO_USER": "root",
            "PERL5LIB": MODULES,
            "PATH": f"{self.commands}:$PATH",
        }
        path = self.commands / name
        path.write_text(
            "\n".join(["#!/bin/bash", *(f"export {key}={value}" for key, value in environment.items()), line, ""])
        )
        path.chmod(0o755)

    def _fill_database(self) -> None:
        for name in ("pg_structure", "default_data", "pg_default_admission_rules"):
            self.database.load(PROGRAMS / "database" / f"{name}.sql")
        # Everything runs as root here, who may not submit, by default.
        self.database.query("DELETE FROM admission_rules WHERE rule LIKE '%root and oar users%'", DATABASE)
        self.database.query("ALTER TABLE resources ADD core integer NOT NULL DEFAULT 0", DATABASE)

    def _configuration(self) -> str:
        return f"""\
DB_TYPE="Pg"
DB_HOSTNAME="127.0.0.1"
DB_PORT="{self.database.port}"
DB_BASE_NAME="{DATABASE}"
DB_BASE_LOGIN="{DATABASE}"
DB_BASE_PASSWD="{self.database.password}"
SERVER_HOSTNAME="localhost"
SERVER_PORT="{self._port}"
OARSUB_DEFAULT_RESOURCES="/resource_id=1"
OARSUB_NODES_RESOURCES="network_address"
LOG_LEVEL="3"
LOG_FILE="{self.folder}/oar.log"
OAR_RUNTIME_DIRECTORY="{self.folder}/jobs"
DETACH_JOB_FROM_SERVER="1"
OPENSSH_CMD="{self.commands}/on-node"
PINGCHECKER_GENERIC_COMMAND="/bin/true"
SCHEDULER_MIN_TIME_BETWEEN_2_CALLS="1"
SCHEDULER_RESOURCE_ORDER="resource_id ASC"
"""


@contextmanager
def oar() -> Iterator[OAR]:
    """Run an OAR of its own as long as this lasts."""
    with servers("oar-") as own:
        server = OAR(own)
        with server.running():
            yield server


def has_oar() -> bool:
    """Return whether an OAR can be started here."""
    modules = [f"-M{name}" for name in PERL_MODULES]
    return (
        os.geteuid() == 0
        and postgresql_programs() is not None
        and all((PROGRAMS / name).exists() for name in ("Almighty", "oarsub", "oarexec", "oarnodesetting"))
        and subprocess.run(["perl", *modules, "-e1"], capture_output=True, check=False).returncode == 0
    )
