"""A real Grid Engine on this machine, for tests; it ends with them, however they end.

Needs root and the Debian packages gridengine-master, gridengine-exec and gridengine-client, but no systemd.
"""

import os
import socket
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from processes import PATIENCE_S, Servers, free_ports, servers, wait_until

# Where Debian's packages keep the programs, and what an installation has beside its own files.
PROGRAMS = Path("/usr/lib/gridengine")
DEFAULTS = Path("/usr/share/gridengine")
INSTALLED = Path("/var/lib/gridengine")
SHARED = ("bin", "lib", "util", "utilbin")

QUEUE = "all.q"
PARALLEL_ENVIRONMENT = "smp"
SLOTS = 4
# Servers that call themselves by a name that their address does not have are refused.
HOST = "localhost"


class GridEngine:
    """A running Grid Engine, with one node and one queue.

    Args:
        own: its servers, of which none is started yet.
    """

    def __init__(self, own: Servers) -> None:
        self.folder = own.folder
        self._servers = own
        # A job's processes are known by a group; those of another cluster on this machine must have others.
        self._master_port, self._node_port, self._group = free_ports(3)

    @property
    def environment(self) -> dict[str, str]:
        """What the environment of those who submit has to hold."""
        return {
            "SGE_ROOT": str(self.folder),
            "SGE_CELL": "default",
            "SGE_QMASTER_PORT": str(self._master_port),
            "SGE_EXECD_PORT": str(self._node_port),
        }

    def run(self, command: Sequence[str]) -> str:
        """Run one of Grid Engine's commands and return what it prints."""
        done = self._try(command)
        assert done.returncode == 0, f"{' '.join(command)}: {done.stderr or done.stdout}\n{self._logs()}"
        return done.stdout.strip()

    def submit(self, *commands: str, folder: Path, options: Sequence[str] = ()) -> int:
        """Submit a batch script and return the number of its job, which prints to the file `NAME.oNUMBER`.

        Args:
            commands: lines of the script.
            folder: where the job runs.
            options: further ones for qsub.
        """
        script = folder / "job.sh"
        script.write_text("\n".join([*commands, ""]))
        return int(self.run(["qsub", "-terse", "-j", "y", "-wd", str(folder), *options, str(script)]))

    def queue(self) -> dict[int, str]:
        """Return the states of the jobs, in Grid Engine's letters, such as qw and r."""
        rows = [line.split() for line in self.run(["qstat", "-u", "*"]).splitlines()[2:]]
        return {int(words[0]): words[4] for words in rows}

    def cancel(self, job: int) -> None:
        """Cancel a job, pending or running."""
        self.run(["qdel", str(job)])

    def hold(self) -> None:
        """Let jobs wait; those that run go on."""
        self.run(["qmod", "-d", QUEUE])

    def release(self) -> None:
        """Let jobs begin."""
        self.run(["qmod", "-e", QUEUE])

    def reset(self) -> None:
        """Empty the queue and let jobs begin, whatever a test has done to it."""
        self.release()
        for job in self.queue():
            self._try(["qdel", str(job)])
        wait_until(lambda: not self.queue(), lambda: f"left in the queue: {self.queue()}")

    def start(self) -> None:
        """Start the servers, and wait until the queue takes jobs."""
        self._write_files()
        self._spool()
        # Without this they become daemons.
        in_front = {**self.environment, "SGE_ND": "1"}
        self._servers.start(str(PROGRAMS / "sge_qmaster"), environment=in_front)
        wait_until(lambda: self._try(["qconf", "-sh"]).returncode == 0, self._logs)
        self.run(["qconf", "-as", HOST])
        self._servers.start(str(PROGRAMS / "sge_execd"), environment=in_front)
        wait_until(lambda: HOST in self._try(["qconf", "-sel"]).stdout, self._logs)
        self._configure()
        wait_until(lambda: self.run(["qstat", "-f", "-q", QUEUE]).split("\n")[2].endswith("lx-amd64"), self._logs)

    def _try(self, command: Sequence[str]) -> subprocess.CompletedProcess[str]:
        environment = {**os.environ, **self.environment}
        return subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=PATIENCE_S)

    def _logs(self) -> str:
        return self._servers.logs("default/spool/**/messages")

    def _write_files(self) -> None:
        common = self.folder / "default" / "common"
        for folder in (common, self._spool_folder("qmaster"), self._spool_folder("execd")):
            folder.mkdir(parents=True)
        for name in SHARED:
            (self.folder / name).symlink_to(INSTALLED / name)
        (common / "bootstrap").write_text(self._bootstrap())
        (common / "act_qmaster").write_text(f"{HOST}\n")
        (common / "host_aliases").write_text(f"{HOST} {socket.gethostname()}\n")

    def _spool(self) -> None:
        """Write what the master reads when it starts."""
        configuration = self.folder / "configuration"
        defaults = (DEFAULTS / "default-configuration").read_text()
        own = {
            "mailer": "/bin/true",
            "execd_spool_dir": self._spool_folder("execd"),
            "min_uid": 0,
            "min_gid": 0,
            "gid_range": f"{self._group}-{self._group + 99}",
        }
        configuration.write_text(_with(defaults, own))
        self.run([str(PROGRAMS / "spoolinit"), "classic", "libspoolc", self._spooling(), "init"])
        for kind, what in (
            ("configuration", configuration),
            ("complexes", DEFAULTS / "util" / "resources" / "centry"),
            ("usersets", DEFAULTS / "util" / "resources" / "usersets"),
            ("managers", "root"),
        ):
            self.run([str(PROGRAMS / "spooldefaults"), kind, str(what)])

    def _configure(self) -> None:
        """Add the parallel environment and the queue, and let jobs start as soon as they can."""
        queue = {
            "qname": QUEUE,
            "hostlist": HOST,
            "slots": SLOTS,
            "pe_list": PARALLEL_ENVIRONMENT,
            "load_thresholds": "NONE",
        }
        scheduling = {
            "schedule_interval": "0:0:1",
            "flush_submit_sec": 1,
            "flush_finish_sec": 1,
            "job_load_adjustments": "NONE",
        }
        self.run(["qconf", "-Ap", str(DEFAULTS / "util" / "resources" / "pe" / PARALLEL_ENVIRONMENT)])
        for option, template, own in (("-Aq", "-sq", queue), ("-Msconf", "-ssconf", scheduling)):
            path = self.folder / "change"
            path.write_text(_with(self.run(["qconf", template]), own))
            self.run(["qconf", option, str(path)])

    def _spool_folder(self, name: str) -> Path:
        return self.folder / "default" / "spool" / name

    def _spooling(self) -> str:
        return f"{self.folder}/default/common;{self._spool_folder('qmaster')}"

    def _bootstrap(self) -> str:
        return f"""\
admin_user none
default_domain none
ignore_fqdn true
spooling_method classic
spooling_lib libspoolc
spooling_params {self._spooling()}
binary_path {self.folder}/bin
qmaster_spool_dir {self._spool_folder("qmaster")}
security_mode none
listener_threads 2
worker_threads 2
scheduler_threads 1
jvm_threads 0
"""


@contextmanager
def grid_engine() -> Iterator[GridEngine]:
    """Run a Grid Engine of its own as long as this lasts."""
    with servers("sge-") as own:
        engine = GridEngine(own)
        engine.start()
        yield engine


def has_grid_engine() -> bool:
    """Return whether a Grid Engine can be started here."""
    programs = [PROGRAMS / "sge_qmaster", PROGRAMS / "sge_execd", PROGRAMS / "qsub"]
    return os.geteuid() == 0 and all(program.exists() for program in programs)


def _with(settings: str, own: Mapping[str, object]) -> str:
    """Return settings, a name and a value in each line, with other values for some names."""
    kept = [line for line in settings.splitlines() if line.split(maxsplit=1)[:1] not in [[name] for name in own]]
    return "\n".join([*kept, *(f"{name} {value}" for name, value in own.items()), ""])
