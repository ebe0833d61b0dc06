"""Rehearsing a campaign: labels that take their time, that fail, and that leave a trace of each launch."""

import hashlib
import json
import os
from pathlib import Path

from ase import Atoms
from pydantic import Field

from surveyor.parameters import Fraction, Parameters
from surveyor.programs.program import run_program
from surveyor.structures import canonical, identity_of


class Rehearsal(Parameters):
    """Delay, failures and log of rehearsed labels, to try a deployment before it costs hours."""

    delay_s: float = Field(
        0.0, ge=0, le=100_000, title="Delay (s)", description="Duration of each label, during which a program sleeps."
    )
    failing_fraction: Fraction = Field(
        0.0,
        title="Failing fraction",
        description="Fraction of the structures, chosen by their hash, that do not converge.",
    )
    log: str | None = Field(
        None,
        pattern="^/",
        title="Log (file)",
        description="Full path of a log with a line for the beginning and the end of each label.",
    )


def begin(rehearsal: Rehearsal, atoms: Atoms, directory: Path) -> bool:
    """Log the beginning of a label, and sleep; return whether the label is to fail."""
    _log(rehearsal, "begin", atoms)
    if rehearsal.delay_s:
        # A real program, so that the end of one is rehearsed, too.
        run_program(["sleep", f"{rehearsal.delay_s}"], directory=directory, output=directory / "sleep.log")
    return int(structure_id(atoms), 16) / 16**16 < rehearsal.failing_fraction


def end(rehearsal: Rehearsal, atoms: Atoms) -> None:
    """Log the end of the computation of a label, be it a label or a failure."""
    _log(rehearsal, "end", atoms)


def structure_id(atoms: Atoms) -> str:
    """Return the name of a structure in the log of a rehearsal; structures that share a label share it."""
    return hashlib.sha256(json.dumps(identity_of(canonical(atoms))).encode()).hexdigest()[:16]


def _log(rehearsal: Rehearsal, event: str, atoms: Atoms) -> None:
    if rehearsal.log is None:
        return
    descriptor = os.open(rehearsal.log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    try:  # one write for a line: many workers append at once
        os.write(descriptor, f"{event} {structure_id(atoms)} {os.getpid()}\n".encode())
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
