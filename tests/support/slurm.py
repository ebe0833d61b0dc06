"""A real SLURM cluster on this machine, for tests; it ends with them, however they end.

Needs root and the Debian packages slurm-wlm and munge, but no systemd.
"""

import os
import random
import shutil
import socket
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import psutil
from processes import PATIENCE_S, Servers, free_ports, kill_all, processes_where, processes_with, servers, wait_until

# Partitions and their nodes. A node claims more than the machine may have.
PARTITIONS = {"cpu": ("cpu1",), "label": ("label1", "label2"), "gpu": ("gpu1",)}
NODES = tuple(node for nodes in PARTITIONS.values() for node in nodes)
NODE = "NodeAddr=127.0.0.1 CPUs=4 RealMemory=16000 State=UNKNOWN"
COMMANDS = ("munged", "slurmctld", "slurmd", "sbatch", "srun")
# After the death of its node, a job waits for so long before it starts again; without a setting it would be 120 s.
CREDENTIALS_S = 30


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
        own: its servers, of which none is started yet.
    """

    def __init__(self, own: Servers) -> None:
        self.folder = own.folder
        self._servers = own
        self._slurmctld: subprocess.Popen[bytes] | None = None
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
            command,
            env={**os.environ, **self.environment},
            capture_output=True,
            text=True,
            check=False,
            timeout=PATIENCE_S,
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
        output = self.run(["scontrol", "--oneliner", "show", "job", str(job)])
        return output.split(" JobState=")[1].split()[0]

    def wait_for(self, job: int, *states: str, timeout_s: float = PATIENCE_S) -> None:
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
        kill_all(lambda: processes_on(node, self.folder))
        self.run(["scontrol", "update", f"NodeName={node}", "State=DOWN", "Reason=test"])

    def node_up(self, node: str) -> None:
        """Start a node again, and wait until it takes jobs."""
        self._start_slurmd(node)
        self._wait_for_nodes([node])

    @contextmanager
    def without_controller(self) -> Iterator[None]:
        """Have no controller, so that no command is answered; jobs go on."""
        assert self._slurmctld is not None
        self._slurmctld.terminate()
        self._slurmctld.wait()
        try:
            yield
        finally:
            self._start_slurmctld()
            wait_until(self._answers, lambda: f"the controller has not started again\n{self._logs()}")

    def _answers(self) -> bool:
        with suppress(AssertionError):
            self.run(["scontrol", "ping"])
            return True
        return False

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
        munged = ["munged", "--foreground", "--force", *self._munge_options()]
        self._servers.start(*munged, environment=self.environment)
        socket_file = self.folder / "munge.sock"
        wait_until(socket_file.exists, lambda: f"munged has not started\n{self._logs()}")
        self._start_slurmctld()
        for node in NODES:
            self._start_slurmd(node)
        self._wait_for_nodes(NODES)

    def _start_slurmctld(self) -> None:
        self._slurmctld = self._servers.start("slurmctld", "-D", "-i", environment=self.environment)

    def _start_slurmd(self, node: str) -> None:
        self._slurmds[node] = self._servers.start("slurmd", "-D", "-N", node, environment=self.environment)

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
        return self._servers.logs("*.log")

    def _munge_options(self) -> list[str]:
        files = {"key-file": "key", "socket": "sock", "pid-file": "pid", "log-file": "log", "seed-file": "seed"}
        return [f"--{option}={self.folder / 'munge'}.{suffix}" for option, suffix in files.items()]

    def _write_configuration(self) -> None:
        (self.folder / "state").mkdir()
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
    with servers("slurm-") as own:
        cluster = SlurmCluster(own)
        cluster.start()
        yield cluster


def has_slurm() -> bool:
    """Return whether a cluster can be started here."""
    return os.geteuid() == 0 and all(shutil.which(command) for command in COMMANDS)


def processes_on(node: str, folder: Path) -> set[psutil.Process]:
    """Return the processes of jobs on a node of the cluster with a folder."""
    log, own = str(folder / f"slurmd-{node}.log"), {"SLURM_CONF": str(folder / "slurm.conf"), "SLURMD_NODENAME": node}

    def is_there(process: psutil.Process) -> bool:
        # A slurmstepd overwrites its environment, but holds the log of its node's slurmd open.
        if process.name() == "slurmstepd":
            return log in {file.path for file in process.open_files()}
        return own.items() <= process.environ().items()

    return processes_where(is_there)
