"""The local pool: as many worker processes as this machine has room for."""

import json
import os
import select
import shutil
import signal
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path
from typing import IO

from distributed import Security

from surveyor.errors import PoolFailed
from surveyor.files import write_json
from surveyor.pools import local_process, worker_check
from surveyor.pools.client import PoolClient
from surveyor.pools.machine import Capacity, find_capacity
from surveyor.pools.pool import Attachment, Pool
from surveyor.pools.sites import LocalSite

START_S = 60.0  # a loaded machine with many cores takes its time; an idle laptop less than two seconds
N_STARTS = 3
CONNECT_S = 10.0
END_S = 15.0  # it kills, which takes tenths of a second
LOG_LINES = 12


def local_pool(site: LocalSite | None = None, name: str = "local") -> Pool:
    """Return a pool of this machine, which starts its processes when it is first used.

    Its processes end with this one, even when this one is killed. They listen on 127.0.0.1 alone, and to this process
    alone.

    Args:
        site: what the pool may use, and what each of its workers needs; by default there is a worker for each core that
            this process may use.
        name: what the pool is called in messages.

    Raises:
        InputError: this machine has no room for a single worker.

    Example:
        >>> with local_pool(LocalSite(cores=1)) as pool:
        ...     pool.submit(abs, -1).result()
        1
    """
    site = site or LocalSite()
    capacity = find_capacity(site)
    return Pool(name, lambda: _attach(name, capacity, site.python))


class _EndedAtStart(PoolFailed):
    """The process that was to hold a pool has ended before it gave an address."""


@dataclass(frozen=True, slots=True)
class _LocalProcess:
    """The process that holds the scheduler and the workers, and leads the process group of all of them."""

    process: "subprocess.Popen[str]"
    requests: IO[str]
    answers: IO[str]
    folder: Path
    name: str

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

    def open(self, capacity: Capacity, path: Sequence[str]) -> tuple[str, Security]:
        """Start the workers; return the address of the scheduler, and the credentials of this process for it."""
        with suppress(BrokenPipeError):  # it died at once; there will be no answer
            self.requests.write(json.dumps({"path": path, "workers": capacity.own}) + "\n")
            self.requests.flush()
        ready, _, _ = select.select([self.answers], [], [], START_S)
        answer = self.answers.readline().strip() if ready else ""
        if not answer and ready:
            raise self.ended_at_start()
        if not answer:
            raise PoolFailed(f"pool {self.name} gave no address within {START_S:.0f} s. {self.last_lines()}")
        reply = json.loads(answer)
        certificate = {"tls_ca_file": reply["certificate"], "tls_client_cert": reply["certificate"]}
        return reply["address"], Security(**certificate, tls_client_key=reply["key"], require_encryption=True)

    def ended_at_start(self) -> "_EndedAtStart":
        return _EndedAtStart(f"pool {self.name} ended while it started, {N_STARTS} times. {self.last_lines()}")

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


def _attach(name: str, capacity: Capacity, python: str | None) -> Attachment:
    if python is not None:
        _check_interpreter(name, python)
    for _ in range(N_STARTS - 1):
        with suppress(_EndedAtStart):  # somebody may have killed a process of it
            return _attach_once(name, capacity, python)
    return _attach_once(name, capacity, python)


def _attach_once(name: str, capacity: Capacity, python: str | None) -> Attachment:
    held = _start(name, capacity, python or sys.executable)
    with ExitStack() as opened:
        opened.callback(held.end)
        address, security = held.open(capacity, sys.path if python is None else _users_path())
        try:
            client = PoolClient(address, security=security, set_as_default=False, timeout=CONNECT_S)
        except OSError as error:
            raise held.ended_at_start() from error
        opened.callback(client.close)
        return Attachment(client, count=lambda: capacity.n_workers, hint=held.last_lines, close=opened.pop_all().close)


def _check_interpreter(name: str, python: str) -> None:
    """Compare the versions of another interpreter with those of this one."""
    with tempfile.TemporaryDirectory(prefix="surveyor-check-") as folder:
        # Where it lies, the modules beside it would be found before those of Python.
        check, there = shutil.copy(worker_check.__file__, folder), Path(folder) / "here.json"
        write_json(there, worker_check.this_side(), is_patient=False)
        try:
            done = subprocess.run([python, check, there], capture_output=True, text=True, timeout=START_S, check=False)
        except OSError as error:
            raise PoolFailed(
                f"pool {name}: its interpreter {python} cannot be started: {error.strerror}; expected the full path of "
                "the Python of an environment"
            ) from error
        except subprocess.TimeoutExpired as error:
            raise PoolFailed(
                f"pool {name}: its interpreter {python} reported no versions within {START_S:.0f} s"
            ) from error
    if done.returncode:
        raise PoolFailed(f"pool {name}: {done.stderr.strip()}")


def _users_path() -> list[str]:
    """Return the folders searched before those of Python: they contain the user's own modules, not an environment."""
    standard = sysconfig.get_path("stdlib")
    return [entry for entry in takewhile(lambda entry: entry != standard, sys.path) if Path(entry).is_dir()]


def _start(name: str, capacity: Capacity, python: str) -> _LocalProcess:
    folder = Path(tempfile.mkdtemp(prefix="surveyor-pool-"))
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            [python, "-m", local_process.__name__, str(folder), str(os.getpid())],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
            env={**os.environ, **capacity.environment},
            start_new_session=True,
        )
    if process.stdin is None or process.stdout is None:
        raise RuntimeError("the process that holds the pool has no pipes")
    return _LocalProcess(process, process.stdin, process.stdout, folder, name)
