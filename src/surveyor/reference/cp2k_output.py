"""Reading the output of CP2K: a complete and consistent one is a label, anything else a failure with its reason."""

import re
import signal
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime

import numpy as np
from ase import Atoms
from ase.units import Bohr, GPa, Hartree

from surveyor.labels import Label, LabelFailure, Reason
from surveyor.programs.endings import SHELL_SIGNAL, ending_signal, how_it_ended, without_launcher, words_of_launcher
from surveyor.reference.cp2k_scf import CONVERGED, NOT_CONVERGED, energy_tolerance, scf_steps_of
from surveyor.structures import is_periodic

PROGRAM_STARTED = "PROGRAM STARTED AT"
LAST_LINES = ("PROGRAM ENDED AT", "PROGRAM STOPPED IN")
VERSION = re.compile(r"CP2K version (\d+\.\d+)")
SCF_ENERGY = re.compile(r"^  Total energy:\s+(\S+)$", re.MULTILINE)
ENERGY = re.compile(r"^ ENERGY\| Total FORCE_EVAL \( QS \) energy \[(?:a\.u\.|hartree)\]:?\s+(\S+)$", re.MULTILINE)
COORDINATES = re.compile(r"^ MODULE QUICKSTEP:\s+ATOMIC COORDINATES IN ANGSTROM$", re.MULTILINE | re.IGNORECASE)
FORCES = re.compile(r"^ (?:ATOMIC FORCES in \[a\.u\.\]|FORCES\| Atomic forces \[hartree/bohr\])$", re.MULTILINE)
FORCE_SUM = re.compile(r"^ (?:SUM OF ATOMIC FORCES|FORCES\| Sum) (.*)$", re.MULTILINE)
STRESS = re.compile(r"^ STRESS\| (?:Analytical|Numerical) stress tensor \[(GPa|bar)\]$", re.MULTILINE)
STRESS_TRACE = re.compile(r"^ STRESS\| 1/3 Trace\s+(\S+)$", re.MULTILINE)
MOMENT = r"PROGRAM {} AT +(\d{{4}}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{{3}})"
TABLES = re.compile(rf"{FORCES.pattern}|^ -  +DBCSR STATISTICS", re.MULTILINE)
ENDED_FROM_OUTSIDE = re.compile(
    r"exited on signal 15\b|(?:STEP|JOB) \S+ ON \S+ CANCELLED AT|aborted before step completely launched"
)
PRESSURE_UNITS = {"GPa": GPa, "bar": 1e-4 * GPa}
VOIGT = ((0, 0), (1, 1), (2, 2), (1, 2), (0, 2), (0, 1))

COORDINATE_TOLERANCE_A = 5e-6  # the output has six decimals
FORCE_SUM_TOLERANCE = 1e-13  # relative above 1 Hartree/Bohr, per atom: the sum is made of numbers with more decimals
STRESS_TOLERANCE = 1e-6  # relative
LAST_LINES_KEPT, LAST_CHARACTERS_KEPT = 40, 4000  # in the record of a failure

SYMPTOMS: Sequence[tuple[Reason, str]] = (
    # Orbitals that collapse into each other: OT goes astray, with some preconditioners more than with others.
    ("scf_not_converged", rf"{NOT_CONVERGED.pattern}|Cholesky decomposition failed"),
    ("disk", r"No space left on device|Disk quota exceeded"),
    (
        "memory",
        r"[Oo]ut of memory|oom.kill|[Cc]annot allocate|[Cc]ould not allocate|Allocation would exceed memory"
        r"|std::bad_alloc|[Ee]xceeded (?:job )?memory limit|insufficient virtual memory",
    ),
    ("missing_data_file", r"It does not exist|not found in the (?:potential|basis set)|was not found on the basis set"),
    (
        "geometry",
        r"GEOMETRY wrong|[Dd]istance between the atoms|atoms? (?:are|is) too close|[Aa]toms? on top of each other",
    ),
    (
        "invalid_input",
        r"input/(?:input_parsing|cp_parser|input_)\w*\.F|unknown (?:keyword|subsection|section)|KIND section"
        r"|too few electrons for this multiplicity|use a different multiplicity",
    ),
)


class _Broken(Exception):
    """The output is not that of a finished calculation."""


class _Unconverged(Exception):
    """The energy is not that of the self-consistent state."""


def parse_output(text: str, atoms: Atoms, *, returncode: int = 0, timed_out: bool = False) -> Label | LabelFailure:
    """Return the label that an output holds, or why it holds none.

    Args:
        text: standard output and standard error of the program.
        atoms: the structure as it was sent.
        returncode: of the program, negative for the number of a signal.
        timed_out: whether the program was ended because its time was up.
    """
    if timed_out:
        outcome: Label | LabelFailure = LabelFailure("timeout", "the time limit was reached")
    elif returncode == 0 and not NOT_CONVERGED.search(text) and all(line in text for line in LAST_LINES):
        try:
            outcome = _label(text, atoms)
        except _Broken as error:
            outcome = LabelFailure("unparsable", str(error))
        except _Unconverged as error:
            outcome = LabelFailure("scf_not_converged", str(error))
    else:
        outcome = _diagnose(text, returncode)
    return replace(outcome, last_lines=_last_lines(text)) if isinstance(outcome, LabelFailure) else outcome


def _last_lines(text: str) -> str:
    # The tables at the end of a complete output say nothing of why it is no label.
    lines = TABLES.split(text, maxsplit=1)[0].splitlines()[-LAST_LINES_KEPT:]
    return "\n".join(lines)[-LAST_CHARACTERS_KEPT:]


def was_ended_from_outside(text: str, returncode: int) -> bool:
    """Return whether the program was terminated from outside: by a queue, an administrator, or a user.

    Args:
        text: standard output and standard error of the program.
        returncode: of the program, negative for the number of a signal.
    """
    return returncode in (-signal.SIGTERM, SHELL_SIGNAL + signal.SIGTERM) or bool(ENDED_FROM_OUTSIDE.search(text))


def wall_time_of(text: str) -> float | None:
    """Return how long the program ran by its own clock in seconds, None where it does not tell."""
    begin, end = (MOMENT.format(what) for what in ("STARTED", "ENDED"))
    moments = [datetime.fromisoformat(found[1]) for found in (re.search(begin, text), re.search(end, text)) if found]
    return (moments[1] - moments[0]).total_seconds() if len(moments) == 2 else None


def _diagnose(text: str, returncode: int) -> LabelFailure:
    said = _said(text)
    for reason, symptom in SYMPTOMS:
        if re.search(symptom, said):
            return LabelFailure(reason, said)
    how = how_it_ended(text, returncode)
    # What a killed program had written may be lost with its buffer, the first lines included.
    if PROGRAM_STARTED not in text and ending_signal(text, returncode) is None:
        return LabelFailure("launch", f"CP2K did not start ({how}): {said}")
    return LabelFailure("crash", f"CP2K ended ({how}): {said}")


def _said(text: str) -> str:
    """Return the last message of the output: that in the box of an abort, or else its last lines."""
    unconverged = NOT_CONVERGED.search(text)
    if unconverged:
        return unconverged.group()
    lines = text.splitlines()
    for number, line in enumerate(lines):
        if "[ABORT]" in line:
            # The box has a frame, and a drawing in its left part.
            rows = [row.strip(" *")[5:].strip() for row in lines[number + 1 : number + 6]]
            return " ".join(row for row in rows if row)
    last = [line.strip() for line in without_launcher(text).splitlines()[-12:]]
    return " ".join(line for line in [words_of_launcher(text), *last] if line) or "no output"


def version_of(text: str) -> str | None:
    """Return the version of CP2K, such as "2023.1", None where the text does not tell."""
    found = VERSION.search(text)
    return found[1] if found else None


def _label(text: str, atoms: Atoms) -> Label:
    if not CONVERGED.search(text):
        raise _Broken("no SCF run is said to have converged")
    final = _one(ENERGY, text)
    energy = float(_numbers([final[1]])[0])
    _check_energy(energy, text[: final.start()], len(atoms))
    _check_coordinates(text, atoms)
    forces = _forces(text, atoms)
    stress = _stress(text) if is_periodic(atoms) else None
    return Label(energy * Hartree, forces * (Hartree / Bohr), stress, {"scf_steps": scf_steps_of(text)})


def _check_energy(energy: float, scf: str, n_atoms: int) -> None:
    """Raise unless the final energy is consistent with the SCF before it.

    CP2K takes one more step after the SCF, and computes energy and forces there. If that step, or the SCF itself,
    went wrong although CP2K calls it converged, only the difference of the two energies reveals it. Observed: OT with
    DIIS in a tiny basis, 0.2 eV off; Davidson diagonalisation, 36 eV off.
    """
    found = SCF_ENERGY.findall(scf)
    if not found:
        raise _Broken("there is no total energy of the SCF")
    last = float(_numbers(found[-1:])[0])
    allowed = energy_tolerance(scf) * n_atoms
    if abs(last - energy) > allowed:
        raise _Unconverged(
            f"the final energy is {energy} Hartree, the SCF ended at {last} Hartree; "
            f"expected a difference of {allowed:.2g} Hartree at most"
        )


def _one(pattern: re.Pattern[str], text: str) -> re.Match[str]:
    found = list(pattern.finditer(text))
    if len(found) != 1:
        raise _Broken(f"expected once in the output, found {len(found)} times: {pattern.pattern}")
    return found[0]


def _numbers(words: Sequence[str]) -> np.ndarray:
    try:
        numbers = np.array([float(word) for word in words])
    except ValueError as error:
        raise _Broken(f"not a number: {error}") from error
    if not np.isfinite(numbers).all():
        raise _Broken(f"not finite: {' '.join(words)}")
    return numbers


def _table(text: str, header: re.Pattern[str], n_rows: int) -> list[list[str]]:
    """Return the words of the rows that begin with 1, 2, ... below a header and one line with names of columns."""
    lines = text[_one(header, text).end() :].splitlines()
    rows = [line.removeprefix(" FORCES|").split() for line in lines if line.strip()][1 : n_rows + 1]
    if [row[0] for row in rows] != [str(number) for number in range(1, n_rows + 1)]:
        raise _Broken(f"the table below {header.pattern} does not have the atoms 1 to {n_rows}")
    return rows


def _check_coordinates(text: str, atoms: Atoms) -> None:
    rows = _table(text, COORDINATES, len(atoms))
    if any(len(row) != 9 for row in rows):
        raise _Broken("the table of coordinates does not have nine columns")
    if [int(number) for number in _numbers([row[3] for row in rows])] != atoms.numbers.tolist():
        raise _Broken("the atoms of the output are not those of the input")
    positions = np.array([_numbers(row[4:7]) for row in rows])
    if np.abs(positions - atoms.positions).max() > COORDINATE_TOLERANCE_A:
        raise _Broken("the coordinates of the output are not those of the input")


def _forces(text: str, atoms: Atoms) -> np.ndarray:
    rows = _table(text, FORCES, len(atoms))
    if all(len(row) == 6 for row in rows):  # atom, kind, element, x, y, z: before CP2K 2025
        components = [row[3:] for row in rows]
    elif all(len(row) == 5 for row in rows):  # atom, x, y, z, norm
        components = [row[1:4] for row in rows]
    else:
        raise _Broken("the table of forces has neither five nor six columns")
    forces = np.array([_numbers(row) for row in components])
    total = _numbers(_one(FORCE_SUM, text)[1].split()[:3])
    tolerance = FORCE_SUM_TOLERANCE * len(atoms) * max(1.0, np.abs(forces).max(initial=0.0))
    if total.shape != (3,) or np.abs(forces.sum(axis=0) - total).max() > tolerance:
        raise _Broken("the forces do not add up to their sum")
    return forces


def _stress(text: str) -> np.ndarray:
    header = _one(STRESS, text)
    rows = [line.split() for line in text[header.end() :].splitlines() if line.strip()][1:4]
    if [row[:2] for row in rows] != [["STRESS|", axis] for axis in "xyz"] or any(len(row) != 5 for row in rows):
        raise _Broken("the table of the stress tensor is not one of three rows and columns")
    tensor = np.array([_numbers(row[2:]) for row in rows])
    tolerance = STRESS_TOLERANCE * max(1.0, np.abs(tensor).max())
    trace = _numbers([_one(STRESS_TRACE, text)[1]])[0]
    if abs(np.trace(tensor) / 3 - trace) > tolerance or np.abs(tensor - tensor.T).max() > tolerance:
        raise _Broken("the stress tensor is not symmetric, or its trace is another one")
    # CP2K's tensor is positive under pressure, ASE's under tension.
    stress: np.ndarray = np.array([-tensor[index] for index in VOIGT]) * PRESSURE_UNITS[header[1]]
    return stress
