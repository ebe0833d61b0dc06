"""Calculations by a calculator of ASE, in the process that asks for them."""

import errno
import hashlib
import json
import shlex
import shutil
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms
from ase.calculators.calculator import (
    BadConfiguration,
    BaseCalculator,
    CalculatorError,
    CalculatorSetupError,
    PropertyNotImplementedError,
    ReadError,
    SCFError,
    all_changes,
    get_calculator_class,
)

from surveyor.errors import UNFORESEEN, InputError
from surveyor.labels import Label, LabelFailure, Reason
from surveyor.reference.ase_calculators import Arguments
from surveyor.reference.provenance import provenance
from surveyor.structures import identity_of, is_periodic

DISK_FULL = (errno.ENOSPC, errno.EDQUOT)
CONFIGURATION = "~/.config/ase/config.ini, or the file that ASE_CONFIG_PATH names"

# Whatever else a calculator raises is a bug, or its machine dying, and no property of the structure.
FAILURES = (CalculatorError, NotImplementedError, ArithmeticError, np.linalg.LinAlgError)
REFUSALS = (*UNFORESEEN, OSError)  # of constructors, by arguments that they do not take


def make_calculator(name: str, arguments: Arguments) -> Any:  # Any: ASE's calculators have several base classes
    """Return a new calculator of ASE.

    Raises:
        InputError: its package or configuration is missing here, or it does not take these arguments.
    """
    try:
        return get_calculator_class(name)(**arguments)
    except ImportError as error:
        raise InputError(f"the calculator {name} needs a package that is not installed here: {error}") from error
    except BadConfiguration as error:
        raise InputError(
            f"the program of {name} is not configured here: {error}; add a section [{name}] to ASE's configuration "
            f"({CONFIGURATION})"
        ) from error
    except REFUSALS as error:
        raise InputError(f"{name} does not take the arguments {dict(arguments)}: {error}") from error


def describe(calculator: Any, arguments: Arguments) -> dict[str, Any]:  # Any: as above; whatever JSON holds
    """Return the parts of the level of theory other than the arguments: version of the program, contents of files.

    Raises:
        InputError: the program or a file is missing here.
    """
    profile = getattr(calculator, "profile", None)
    command = getattr(profile, "command", None)
    if command is not None:
        _check_program(command)
    try:
        version = profile.version() if profile is not None and hasattr(profile, "version") else None
    except REFUSALS as error:
        raise InputError(
            f"`{command}` does not say its version ({type(error).__name__}: {error}); correct the command in ASE's "
            f"configuration ({CONFIGURATION})"
        ) from error
    return {"version": version, "files": dict(_files(arguments, getattr(profile, "pseudo_dir", None)))}


def _check_program(command: str) -> None:
    program = shlex.split(command)[0]
    if "=" not in program and shutil.which(program) is None:  # a shell may be given variables first
        raise InputError(
            f"program {program!r} was not found; install it, or correct its command in ASE's configuration "
            f"({CONFIGURATION})"
        )


def _files(arguments: Arguments, pseudo_dir: str | None) -> Iterator[tuple[str, str]]:
    """Yield each argument that names a file, with the hash of the file's content."""
    pseudopotentials = arguments.get("pseudopotentials")
    if pseudo_dir is not None and isinstance(pseudopotentials, Mapping):
        for element, name in pseudopotentials.items():
            yield f"pseudopotentials.{element}", _digest(Path(pseudo_dir) / str(name))
    for argument, value in _values(arguments):
        if value.startswith("/") and Path(value).is_file():
            yield argument, _digest(Path(value))


def _values(arguments: Mapping[str, Any], path: str = "") -> Iterator[tuple[str, str]]:  # Any: JSON values
    for name, value in arguments.items():
        if isinstance(value, Mapping):
            yield from _values(value, f"{path}{name}.")
        elif isinstance(value, str):
            yield f"{path}{name}", value


def _digest(path: Path) -> str:
    if not path.is_file():
        raise InputError(f"there is no file {path} here, which the arguments of the calculator name")
    return hashlib.sha256(path.read_bytes()).hexdigest()


def compute_with(
    calculator: BaseCalculator, atoms: Atoms, directory: Path, *, program: str, version: str
) -> Label | LabelFailure:
    """Compute a label with an ASE calculator."""
    begin = time.monotonic()
    calculator.directory = directory
    failure: tuple[Reason, str] | None = None
    try:
        energy, forces, stress = _results(calculator, atoms.copy())
    except FAILURES as error:
        failure = _reason(error), f"{type(error).__name__}: {error}"
    except OSError as error:
        if error.errno not in DISK_FULL:
            raise
        failure = "disk", str(error)
    source = provenance(
        program=program, version=version, inputs=json.dumps(identity_of(atoms)), wall_time_s=time.monotonic() - begin
    )
    if failure is not None:
        return LabelFailure(*failure, provenance=source)
    label = Label(energy, forces, stress, source)
    if not label.is_complete_for(atoms):
        return LabelFailure(
            "unparsable", f"{program} gave numbers that are not finite, or too few of them", provenance=source
        )
    return label


def _results(calculator: BaseCalculator, atoms: Atoms) -> tuple[float, np.ndarray, np.ndarray | None]:
    wanted = ["energy", "forces", "stress"] if is_periodic(atoms) else ["energy", "forces"]
    # All at once: a program that is asked for one after the other runs as often.
    calculator.calculate(atoms, wanted, all_changes)
    if getattr(calculator, "converged", None) is False:  # VASP's knows, and goes on
        raise SCFError("the calculator says that it has not converged")
    results = calculator.results
    missing = [name for name in wanted if results.get(name) is None]
    if missing:
        raise PropertyNotImplementedError(f"the calculation gives no {' and no '.join(missing)}")
    # A calculator without electronic entropy may know but one energy.
    energy = float(results.get("free_energy", results["energy"]))
    stress = np.array(results["stress"], dtype=float) if is_periodic(atoms) else None
    return energy, np.array(results["forces"], dtype=float), stress


def _reason(error: Exception) -> Reason:
    if isinstance(error, SCFError):
        return "scf_not_converged"
    if isinstance(error, ReadError):
        return "unparsable"
    if isinstance(error, CalculatorSetupError | NotImplementedError):
        return "invalid_input"
    return "crash"
