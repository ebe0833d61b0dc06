"""Work for pools that counts how often it begins and ends."""

import os
import time
from pathlib import Path

from surveyor.errors import AttemptFailed


def work(log: Path, name: str, seconds: float) -> str:
    """Work for a while, and return the job in which it ran.

    Args:
        log: gets a line at the beginning and one at the end.
        name: of the work, in those lines.
        seconds: how long it takes.
    """
    job = os.environ.get("SLURM_JOB_ID", "none")
    _append(log, f"begin {name} {job} {os.getpid()}")
    time.sleep(seconds)
    _append(log, f"end {name} {job} {os.getpid()}")
    return job


def work_until(log: Path, name: str, end: Path) -> str:
    """Work until a file is there; see `work`."""
    job = os.environ.get("SIMULATED_INSTANCE", "none")
    _append(log, f"begin {name} {job} {os.getpid()}")
    while not end.exists():
        time.sleep(0.1)
    _append(log, f"end {name} {job} {os.getpid()}")
    return job


def be_unfit() -> None:
    """Fail as a label does where programs do not start."""
    raise AttemptFailed("no srun here", is_worker_unfit=True)


def lines(log: Path, kind: str) -> list[str]:
    """Return what the lines of one kind, `begin` or `end`, say: the name of the work, its job and process."""
    if not log.exists():
        return []
    return [line.partition(" ")[2] for line in log.read_text().splitlines() if line.startswith(f"{kind} ")]


def names(log: Path, kind: str) -> list[str]:
    """Return the names in the lines of one kind."""
    return [line.split()[0] for line in lines(log, kind)]


def _append(log: Path, line: str) -> None:
    with log.open("a") as file:
        file.write(f"{line}\n")
