"""Running external programs: each with limits of time and memory, ended as a whole, never outliving its parent."""

import math
import os
import select
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import psutil

from surveyor.errors import InputError
from surveyor.programs import launcher

GRACE_S = 5.0  # between SIGTERM and SIGKILL
MEMORY_POLL_S = 0.5
LONGEST_PAUSE_S = 3600.0
GB = 1e9


@dataclass(frozen=True, slots=True)
class ProgramResult:
    """The outcome of a program run.

    Attributes:
        returncode: 0 for success, negative for the number of the signal that ended it.
        timed_out: whether it was ended because its time was up.
        wall_time_s: how long it ran.
        out_of_memory: whether it was ended because it used too much memory.
    """

    returncode: int
    timed_out: bool
    wall_time_s: float
    out_of_memory: bool = False


def find_program(command: Sequence[str], environment: Mapping[str, str] | None = None) -> Path:
    """Return the path of the program that a command starts.

    Raises:
        InputError: there is no such program on the search path.
    """
    path = (environment or {}).get("PATH", os.environ.get("PATH"))
    found = shutil.which(command[0], path=path)
    if found is None:
        raise InputError(
            f"program {command[0]!r} was not found in {path}; install it, or give its full path in the command"
        )
    return Path(found)


def run_program(
    command: Sequence[str],
    *,
    directory: Path,
    output: Path,
    environment: Mapping[str, str] | None = None,
    timeout_s: float | None = None,
    memory_GB: float | None = None,
) -> ProgramResult:
    """Run a program to its end, to the end of its time, or until it uses too much memory.

    The program runs in a process group of its own, and is ended as a whole, with all that it has started: when it ends,
    when a limit is reached, and when the thread that called this dies, with the worker or the flow.

    Args:
        command: program and arguments.
        directory: its working directory.
        output: file that gets standard output and standard error.
        environment: variables in addition to those of this process.
        timeout_s: time limit; None for none.
        memory_GB: limit of the memory that all its processes on this machine use together; None for none.

    Raises:
        InputError: there is no such program.
    """
    program = find_program(command, environment)
    # -S and -I: the launcher needs nothing but the standard library, and starts in a hundredth of a second.
    launch = [sys.executable, "-S", "-I", launcher.__file__, str(os.getpid()), str(program), *command[1:]]
    begin = time.monotonic()
    with output.open("wb") as log:
        process = subprocess.Popen(
            launch,
            cwd=directory,
            env={**os.environ, **(environment or {})},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            reached = _reached_limit(process, timeout_s, memory_GB)
        finally:
            end_group(process)
    return ProgramResult(process.returncode, reached == "time", time.monotonic() - begin, reached == "memory")


def _reached_limit(
    process: "subprocess.Popen[bytes]", timeout_s: float | None, memory_GB: float | None
) -> Literal["time", "memory"] | None:
    """Wait for a program to end or to reach a limit, and say which."""
    deadline = math.inf if timeout_s is None else time.monotonic() + timeout_s
    while (left := deadline - time.monotonic()) > 0:
        # Without a limit of memory there is nothing to look at in between.
        try:
            _wait(process, min(left, LONGEST_PAUSE_S if memory_GB is None else MEMORY_POLL_S))
        except subprocess.TimeoutExpired:
            if memory_GB is not None and memory_of(process.pid) > memory_GB * GB:
                return "memory"
        else:
            return None
    return "time"


def _wait(process: "subprocess.Popen[bytes]", timeout_s: float) -> None:
    """Wait like `Popen.wait`, which polls every 50 ms, but notice the end at once."""
    with suppress(AttributeError, OSError):  # only Linux has it, as of 5.3
        descriptor = os.pidfd_open(process.pid)
        try:
            poll = select.poll()
            poll.register(descriptor, select.POLLIN)
            poll.poll(1000 * timeout_s)
        finally:
            os.close(descriptor)
        timeout_s = 0.0
    process.wait(timeout_s)


def memory_of(pid: int) -> int:
    """Return the private memory in bytes of a process and its descendants.

    A kernel limit (setrlimit) would apply to each process, and to address space: it would end MPI and
    threads that only reserve memory. Shared memory, such as libraries and messages between ranks, is not counted.
    """
    total = 0
    with suppress(psutil.NoSuchProcess):
        process = psutil.Process(pid)
        for each in [process, *process.children(recursive=True)]:
            with suppress(psutil.NoSuchProcess, psutil.AccessDenied):
                used = each.memory_info()
                total += used.rss - getattr(used, "shared", 0)
    return total


def end_group(process: "subprocess.Popen[bytes]") -> None:
    """End a launcher and its processes: with SIGTERM, which it passes on, and after a grace period with SIGKILL."""
    if process.poll() is None:
        process.terminate()
        with suppress(subprocess.TimeoutExpired):
            process.wait(GRACE_S)
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
