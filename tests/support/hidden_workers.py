"""Workers of a Dask scheduler that do not see a folder: they run in a mount namespace where it is empty."""

import signal
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import psutil
from processes import Servers, free_ports, servers, wait_until

HIDE = 'mount --make-rprivate / && mount -t tmpfs none "$0" && exec "$@"'  # in a namespace of its own


def hiding(folder: Path) -> list[str]:
    """Return the beginning of a command that does not see what is in a folder; needs root."""
    return ["unshare", "--mount", "bash", "-c", HIDE, str(folder)]


class HiddenWorkers:
    """A scheduler with one worker.

    Args:
        started: starts their processes.
        hidden: what the worker does not see.
        environment: variables of the worker.
    """

    def __init__(self, started: Servers, hidden: Path, environment: Mapping[str, str]) -> None:
        self._started, self.hidden = started, hidden
        self.address = f"tcp://127.0.0.1:{free_ports(1)[0]}"
        common = {
            **environment,
            "SURVEYOR_TEST_FOLDER": str(started.folder),
            "TMPDIR": str(started.folder),
            "DASK_DISTRIBUTED__SCHEDULER__ALLOWED_FAILURES": "0",
        }
        dask = [sys.executable, "-m"]
        options = ["--port", self.address.rpartition(":")[2], "--host", "127.0.0.1", "--no-dashboard"]
        started.start(*dask, "distributed.cli.dask_scheduler", *options, environment=common)
        worker = [*dask, "distributed.cli.dask_worker", self.address, "--nthreads", "1", "--no-dashboard"]
        self._nanny = started.start(*hiding(hidden), *worker, environment=common)

    @property
    def worker(self) -> psutil.Process:
        """The process that runs functions; another one replaces it when it is killed."""
        found: list[psutil.Process] = []

        def is_there() -> bool:
            nanny = psutil.Process(self._nanny.pid)
            found[:] = [each for each in nanny.children() if "spawn_main" in " ".join(each.cmdline())]
            return bool(found)

        wait_until(is_there, self._started.logs)
        return found[0]

    def kill_worker(self) -> int:
        """Kill the worker with all that it runs, and return its number."""
        worker = self.worker
        for process in [worker, *worker.children(recursive=True)]:
            process.send_signal(signal.SIGKILL)
        return int(worker.pid)

    def sees(self) -> list[Path]:
        """Return what the worker sees in the hidden folder."""
        return [*Path(f"/proc/{self.worker.pid}/root{self.hidden}").iterdir()]


@contextmanager
def hidden_workers(hidden: Path, environment: Mapping[str, str]) -> Iterator[HiddenWorkers]:
    """Run a scheduler and a worker that does not see a folder."""
    hidden.mkdir(exist_ok=True)
    with servers("/tmp/hw-") as started:
        yield HiddenWorkers(started, hidden, environment)
