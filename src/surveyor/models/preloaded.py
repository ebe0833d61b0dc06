"""Training programs that find their imports done: a process that has MACE in memory, and forks for each training.

Importing torch and MACE takes several seconds of a processor, more than a short training of few structures. So a worker
that trains keeps one process that has imported them and does nothing else, and each training is a fork of it. The fork
is a process of its own like any other trainer: it can be killed, its memory is freed when it ends, and it is killed
when the worker dies, when the call that waits for it is left, and when the process that it was forked from dies.

Forks are safe only from a process without other threads and without a GPU in use. The first is looked at before each
fork. Trainings on GPUs are started anew. What cannot be had preloaded is started anew, too, and gives the same.
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
        process: itself; it ends when its standard input does.
        address: of the socket by which it is asked for trainings.
        environment: with which it was started, as far as it is decisive.
    """

    process: "subprocess.Popen[bytes]"
    address: Path
    environment: Mapping[str, str]

    def fits(self) -> bool:
        """Say whether a training that is started here and now can be a fork of it."""
        return self.process.poll() is None and self.environment == _decisive()

    def end(self) -> None:
        """End it with all its trainings."""
        if self.process.stdin is not None:
            self.process.stdin.close()
        with suppress(subprocess.TimeoutExpired):
            self.process.wait(preloading.GRACE_S)
        self.process.kill()
        self.process.wait()
        shutil.rmtree(self.address.parent, ignore_errors=True)


def _decisive() -> Mapping[str, str]:
    return {name: os.environ[name] for name in os.environ if name.startswith(DECISIVE) and name not in OF_IMPORTS}


_lock = threading.Lock()
_kept: dict[str, Preloaded] = {}  # by the module of the program


def run_preloaded(module: str, arguments: Sequence[str], *, directory: Path, output: Path) -> int | None:
    """Run a training program to its end, and return its exit code: negative for the number of a signal.

    Args:
        module: with the `main` of the program.
        arguments: of the program.
        directory: its working directory.
        output: file that gets standard output and standard error.

    Returns:
        None where nothing was started, because such a process cannot be had.
    """
    if not _is_possible():
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
    with connection, connection.makefile("rw") as stream:
        try:
            stream.write(json.dumps(request) + "\n")
            stream.flush()
            if not stream.readline():
                return None
            answer = stream.readline()
        except ConnectionError:
            answer = ""
    return int(json.loads(answer)["returncode"]) if answer else KILLED


def _is_possible() -> bool:
    """Say whether the system can tell that a fork has ended, as Linux can from version 5.3 on."""
    if sys.platform != "linux":
        return False
    try:
        os.close(os.pidfd_open(os.getpid()))
    except OSError:
        return False
    return True


def _connect(module: str) -> socket.socket:
    connection = socket.socket(socket.AF_UNIX)
    try:
        connection.connect(str(_preloaded(module).address))
    except OSError:
        connection.close()
        raise
    return connection


def _preloaded(module: str) -> Preloaded:
    """Return the process that has a program in memory, started where there is none.

    Raises:
        OSError: there can be none.
    """
    with _lock:
        found = _kept.get(module)
        if found is not None and found.fits():
            return found
        if found is not None:
            found.end()
        _kept[module] = _start(module)
        return _kept[module]


def _start(module: str) -> Preloaded:
    address = Path(tempfile.mkdtemp(prefix="surveyor-preloaded-")) / "socket"
    process = subprocess.Popen(
        [sys.executable, "-m", preloading.__name__, str(address), module],
        # OpenBLAS starts its threads when it is imported, before the first fork. MKL does not, and torch takes the
        # number of its own threads from MKL.
        env={**os.environ, "OPENBLAS_NUM_THREADS": "1"},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    preloaded = Preloaded(process, address, _decisive())
    with cast("IO[bytes]", process.stdout) as answers:
        if answers.readline().strip() == preloading.READY:
            return preloaded
    preloaded.end()
    raise OSError(f"{module} could not be preloaded")


@atexit.register
def _end_all() -> None:
    for preloaded in _kept.values():
        preloaded.end()
