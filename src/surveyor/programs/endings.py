"""The end of a program, derived from its exit status and the last message of the mpirun or srun that started it."""

import re
import signal

SHELL_SIGNAL = 128  # a shell, mpirun and srun add it to the number of the signal
# Open MPI frames what it says by lines of dashes.
FRAMED = re.compile(r"^-{40,}\n(?P<words>.*?)^-{40,}$", re.MULTILINE | re.DOTALL)
OPEN_MPI = re.compile(r"exited on signal (?P<number>\d+)\b")
SRUN = re.compile(
    r"^(?:srun|slurmstepd): error: .*\btasks? [\d,-]+: (?P<name>[A-Z][A-Za-z ]*?)(?: \(core dumped\))?$", re.M
)
NOT_LAUNCHED = re.compile(
    r"did not launch the job|not enough slots|[Uu]nable to (?:create step|launch|run)|execve\(\): |"
    r"attempt to run as root"
)
NAMES = {signal.strsignal(number): number for number in signal.Signals}
HINTS = {signal.SIGKILL: "out of memory?"}


def ending_signal(text: str, returncode: int) -> signal.Signals | None:
    """Return the signal that ended a program; None where it ended by itself, or was never started.

    Args:
        text: standard output and standard error.
        returncode: negative for the number of a signal.
    """
    if did_not_launch(text):
        return None
    open_mpi, srun = OPEN_MPI.search(text), SRUN.search(text)
    if open_mpi is not None:
        return _signal(int(open_mpi["number"]))
    if srun is not None and srun["name"] in NAMES:
        return NAMES[srun["name"]]
    return _signal(-returncode if returncode < 0 else returncode - SHELL_SIGNAL)


def did_not_launch(text: str) -> bool:
    """Return whether mpirun or srun reports that it did not start the program."""
    return NOT_LAUNCHED.search(text) is not None


def _signal(number: int) -> signal.Signals | None:
    return signal.Signals(number) if number in set(signal.Signals) else None


def how_it_ended(text: str, returncode: int) -> str:
    """Return how a program ended, for messages: "status 1", or "killed by SIGKILL (out of memory?)".

    Args:
        text: standard output and standard error.
        returncode: negative for the number of a signal.
    """
    number = ending_signal(text, returncode)
    if number is None:
        return f"status {returncode}"
    hint = f" ({HINTS[number]})" if number in HINTS else ""
    return f"killed by {number.name}{hint}"


def words_of_launcher(text: str) -> str:
    """Return the first paragraph of mpirun's last framed message; empty without a message."""
    framed = [found["words"].strip() for found in FRAMED.finditer(text)]
    if not framed:
        return ""
    first, _, rest = framed[-1].partition("\n\n")
    details, _, _ = rest.partition("\n\n")
    return " ".join((f"{first} {details}" if first.endswith(":") else first).split())


def without_launcher(text: str) -> str:
    """Return the output of a program without the framed messages of mpirun."""
    return FRAMED.sub("", text)
