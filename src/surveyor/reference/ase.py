"""References that are calculators of ASE."""

import errno
import importlib
import json
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import ase
import numpy as np
from ase import Atoms
from ase.calculators.calculator import (
    Calculator,
    CalculatorError,
    CalculatorSetupError,
    PropertyNotImplementedError,
    ReadError,
    SCFError,
)
from ase.calculators.emt import EMT
from ase.calculators.emt import parameters as emt_parameters
from pydantic import Field

from surveyor.errors import InputError
from surveyor.labels import Label, LabelFailure, LevelOfTheory, Reason
from surveyor.parameters import Parameters
from surveyor.reference.provenance import provenance
from surveyor.structures import identity_of, is_periodic

PERIODICITY = "as pbc says; open directions need no cell; stress where all three directions are periodic"
DISK_FULL = (errno.ENOSPC, errno.EDQUOT)

# Whatever else a calculator raises is a bug, or its machine dying, and no property of the structure.
FAILURES = (CalculatorError, NotImplementedError, ArithmeticError, np.linalg.LinAlgError)


class EMTParameters(Parameters):
    """Effective medium theory: a toy for fcc metals (and H, C, N, O), good for tests, as fast as can be."""

    # A choice without any field is left out by the form of the Prefect UI, which sends no empty objects.
    asap_cutoff: bool = Field(
        False, title="Cutoff of ASAP", description="Take the cutoff of the program ASAP in place of ASE's own."
    )


class ASEParameters(Parameters):
    """Any calculator of ASE."""

    calculator: str = Field(
        title="Calculator",
        description="Class of an ASE calculator, with its module, such as ase.calculators.lj.LennardJones.",
        pattern=r"^\w+(\.\w+)+$",
    )
    arguments: dict[str, Any] = Field(  # Any: the options of a calculator are its own
        default_factory=dict,
        title="Arguments",
        description="Keyword arguments of the calculator; all of them belong to the level of theory.",
    )


@dataclass(frozen=True, slots=True)
class EMTReference:
    """Effective medium theory, by ASE.

    Attributes:
        parameters: which cutoff.
    """

    parameters: EMTParameters = field(default_factory=EMTParameters)

    def resolve(self) -> LevelOfTheory:
        """Return the level of theory: ASE's EMT, for neutral structures of the elements that it has parameters for."""
        content = {
            "program": "ASE",
            "version": _major(ase.__version__),
            "method": "EMT",
            "asap_cutoff": self.parameters.asap_cutoff,
            "periodicity": PERIODICITY,
        }
        return LevelOfTheory(name="EMT", content=content, charge=0, elements=tuple(emt_parameters))

    def compute(self, atoms: Atoms, directory: Path) -> Label | LabelFailure:
        """Compute the label of one structure."""
        calculator = EMT(asap_cutoff=self.parameters.asap_cutoff)
        return compute_with(calculator, atoms, directory, program="ASE EMT", version=ase.__version__)


@dataclass(frozen=True, slots=True)
class ASEReference:
    """Any calculator of ASE, at whatever level of theory its arguments say.

    Attributes:
        calculator: class of the calculator, with its module.
        arguments: keyword arguments of the calculator, whatever JSON holds.
    """

    calculator: str
    arguments: Mapping[str, Any] = field(
        default_factory=dict, hash=False
    )  # Any: the options of a calculator are its own

    def resolve(self) -> LevelOfTheory:
        """Return the level of theory: the calculator, its arguments and the major version of ASE.

        Raises:
            InputError: there is no such calculator here, or it does not take these arguments.
        """
        self._make()
        content = {
            "program": "ASE",
            "version": _major(ase.__version__),
            "calculator": self.calculator,
            "arguments": dict(self.arguments),
            "periodicity": PERIODICITY,
        }
        try:
            json.dumps(content, allow_nan=False)
        except (TypeError, ValueError) as error:
            raise InputError(
                f"the arguments of {self.calculator} must be plain values, for they are hashed: {error}"
            ) from error
        return LevelOfTheory(name=self.calculator.rpartition(".")[2], content=content)

    def compute(self, atoms: Atoms, directory: Path) -> Label | LabelFailure:
        """Compute the label of one structure."""
        return compute_with(self._make(), atoms, directory, program=self.calculator, version=ase.__version__)

    def _make(self) -> Calculator:
        module, _, name = self.calculator.rpartition(".")
        try:
            kind = getattr(importlib.import_module(module), name)
        except (ImportError, AttributeError) as error:
            raise InputError(
                f"there is no calculator {self.calculator!r} here: {error}; "
                "give module and class, such as ase.calculators.emt.EMT"
            ) from error
        try:
            calculator = kind(**self.arguments)
        except (TypeError, ValueError, CalculatorError, RuntimeError) as error:
            raise InputError(
                f"{self.calculator} does not take the arguments {dict(self.arguments)}: {error}"
            ) from error
        if not isinstance(calculator, Calculator):
            raise InputError(f"{self.calculator} is no ASE calculator, but {kind!r}")
        return calculator


def compute_with(
    calculator: Calculator, atoms: Atoms, directory: Path, *, program: str, version: str
) -> Label | LabelFailure:
    """Compute a label with an ASE calculator.

    Args:
        calculator: a new one.
        atoms: stays as it is.
        directory: where the calculator may write.
        program: name for the provenance.
        version: version for the provenance.
    """
    begin = time.monotonic()
    copy = atoms.copy()
    copy.calc = calculator
    calculator.directory = str(directory)
    failure: tuple[Reason, str] | None = None
    try:
        energy, forces, stress = _results(copy)
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


def _results(atoms: Atoms) -> tuple[float, np.ndarray, np.ndarray | None]:
    try:
        energy = float(atoms.get_potential_energy(force_consistent=True))
    except PropertyNotImplementedError:
        energy = float(atoms.get_potential_energy())  # a calculator without electronic entropy may know but one energy
    forces = np.array(atoms.get_forces(apply_constraint=False), dtype=float)
    stress = np.array(atoms.get_stress(apply_constraint=False), dtype=float) if is_periodic(atoms) else None
    return energy, forces, stress


def _reason(error: Exception) -> Reason:
    if isinstance(error, SCFError):
        return "scf_not_converged"
    if isinstance(error, ReadError):
        return "unparsable"
    if isinstance(error, CalculatorSetupError | NotImplementedError):
        return "invalid_input"
    return "crash"


def _major(version: str) -> str:
    return version.partition(".")[0]
