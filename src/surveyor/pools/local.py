"""The local pool: one worker process for each core that this process may use."""

import json
import os
import select
import shutil
import signal
import subprocess
import sys
import tempfile
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from dask.system import cpu_count
from distributed import Client

from surveyor.errors import PoolFailed
from surveyor.pools import holder
from surveyor.pools.pool import Attachment, Pool

START_S = 60.0  # a loaded machine with many cores takes its time; an idle laptop less than two seconds
CONNECT_S = 10.0
END_S = 5.0  # it kills, which takes hundredths of a second
LOG_LINES = 12

# One worker for each core: programs and libraries that used more would fight for them.
ONE_THREAD = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}


def local_pool(workers: int | None = None) -> Pool:
    """Return the pool of this machine, which starts its processes when it is first used.

    Its processes end with this one, even when this one is killed. They listen on 127.0.0.1 alone.

    Args:
        workers: how many; by default one for each core that this process may use.

    Example:
        >>> with local_pool(1) as pool:
        ...     pool.submit(abs, -1).result()
        1
    """
    return Pool("local", lambda: _attach(workers or cpu_count()))


@dataclass(frozen=True, slots=True)
class _Holder:
    """The process that holds the scheduler and the workers, and leads the process group of all of them."""

    process: "subprocess.Popen[str]"
    requests: IO[str]
    answers: IO[str]
    folder: Path

    @property
    def log(self) -> Path:
        return self.folder / "log"

    def last_lines(self) -> str:
        try:
            lines = self.log.read_text(errors="replace").splitlines()
        except FileNotFoundError:
            lines = []
        return "\n".join(
            ["The workers printed last:", *lines[-LOG_LINES:]] if lines else ["The workers printed nothing."]
        )

    def address(self) -> str:
        with suppress(BrokenPipeError):  # it died at once; there will be no answer
            self.requests.write(json.dumps(sys.path) + "\n")
            self.requests.flush()
        ready, _, _ = select.select([self.answers], [], [], START_S)
        answer = self.answers.readline().strip() if ready else ""
        if not answer:
            raise PoolFailed(f"pool local gave no address within {START_S:.0f} s. {self.last_lines()}")
        return answer

    def end(self) -> None:
        with suppress(BrokenPipeError):  # what it did not read is still to be written
            self.requests.close()
        with suppress(subprocess.TimeoutExpired):
            self.process.wait(END_S)
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        self.answers.close()
        shutil.rmtree(self.folder, ignore_errors=True)


def _attach(workers: int) -> Attachment:
    held = _start(workers)
    with ExitStack() as opened:
        opened.callback(held.end)
        client = Client(held.address(), set_as_default=False, timeout=CONNECT_S)
        opened.callback(client.close)
        return Attachment(client, count=lambda: workers, hint=held.last_lines, close=opened.pop_all().close)


def _start(workers: int) -> _Holder:
    folder = Path(tempfile.mkdtemp(prefix="surveyor-pool-"))
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", holder.__name__, str(workers), str(folder), str(os.getpid())],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
            env={**os.environ, **ONE_THREAD},
            start_new_session=True,
        )
    if process.stdin is None or process.stdout is None:
        raise RuntimeError("the process that holds the pool has no pipes")
    return _Holder(process, process.stdin, process.stdout, folder)
