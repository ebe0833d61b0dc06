"""The local pool: one worker process for each core that this process may use."""

import json
import os
import select
import shutil
import signal
import subprocess
import sys
import tempfile
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from dask.system import cpu_count
from distributed import Client

from surveyor.errors import PoolFailed
from surveyor.pools import holder
from surveyor.pools.pool import Attachment, Pool

START_S = 60.0  # a loaded machine with many cores takes its time; an idle laptop less than two seconds
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
    folder: Path

    @property
    def log(self) -> Path:
        return self.folder / "log"

    def last_lines(self) -> str:
        try:
            lines = self.log.read_text(errors="replace").splitlines()
        except FileNotFoundError:
            lines = []
        return "\n".join(["Last lines of its log:", *lines[-LOG_LINES:]])

    def address(self) -> str:
        ready, _, _ = select.select([self.process.stdout], [], [], START_S)
        answer = self.process.stdout.readline().strip() if ready and self.process.stdout else ""
        if not answer:
            raise PoolFailed(f"pool local gave no address within {START_S:.0f} s. {self.last_lines()}")
        return answer

    def end(self) -> None:
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe is not None:
                pipe.close()
        shutil.rmtree(self.folder, ignore_errors=True)


def _attach(workers: int) -> Attachment:
    held = _start(workers)
    try:
        client = Client(held.address(), set_as_default=False, timeout=START_S)
    except BaseException:
        held.end()
        raise
    return Attachment(client, count=lambda: workers, hint=held.last_lines, detach=held.end)


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
    started = _Holder(process, folder)
    if process.stdin is None:
        raise RuntimeError("a pipe was asked for")
    with suppress(BrokenPipeError):  # it died at once: the log says why
        process.stdin.write(json.dumps(sys.path) + "\n")
        process.stdin.flush()
    return started
