"""Launcher of programs in their own process group: ends the program with all its processes when the parent dies.

Usage: launcher.py PARENT_PROCESS_ID COMMAND [ARGUMENT ...]
       launcher.py end FOLDER, in place of a process that has started others: ends them, and removes the folder.

A signal at the parent's death cannot be set from outside, and Python code between fork and exec is unsafe in a process
with threads, such as a worker of a pool. The signal reaches only one process, so this process stays for programs that
are started by a script or start others. Ranks of MPI have their own process groups, and survive an mpirun that is
signalled twice: so the program is signalled once, and its remaining processes are found as descendants of this one.
"""

import ctypes
import os
import signal
import sys
import time
from contextlib import suppress

TYPE_CHECKING = False  # typing takes time to import
if TYPE_CHECKING:
    from collections.abc import Callable

PR_SET_PDEATHSIG, PR_SET_CHILD_SUBREAPER = 1, 36  # linux/prctl.h
GRACE_S = 3.0  # between SIGTERM and SIGKILL
POLL_S = 0.02
END = "end"


def main() -> None:
    """Set up the signals, run the command, and exit with its status."""
    if sys.argv[1] == END:
        end_in_place(sys.argv[2])
    command = sys.argv[2:]
    code = end_of(begin(lambda: os.execvp(command[0], command), int(sys.argv[1])))
    if code < 0:
        with suppress(OSError):  # SIGKILL has no handler
            signal.signal(-code, signal.SIG_DFL)
        os.kill(os.getpid(), -code)
    os._exit(code)


def begin(run: "Callable[[], object]", parent: int) -> int:
    """Fork a process that is ended with all its children when this one dies, is signalled, or loses its parent.

    Args:
        run: function of the new process, which does not return.
        parent: parent of this process, which leads its process group.

    Returns:
        The identifier of the new process.
    """
    adopt_orphans()
    _control(PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != parent:
        sys.exit("the parent died before the program began")
    child = os.fork()
    if child == 0:
        end_with_parent()
        run()

    def end_all(*_signal: object) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        os.killpg(0, signal.SIGTERM)
        deadline = time.monotonic() + GRACE_S
        with suppress(ChildProcessError):  # it has been waited for
            while time.monotonic() < deadline and os.waitpid(child, os.WNOHANG) == (0, 0):
                time.sleep(POLL_S)
        kill_descendants()
        if sys.platform != "linux":  # there descendants cannot be found
            os.killpg(0, signal.SIGKILL)
        # Whoever waits is told that somebody has ended the program, as a queue does that cancels a job.
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGTERM)

    signal.signal(signal.SIGTERM, end_all)
    return child


def end_of(child: int) -> int:
    """Wait for a process that was begun here, kill all descendants, and return its exit code.

    Returns:
        Negative for the number of a signal.
    """
    _, status = os.waitpid(child, 0)
    kill_descendants()
    return os.waitstatus_to_exitcode(status)


def adopt_orphans() -> None:
    """Make this process the parent of all descendants that lose theirs."""
    _control(PR_SET_CHILD_SUBREAPER, 1)


def end_with_parent() -> None:
    """Have this process killed when the thread that forked it dies."""
    _control(PR_SET_PDEATHSIG, signal.SIGKILL)


def end_in_place(folder: str) -> None:
    """Kill all descendants, remove a folder, and end with the process group."""
    import shutil

    if sys.platform == "linux":
        kill_descendants()
    shutil.rmtree(folder, ignore_errors=True)
    os.killpg(0, signal.SIGKILL)


def kill_descendants() -> None:
    """Kill all descendants of this process, including those started meanwhile, until there are none."""
    with suppress(ChildProcessError):
        while True:
            while os.waitpid(-1, os.WNOHANG) != (0, 0):  # mostly there are none, and to look through /proc takes time
                pass
            for process in _descendants():
                with suppress(ProcessLookupError):
                    os.kill(process, signal.SIGKILL)
            os.waitpid(-1, 0)


def _descendants() -> list[int]:
    """Return the descendants of this process; empty without /proc."""
    children: dict[int, list[int]] = {}
    with suppress(FileNotFoundError):
        for name in filter(str.isdecimal, os.listdir("/proc")):  # noqa: PTH208 (slow to import)
            # It may be gone.
            with suppress(OSError), open(f"/proc/{name}/stat", errors="replace") as stat:  # noqa: PTH123 (as above)
                parent = int(stat.read().rpartition(")")[2].split()[1])
                children.setdefault(parent, []).append(int(name))
    found = children.get(os.getpid(), [])
    for process in found:  # it grows meanwhile
        found += children.get(process, [])
    return found


def _control(option: int, value: int) -> None:
    """Ask the kernel for something that only Linux has."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(option, value)


if __name__ == "__main__":
    main()
