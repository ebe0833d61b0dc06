"""A real SLURM cluster on this machine, for tests; it ends with them, however they end.

Needs root and the Debian packages slurm-wlm and munge, but no systemd. Run as a program, this file ends the cluster of
a test run that was killed.
"""

import os
import random
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

# Partitions and their nodes. A node claims more than the machine may have.
PARTITIONS = {"cpu": ("cpu1",), "label": ("label1", "label2"), "gpu": ("gpu1",)}
NODES = tuple(node for nodes in PARTITIONS.values() for node in nodes)
NODE = "NodeAddr=127.0.0.1 CPUs=4 RealMemory=16000 State=UNKNOWN"
COMMANDS = ("munged", "slurmctld", "slurmd", "sbatch", "srun")

WAIT_S = 60
POLL_S = 0.1
# After the death of its node, a job waits for so long before it starts again; without a setting it would be 120 s.
CREDENTIALS_S = 30
# Below the ports that the system gives to whoever asks for any.
PORTS = range(20000, 30000)


@dataclass(frozen=True, slots=True)
class Job:
    """A job in the queue.

    Attributes:
        id: its number.
        name: as given to sbatch.
        partition: where it runs or is to run.
        state: in SLURM's long form, such as PENDING, RUNNING or COMPLETING.
        nodes: where it runs; empty while it is pending.
        reason: why it is pending.
    """

    id: int
    name: str
    partition: str
    state: str
    nodes: str
    reason: str


class SlurmCluster:
    """A running cluster.

    Args:
        folder: an empty one that everybody may enter, with a path that is short enough for a socket.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._daemons: list[subprocess.Popen[bytes]] = []
        self._slurmds: dict[str, subprocess.Popen[bytes]] = {}

    @property
    def environment(self) -> dict[str, str]:
        """What the environment of those who submit has to hold."""
        return {
            "SLURM_CONF": str(self.folder / "slurm.conf"),
            "OMPI_ALLOW_RUN_AS_ROOT": "1",
            "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
        }

    def run(self, command: Sequence[str]) -> str:
        """Run one of SLURM's commands and return what it prints."""
        done = subprocess.run(
            command, env={**os.environ, **self.environment}, capture_output=True, text=True, check=False, timeout=WAIT_S
        )
        assert done.returncode == 0, f"{' '.join(command)}: {done.stderr or done.stdout}"
        return done.stdout.strip()

    def submit(self, *commands: str, folder: Path, options: Sequence[str] = ()) -> int:
        """Submit a batch script and return the number of its job, which prints to the file `NUMBER.out`.

        Args:
            commands: lines of the script.
            folder: where the job runs.
            options: further ones for sbatch.
        """
        script = folder / "job.sh"
        script.write_text("\n".join(["#!/bin/bash", *commands, ""]))
        return int(self.run(["sbatch", "--parsable", f"--chdir={folder}", "--output=%j.out", *options, str(script)]))

    def queue(self) -> list[Job]:
        """Return the jobs that are pending, run or are about to leave."""
        lines = self.run(["squeue", "--noheader", "--format=%A|%P|%T|%N|%r|%j"]).splitlines()
        entries = [line.split("|", 5) for line in lines]
        return [
            Job(int(number), name, partition, state, nodes, reason)
            for number, partition, state, nodes, reason, name in entries
        ]

    def state(self, job: int) -> str:
        """Return the state of a job, be it in the queue or, for five minutes, after its end."""
        shown = self.run(["scontrol", "--oneliner", "show", "job", str(job)])
        return shown.split(" JobState=")[1].split()[0]

    def wait_for(self, job: int, *states: str, timeout_s: float = WAIT_S) -> None:
        """Wait until a job is in one of the states."""
        wait_until(
            lambda: self.state(job) in states,
            lambda: f"job {job} is {self.state(job)}, not {' or '.join(states)}\n{self._logs()}",
            timeout_s,
        )

    def cancel(self, job: int) -> None:
        """Cancel a job, pending or running."""
        self.run(["scancel", str(job)])

    def expire(self, job: int) -> None:
        """Let the time limit of a running job be reached: it ends within 30 seconds.

        So often does SLURM look at time limits, and its shortest one is a minute.
        """
        self.run(["scontrol", "update", f"JobId={job}", "EndTime=now"])

    def pids_of(self, job: int) -> set[int]:
        """Return the processes of a job on all nodes: those with its environment, and their children."""
        own = {"SLURM_CONF": self.environment["SLURM_CONF"], "SLURM_JOB_ID": str(job)}
        return {process.pid for process in processes_with(own)}

    def hold(self, partition: str) -> None:
        """Let jobs wait in a partition; those that run go on."""
        self.run(["scontrol", "update", f"PartitionName={partition}", "State=DOWN"])

    def release(self, partition: str) -> None:
        """Let jobs begin in a partition."""
        self.run(["scontrol", "update", f"PartitionName={partition}", "State=UP"])

    def node_down(self, node: str) -> None:
        """Let a node die, with all processes of its jobs.

        SLURM is told at once, and queues the node's batch jobs again; they start after CREDENTIALS_S at the earliest.
        """
        slurmd = self._slurmds.pop(node)
        slurmd.kill()
        slurmd.wait()
        kill_all(self.folder, node)
        self.run(["scontrol", "update", f"NodeName={node}", "State=DOWN", "Reason=test"])

    def node_up(self, node: str) -> None:
        """Start a node again, and wait until it takes jobs."""
        self._start_slurmd(node)
        self._wait_for_nodes([node])

    def reset(self) -> None:
        """Empty the queue and have all partitions and nodes up, whatever a test has done to them."""
        for partition in PARTITIONS:
            self.release(partition)
        for node in set(NODES) - set(self._slurmds):
            self.node_up(node)
        self.run(["scancel", "--user=root"])
        wait_until(lambda: not self.queue(), lambda: f"left in the queue: {self.queue()}")

    def start(self) -> None:
        """Start the daemons, and wait until all nodes take jobs."""
        self._write_configuration()
        self._start("munged", "--foreground", "--force", *self._munge_options())
        socket_file = self.folder / "munge.sock"
        wait_until(socket_file.exists, lambda: f"munged has not started\n{self._logs()}")
        self._start("slurmctld", "-D", "-i")
        for node in NODES:
            self._start_slurmd(node)
        self._wait_for_nodes(NODES)

    def wait(self) -> None:
        """Wait until all daemons have ended."""
        for daemon in self._daemons:
            daemon.wait()

    def _start(self, *command: str) -> subprocess.Popen[bytes]:
        with (self.folder / f"{command[0]}.out").open("ab") as output:
            # The end of the cluster finds its processes by the environment.
            daemon = subprocess.Popen(
                command,
                env={**os.environ, **self.environment},
                cwd=self.folder,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        self._daemons.append(daemon)
        return daemon

    def _start_slurmd(self, node: str) -> None:
        self._slurmds[node] = self._start("slurmd", "-D", "-N", node)

    def _wait_for_nodes(self, nodes: Sequence[str]) -> None:
        command = ["sinfo", "--noheader", "--Node", f"--nodes={','.join(nodes)}", "--format=%T"]

        def states() -> list[str]:
            with suppress(AssertionError):
                return self.run(command).splitlines()
            return []

        wait_until(
            lambda: states() == ["idle"] * len(nodes),
            lambda: f"{', '.join(nodes)} are {states()}, not idle\n{self._logs()}",
        )

    def _logs(self) -> str:
        files = [*self.folder.glob("*.log"), *self.folder.glob("*.out")]
        return "\n".join(f"{path.name}:\n{path.read_text(errors='replace')[-3000:]}" for path in files)

    def _munge_options(self) -> list[str]:
        files = {"key-file": "key", "socket": "sock", "pid-file": "pid", "log-file": "log", "seed-file": "seed"}
        return [f"--{option}={self.folder / 'munge'}.{suffix}" for option, suffix in files.items()]

    def _write_configuration(self) -> None:
        key, device = self.folder / "munge.key", self.folder / "nvidia0"
        key.write_bytes(random.randbytes(1024))
        key.chmod(0o400)
        # SLURM wants a device node with a card's name; this one is that of /dev/null.
        os.mknod(device, 0o020666, os.makedev(1, 3))
        (self.folder / "gres.conf").write_text(f"NodeName=gpu1 Name=gpu File={device}\n")
        (self.folder / "slurm.conf").write_text(configuration(self.folder))


def configuration(folder: Path) -> str:
    """Return slurm.conf for a cluster whose files are in the folder."""
    host = socket.gethostname().split(".")[0]
    control_port, *ports = free_ports(1 + len(NODES))
    gres = {"gpu1": " Gres=gpu:1"}
    lines = [
        "ClusterName=test",
        f"SlurmctldHost={host}(127.0.0.1)",
        f"SlurmctldPort={control_port}",
        "SlurmUser=root",
        "SlurmdUser=root",
        "AuthType=auth/munge",
        f"AuthInfo=socket={folder}/munge.sock,cred_expire={CREDENTIALS_S}",
        "CredType=cred/munge",
        "ProctrackType=proctrack/linuxproc",
        "TaskPlugin=task/none",
        "JobAcctGatherType=jobacct_gather/none",
        "AccountingStorageType=accounting_storage/none",
        "JobCompType=jobcomp/none",
        "SelectType=select/cons_tres",
        "SelectTypeParameters=CR_Core_Memory",
        "SchedulerType=sched/builtin",
        "SchedulerParameters=sched_interval=1,sched_min_interval=1,batch_sched_delay=0",
        "ReturnToService=2",
        "MpiDefault=none",
        "SwitchType=switch/none",
        f"StateSaveLocation={folder}/state",
        f"SlurmdSpoolDir={folder}/spool-%n",
        f"SlurmctldPidFile={folder}/slurmctld.pid",
        f"SlurmdPidFile={folder}/slurmd-%n.pid",
        f"SlurmctldLogFile={folder}/slurmctld.log",
        f"SlurmdLogFile={folder}/slurmd-%n.log",
        "KillWait=5",
        "SlurmdParameters=config_overrides",
        "GresTypes=gpu",
        *(
            f"NodeName={node} NodeHostname={host} Port={port} {NODE}{gres.get(node, '')}"
            for node, port in zip(NODES, ports, strict=True)
        ),
        *(
            f"PartitionName={partition} Nodes={','.join(nodes)} DefMemPerCPU=1000 MaxTime=INFINITE DefaultTime=10"
            for partition, nodes in PARTITIONS.items()
        ),
    ]
    return "\n".join([*lines, ""])


@contextmanager
def slurm() -> Iterator[SlurmCluster]:
    """Run a cluster of its own as long as this lasts."""
    folder = Path(tempfile.mkdtemp(prefix="slurm-"))
    folder.chmod(0o755)
    (folder / "state").mkdir()
    watch = subprocess.Popen([sys.executable, __file__, str(os.getpid()), str(folder)], start_new_session=True)
    cluster = SlurmCluster(folder)
    try:
        cluster.start()
        yield cluster
    finally:
        watch.kill()
        watch.wait()
        kill_all(folder)
        cluster.wait()
        shutil.rmtree(folder)


def has_slurm() -> bool:
    """Return whether a cluster can be started here."""
    return os.geteuid() == 0 and all(shutil.which(command) for command in COMMANDS)


def wait_until(condition: Callable[[], bool], complaint: Callable[[], str], timeout_s: float = WAIT_S) -> None:
    """Wait for a condition, and complain when it does not come true."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, complaint()
        time.sleep(POLL_S)


def living(pids: Iterable[int]) -> set[int]:
    """Return those processes that have not ended; zombies have."""
    return {pid for pid in pids if psutil.pid_exists(pid) and _runs(psutil.Process(pid))}


def processes_with(environment: Mapping[str, str]) -> set[psutil.Process]:
    """Return the processes that were started with these variables, and all that descend from them."""
    return with_descendants({process for process in psutil.process_iter() if _has(process, environment)})


def processes_of(folder: Path, node: str | None) -> set[psutil.Process]:
    """Return the processes of jobs on a node, or all processes that know the cluster.

    Args:
        folder: the cluster's.
        node: its name; None for all of the cluster.
    """
    variables = {"SLURM_CONF": str(folder / "slurm.conf"), **({"SLURMD_NODENAME": node} if node else {})}
    nodes = [node] if node else NODES
    return processes_with(variables) | with_descendants(_job_keepers({str(folder / f"slurmd-{n}.log") for n in nodes}))


def kill_all(folder: Path, node: str | None = None) -> None:
    """Kill the processes of jobs on a node, or all processes that know the cluster, also those of other programs."""
    while found := processes_of(folder, node):
        for process in found:
            with suppress(psutil.NoSuchProcess):
                process.kill()
        time.sleep(POLL_S)


def with_descendants(processes: set[psutil.Process]) -> set[psutil.Process]:
    """Return the processes and those that they have started."""
    found = set(processes)
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            found.update(process.children(recursive=True))
    return {process for process in found if _runs(process)}


def free_ports(count: int) -> list[int]:
    """Return ports that nobody listens at."""
    probes: list[socket.socket] = []
    try:
        for port in random.sample(PORTS, len(PORTS)):
            probe = socket.socket()
            try:
                probe.bind(("0.0.0.0", port))
            except OSError:
                probe.close()
                continue
            probes.append(probe)
            if len(probes) == count:
                break
        return [probe.getsockname()[1] for probe in probes]
    finally:
        for probe in probes:
            probe.close()


def _has(process: psutil.Process, environment: Mapping[str, str]) -> bool:
    try:
        own = process.environ()
    except (psutil.NoSuchProcess, psutil.AccessDenied):
        return False
    return all(own.get(name) == value for name, value in environment.items())


def _runs(process: psutil.Process) -> bool:
    try:
        return bool(process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def _job_keepers(logs: set[str]) -> set[psutil.Process]:
    # A slurmstepd overwrites its environment, but holds the log of its node's slurmd open.
    found = set()
    for process in psutil.process_iter():
        with suppress(psutil.NoSuchProcess):
            if process.name() == "slurmstepd" and logs & {file.path for file in process.open_files()}:
                found.add(process)
    return found


def _end_after(test_run: int, folder: Path) -> None:
    while os.getppid() == test_run:
        time.sleep(POLL_S)
    kill_all(folder)
    shutil.rmtree(folder)


if __name__ == "__main__":
    _end_after(int(sys.argv[1]), Path(sys.argv[2]))
