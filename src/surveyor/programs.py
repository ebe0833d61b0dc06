"""Running external programs: each in a process group of its own, with a time limit, never outliving its parent."""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from surveyor import launcher
from surveyor.errors import InputError

GRACE_S = 5.0  # between SIGTERM and SIGKILL


@dataclass(frozen=True, slots=True)
class ProgramResult:
    """How a program ended.

    Attributes:
        returncode: 0 for success, negative for the number of the signal that ended it.
        timed_out: whether it was ended because its time was up.
        wall_time_s: how long it ran.
    """

    returncode: int
    timed_out: bool
    wall_time_s: float


def find_program(command: Sequence[str], environment: Mapping[str, str] | None = None) -> Path:
    """Return the path of the program that a command starts.

    Args:
        command: program and arguments.
        environment: variables that replace those of this process.

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
) -> ProgramResult:
    """Run a program to its end, or to the end of its time.

    The program runs in a process group of its own, and is ended as a whole, with all that it has started: when it ends,
    when its time is up, and when the thread that called this dies, with the worker or the flow.

    Args:
        command: program and arguments.
        directory: its working directory.
        output: file that gets standard output and standard error.
        environment: variables in addition to those of this process.
        timeout_s: time limit; None for none.

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
        timed_out = False
        try:
            process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            timed_out = True
        finally:
            end_group(process)
    return ProgramResult(process.returncode, timed_out, time.monotonic() - begin)


def end_group(process: "subprocess.Popen[bytes]") -> None:
    """End a launcher with what it has started: with SIGTERM, which it passes on, and after a grace with SIGKILL."""
    if process.poll() is None:
        process.terminate()
        with suppress(subprocess.TimeoutExpired):
            process.wait(GRACE_S)
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
