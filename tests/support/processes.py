"""What servers need that tests start: their processes are found again and killed, however the tests end.

Run as a program, this file ends what a killed test run has left.
"""

import os
import random
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil

# How long a test waits for what has to come: a machine may be many times slower than it was when the test was written.
PATIENCE_S = 300.0
# Much of what is waited for costs a command, or a look at all processes.
POLL_S = 0.4
# Below the ports that the system gives to whoever asks for any.
PORTS = range(20000, 30000)


class Servers:
    """Servers with a folder that is theirs.

    Args:
        folder: where they run and put their output, in a file NAME.out for each program.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._started: list[subprocess.Popen[bytes]] = []

    def start(self, *command: str, environment: Mapping[str, str]) -> subprocess.Popen[bytes]:
        """Start one.

        Args:
            command: the program, and its arguments.
            environment: variables besides those of this process; the folder has to stand in them.
        """
        with (self.folder / f"{Path(command[0]).name}.out").open("ab") as output:
            process = subprocess.Popen(
                command,
                env={**os.environ, **environment},
                cwd=self.folder,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        self._started.append(process)
        return process

    def logs(self, *patterns: str) -> str:
        """Return the ends of their outputs, and of files by patterns."""
        files = [path for pattern in ("*.out", *patterns) for path in sorted(self.folder.glob(pattern))]
        return "\n".join(f"{path.name}:\n{path.read_text(errors='replace')[-3000:]}" for path in files)

    def end(self) -> None:
        """Kill them and whatever knows their folder, and remove it."""
        kill_all(lambda: processes_that_know(self.folder))
        for process in self._started:
            process.wait()
        shutil.rmtree(self.folder)


@contextmanager
def servers(prefix: str) -> Iterator[Servers]:
    """Make a folder for servers, which end with this or when the test run is killed.

    With them end all processes in whose environment the folder stands or that hold a file in it open, and all that
    descend from them: the jobs of a cluster, and those who submitted them.

    Args:
        prefix: beginning of the folder's name. Its path is short, as those of sockets have to be.
    """
    started = Servers(Path(tempfile.mkdtemp(prefix=prefix)))
    started.folder.chmod(0o755)
    command = [sys.executable, __file__, str(os.getpid()), str(started.folder)]
    watch = subprocess.Popen(command, start_new_session=True)
    try:
        yield started
    finally:
        watch.kill()
        watch.wait()
        started.end()


def wait_until(condition: Callable[[], bool], complaint: Callable[[], str], timeout_s: float = PATIENCE_S) -> None:
    """Wait for a condition, and complain when it does not come true."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, complaint()
        time.sleep(POLL_S)


def living(pids: Iterable[int]) -> set[int]:
    """Return those processes that have not ended; zombies have."""
    return {pid for pid in pids if psutil.pid_exists(pid) and _lives(psutil.Process(pid))}


def processes_with(environment: Mapping[str, str]) -> set[psutil.Process]:
    """Return the processes that were started with these variables, and all that descend from them."""
    return processes_where(lambda process: environment.items() <= process.environ().items())


def processes_that_know(folder: Path) -> set[psutil.Process]:
    """Return the processes in whose environment a folder stands or that hold a file in it open, and their children."""

    def knows(process: psutil.Process) -> bool:
        return any(str(folder) in value for value in process.environ().values()) or any(
            file.path.startswith(f"{folder}/") for file in process.open_files()
        )

    return processes_where(knows)


def processes_where(is_meant: Callable[[psutil.Process], bool]) -> set[psutil.Process]:
    """Return the living processes for which something holds, but this one, and all that descend from them."""
    found: set[psutil.Process] = set()
    for process in psutil.process_iter():
        with suppress(psutil.NoSuchProcess, psutil.AccessDenied):
            if process.pid != os.getpid() and is_meant(process):
                found |= {process, *process.children(recursive=True)}
    return {process for process in found if _lives(process)}


def kill_all(find: Callable[[], set[psutil.Process]]) -> None:
    """Kill processes until no more are found.

    They are stopped first, so that none sees and reports the end of another: a machine that dies does not, either.
    """
    while found := find():
        for act in (psutil.Process.suspend, psutil.Process.kill):
            for process in found:
                with suppress(psutil.NoSuchProcess):
                    act(process)
        time.sleep(POLL_S)


def free_ports(count: int) -> list[int]:
    """Return ports that nobody listens at."""
    probes: list[socket.socket] = []
    try:
        for port in random.sample(PORTS, len(PORTS)):
            probes.append(socket.socket())
            try:
                probes[-1].bind(("0.0.0.0", port))
            except OSError:
                probes.pop().close()
            if len(probes) == count:
                break
        return [probe.getsockname()[1] for probe in probes]
    finally:
        for probe in probes:
            probe.close()


def _lives(process: psutil.Process) -> bool:
    try:
        return bool(process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def _end_after(test_run: int, folder: Path) -> None:
    while os.getppid() == test_run:
        time.sleep(POLL_S)
    Servers(folder).end()


if __name__ == "__main__":
    _end_after(int(sys.argv[1]), Path(sys.argv[2]))
