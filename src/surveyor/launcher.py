"""Run by path, in a process of its own: becomes another program that is killed as soon as its parent dies.

Usage: launcher.py PARENT_PROCESS_ID COMMAND [ARGUMENT ...]

A signal at the parent's death cannot be arranged from outside, and Python code between fork and exec is unsafe where
threads run, as they do in the workers of a pool.
"""

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1  # linux/prctl.h


def main() -> None:
    """Arrange the signal, then become the command."""
    parent, command = int(sys.argv[1]), sys.argv[2:]
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        sys.exit("the parent died before the program began")
    os.execvp(command[0], command)


if __name__ == "__main__":
    main()
