"""Training programs with preloaded imports: a server process that has imported MACE forks for each training.

Importing torch and MACE takes several seconds of processor time, more than a short training on few structures. A worker
that trains therefore keeps one idle process that has imported them, and each training is a fork of it. The fork is an
ordinary process: it can be killed, its memory is freed when it ends, and it is killed
when the worker dies, when the call that waits for it is left, and when the server process dies.

Forks are safe only from a process without other threads and without a GPU in use. The first condition is checked before
each fork. Trainings on GPUs, and those that cannot be forked, start a new process; the results are identical.

The fork server of `multiprocessing` is not suitable: it refuses daemonic processes, such as workers of Dask; its
children import the user's main script again, and run it if it lacks `if __name__ == "__main__"`; and each process has
only one, which keeps its first environment and can be ended only by private functions. This server is based on
`socketserver`, and its forks end their trainings like the launcher of other programs does.
"""

import atexit
import json
import logging
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, cast

from surveyor.models import preloading

logger = logging.getLogger(__name__)

KILLED = -9  # what a training ended with whose parent is gone
# Beginnings of variables that count when a program is imported; a fork gets all others as they are then.
DECISIVE = (
    "OMP_",
    "GOMP_",
    "KMP_",
    "MKL_",
    "OPENBLAS_",
    "TORCH",
    "PYTORCH",
    "CUDA",
    "PYTHON",
    "LD_",
    "PATH",
    "VIRTUAL",
)
OF_IMPORTS = ("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD",)  # not among them: MACE sets it whenever it is imported


@dataclass(frozen=True, slots=True)
class Preloaded:
    """A process that has a training program in memory.

    Attributes:
        module: with the `main` of the program.
        process: itself.
        address: of the socket by which it is asked for trainings.
        environment: with which it was started, as far as it is decisive.
    """

    module: str
    process: "subprocess.Popen[bytes]"
    address: Path
    environment: Mapping[str, str]

    def fits(self, module: str) -> bool:
        """Return whether a training that is started here and now can be a fork of the process."""
        return self.module == module and self.address.exists() and self.environment == _decisive()

    def retire(self) -> None:
        """Let the process take no more trainings, and end after the last one."""
        shutil.rmtree(self.address.parent, ignore_errors=True)

    def end(self) -> None:
        """End the process with all its trainings."""
        self.retire()
        self.process.kill()
        self.process.wait()


def _decisive() -> Mapping[str, str]:
    return {name: os.environ[name] for name in os.environ if name.startswith(DECISIVE) and name not in OF_IMPORTS}


_lock = threading.Lock()
_kept: list[Preloaded] = []


def run_preloaded(module: str, arguments: Sequence[str], *, directory: Path, output: Path) -> int | None:
    """Run a training program to its end, and return its exit code: negative for the number of a signal.

    Returns:
        None where nothing was started, because such a process cannot be had.
    """
    if sys.platform != "linux":
        return None
    try:
        connection = _connect(module)
    except OSError as error:
        logger.debug("no preloaded %s: %s", module, error)
        return None
    request = {
        "arguments": list(arguments),
        "directory": str(directory),
        "output": str(output),
        "environment": dict(os.environ),
    }
    begun = code = b""
    with suppress(ConnectionError), connection, connection.makefile("rb") as answers:
        connection.sendall(json.dumps(request).encode() + b"\n")
        begun = answers.readline()
        code = answers.readline()
    return int(code or KILLED) if begun else None


def _connect(module: str) -> socket.socket:
    connection = socket.socket(socket.AF_UNIX)
    try:
        connection.connect(str(_preloaded(module).address))
    except OSError:
        connection.close()
        raise
    return connection


def _preloaded(module: str) -> Preloaded:
    """Return the process with the imported program; start it if there is none.

    Raises:
        OSError: it cannot be started.
    """
    with _lock:
        for each in [each for each in _kept if each.process.poll() is not None]:
            _kept.remove(each)
            each.retire()
        found = next((each for each in _kept if each.fits(module)), None)
        if found is None:
            for each in _kept:
                if each.module == module:
                    each.retire()
            found = _start(module)
            _kept.append(found)
        return found


def _start(module: str) -> Preloaded:
    address = Path(tempfile.mkdtemp(prefix="surveyor-preloaded-")) / "socket"
    process = subprocess.Popen(
        [sys.executable, "-m", preloading.__name__, str(address), module],
        # OpenBLAS starts its threads when it is imported, before the first fork. MKL does not, and torch takes the
        # number of its own threads from MKL.
        env={**os.environ, "OPENBLAS_NUM_THREADS": "1"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    preloaded = Preloaded(module, process, address, _decisive())
    with cast("IO[bytes]", process.stdout) as answers:
        if answers.readline() == preloading.READY:
            return preloaded
    preloaded.end()
    raise OSError(f"{module} could not be preloaded")


@atexit.register
def _end_all() -> None:
    for preloaded in _kept:
        preloaded.end()
