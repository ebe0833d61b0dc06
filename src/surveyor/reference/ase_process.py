"""Calculations by a calculator of ASE in a process of their own, which is this module, run.

Each calculator starts its program in its own way, few with a time limit, none so that the program ends with its worker.
A process around them all has both, from `surveyor.programs.program`. It also keeps a package that crashes
from the worker.
"""

import shlex
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import ase
import numpy as np
from ase import Atoms
from ase.io.jsonio import decode, encode

from surveyor.errors import UNFORESEEN, InputError
from surveyor.files import read_json, write_json
from surveyor.labels import Label, LabelFailure
from surveyor.programs.endings import did_not_launch, ending_signal, how_it_ended, words_of_launcher
from surveyor.programs.program import ProgramResult, run_program
from surveyor.reference.ase_calculation import DISK_FULL, compute_with, describe, make_calculator
from surveyor.reference.ase_calculators import Arguments, placed
from surveyor.reference.ase_espresso import ENDED_EARLY, fault_in_espresso

QUESTION, ANSWER, OUTPUT = "question.json", "answer.json", "calculation.log"
QUESTION_TIMEOUT_S = 120.0
NOT_FOUND = 127  # what a shell says of a program that is not there


def describe_apart(
    name: str, arguments: Arguments, environment: Mapping[str, str]
) -> dict[str, Any]:  # Any: whatever JSON holds
    """Return the result of `describe`, called in a process of its own.

    Raises:
        InputError: the calculator cannot be made, or its program or a file is missing here.
    """
    with TemporaryDirectory(prefix="surveyor-") as folder:
        directory = Path(folder)
        result = _ask({"calculator": name, "arguments": arguments}, directory, environment, QUESTION_TIMEOUT_S)
        answer = _answer(directory)
        if answer is None:
            raise InputError(f"the program of {name} does not say its version: {_end(result, directory)}")
    if "error" in answer:
        raise InputError(answer["error"])
    return dict(answer)


def compute_apart(
    name: str,
    arguments: Arguments,
    atoms: Atoms,
    *,
    directory: Path,
    environment: Mapping[str, str],
    timeout_s: float | None,
) -> Label | LabelFailure:
    """Compute a label by a process of its own."""
    question = {"calculator": name, "arguments": arguments, "structure": encode(placed(name, atoms))}
    try:
        result = _ask(question, directory, environment, timeout_s)
        answer = _answer(directory)
    except OSError as error:
        if error.errno not in DISK_FULL:
            raise
        return LabelFailure("disk", str(error))
    if result.timed_out:
        return LabelFailure("timeout", f"{name} took longer than {(timeout_s or 0) / 60:g} min")
    if answer is None:
        return LabelFailure("crash", _end(result, directory))
    outcome = _outcome(answer)
    return _by_output(outcome, directory / "espresso.pwo") if name == "espresso" else outcome


def _ask(
    question: Mapping[str, Any], directory: Path, environment: Mapping[str, str], timeout_s: float | None
) -> ProgramResult:  # Any: whatever JSON holds
    write_json(directory / QUESTION, question, is_patient=False)  # a full disk is a failure of the label
    return run_program(
        [sys.executable, "-P", "-m", __name__],  # -P: nothing is imported from the folder of the calculation
        directory=directory,
        output=directory / OUTPUT,
        environment=environment,
        timeout_s=timeout_s,
    )


def _answer(directory: Path) -> Any:  # Any: whatever JSON holds
    path = directory / ANSWER
    return read_json(path) if path.exists() else None


def _end(result: ProgramResult, directory: Path) -> str:
    said = (directory / OUTPUT).read_text(errors="replace")
    return f"the process ended ({how_it_ended(said, result.returncode)}): {' '.join(said.split()[-30:])}"


def _outcome(answer: Mapping[str, Any]) -> Label | LabelFailure:  # Any: whatever JSON holds
    if "reason" in answer:
        return LabelFailure(**answer)
    stress = None if answer["stress"] is None else np.array(answer["stress"], dtype=float)
    return Label(answer["energy"], np.array(answer["forces"], dtype=float), stress, answer["provenance"])


def _by_output(outcome: Label | LabelFailure, output: Path) -> Label | LabelFailure:
    """Return an outcome, or the failure found in the output of Quantum ESPRESSO."""
    if isinstance(outcome, LabelFailure) and outcome.reason in ("launch", "disk"):
        return outcome
    fault = fault_in_espresso(output.read_text(errors="replace") if output.exists() else "")
    if fault == ENDED_EARLY and isinstance(outcome, LabelFailure) and outcome.reason == "crash":
        return outcome  # which says how
    return outcome if fault is None else LabelFailure(*fault, provenance=outcome.provenance)


def main() -> None:
    """Read the question in the working directory, and write the answer there."""
    question = read_json(Path(QUESTION))
    name, arguments = question["calculator"], question["arguments"]
    try:
        calculator = make_calculator(name, arguments)
        if "structure" not in question:
            write_json(Path(ANSWER), describe(calculator, arguments), is_patient=False)
            return
    except InputError as error:
        message = str(error)
        is_label = "structure" in question
        write_json(
            Path(ANSWER), {"reason": "launch", "message": message} if is_label else {"error": message}, is_patient=False
        )
        return
    outcome = _computed(calculator, decode(question["structure"]), name)
    answer = asdict(outcome)
    if isinstance(outcome, Label):
        answer["forces"] = outcome.forces.tolist()
        answer["stress"] = None if outcome.stress is None else outcome.stress.tolist()
    write_json(Path(ANSWER), answer, is_patient=False)


def _computed(calculator: Any, atoms: Atoms, name: str) -> Label | LabelFailure:  # Any: ASE's calculators
    directory = Path.cwd()
    try:
        outcome = compute_with(calculator, atoms, directory, program=f"ASE {name}", version=ase.__version__)
    except subprocess.CalledProcessError as error:
        outcome = _ended_badly(error, _said_in(directory))
    except FileNotFoundError as error:
        # All files of a calculation are below its folder; what is not is the program.
        is_file = Path(str(error.filename)).is_absolute() and Path(str(error.filename)).is_relative_to(directory)
        outcome = LabelFailure("unparsable" if is_file else "launch", str(error))
    # Programs end in the middle in many ways, and ASE's readers stumble over what they left in as many.
    except (*UNFORESEEN, OSError, StopIteration) as error:
        outcome = LabelFailure("unparsable", f"the output of {name}: {type(error).__name__}: {error}")
    return outcome


def _said_in(directory: Path) -> str:
    """Return the messages of the program and its launcher, from all files to which the calculator redirects them."""
    files = [directory / OUTPUT, *sorted(directory.glob("*.err"))]
    return "\n".join(each.read_text(errors="replace") for each in files if each.exists())


def _ended_badly(error: subprocess.CalledProcessError, said: str) -> LabelFailure:
    number = ending_signal(said, error.returncode)
    is_launch = error.returncode == NOT_FOUND or (number is None and did_not_launch(said))
    command = error.cmd if isinstance(error.cmd, str) else shlex.join(map(str, error.cmd))
    last = words_of_launcher(said) or " ".join(said.split()[-30:])
    message = f"{how_it_ended(said, error.returncode)}: {last or 'no output'}; the command was: {command}"
    return LabelFailure("launch" if is_launch else "crash", message)


if __name__ == "__main__":
    main()
