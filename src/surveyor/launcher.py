"""Run by path, in a process group of its own: runs another program, and ends the group as soon as its parent dies.

Usage: launcher.py PARENT_PROCESS_ID COMMAND [ARGUMENT ...]

A signal at the parent's death cannot be arranged from outside, and Python code between fork and exec is unsafe where
threads run, as they do in the workers of a pool. The signal reaches one process alone; that a program is started by a
script, or starts others, is why this one stays and passes it on to the group.
"""

import ctypes
import os
import signal
import sys
import time
from contextlib import suppress

PR_SET_PDEATHSIG = 1  # linux/prctl.h
GRACE_S = 3.0  # between SIGTERM and SIGKILL
POLL_S = 0.05


def main() -> None:
    """Arrange the signal, run the command, and end as it does."""
    parent, command = int(sys.argv[1]), sys.argv[2:]
    child = 0

    def end_all(*_signal: object) -> None:
        # A program that is told first can end what it has started elsewhere, as srun and mpirun do.
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        os.killpg(0, signal.SIGTERM)
        deadline = time.monotonic() + GRACE_S
        with suppress(ChildProcessError):  # it has been waited for
            while time.monotonic() < deadline and os.waitpid(child, os.WNOHANG) == (0, 0):
                time.sleep(POLL_S)
        os.killpg(0, signal.SIGKILL)

    die_with_parent(signal.SIGTERM)
    if os.getppid() != parent:
        sys.exit("the parent died before the program began")
    child = os.fork()
    if child == 0:
        die_with_parent(signal.SIGKILL)
        os.execvp(command[0], command)
    signal.signal(signal.SIGTERM, end_all)
    _, status = os.waitpid(child, 0)
    code = os.waitstatus_to_exitcode(status)
    if code < 0:
        with suppress(OSError):  # SIGKILL has no handler
            signal.signal(-code, signal.SIG_DFL)
        os.kill(os.getpid(), -code)
    os._exit(code)


def die_with_parent(number: signal.Signals) -> None:
    """Ask the kernel for a signal when the process that started this one dies."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, number)


if __name__ == "__main__":
    main()
