"""References that are calculators of ASE."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import ase
from ase import Atoms
from ase.calculators.emt import EMT
from ase.calculators.emt import parameters as emt_parameters
from pydantic import Field, JsonValue, field_validator, model_validator

from surveyor.errors import InputError
from surveyor.labels import Label, LabelFailure, LevelOfTheory
from surveyor.parameters import Parameters
from surveyor.reference.ase_calculation import compute_with, describe, make_calculator
from surveyor.reference.ase_calculators import (
    CLASSICAL,
    NAMES,
    arguments_for,
    check_arguments,
    known_name,
    objection_to,
    periodicities,
    periodicity_rule,
    treats_charge,
)
from surveyor.reference.ase_process import compute_apart, describe_apart
from surveyor.reference.reference import LabelTimeout
from surveyor.reference.rehearsal import Rehearsal, begin, end


class EMTParameters(Parameters):
    """Effective medium theory: a toy for fcc metals (and H, C, N, O), good for tests, as fast as can be."""

    # A choice without any field is left out by the form of the Prefect UI, which sends no empty objects.
    asap_cutoff: bool = Field(
        False, title="Cutoff of ASAP", description="Use the cutoff of the program ASAP instead of ASE's."
    )
    rehearsal: Rehearsal | None = Field(
        None,
        title="Rehearsal",
        description="Give labels a duration, a failure rate and a log, to rehearse a deployment.",
    )


class ASEParameters(Parameters):
    """Any calculator that ASE knows by name; a program is found by ASE's own configuration."""

    calculator: str = Field(
        title="Calculator",
        description="Name in ASE's list of calculators, such as espresso, orca, vasp or lj.",
        json_schema_extra={"enum": list(NAMES)},
    )
    arguments: dict[str, JsonValue] = Field(
        default_factory=dict,
        title="Arguments",
        description="Keyword arguments of the calculator; all of them belong to the level of theory.",
    )
    version: str | None = Field(
        None,
        min_length=1,
        title="Version",
        description="Version of the program and its data, if the program does not report it; part of the level of"
        " theory.",
    )

    @field_validator("calculator")
    @classmethod
    def _is_known(cls, name: str) -> str:
        return known_name(name)

    @model_validator(mode="after")
    def _says_what_is_computed(self) -> Self:
        check_arguments(self.calculator, self.arguments)
        return self


class ASECode(Parameters):
    """Environment and time limit of the programs of ASE's calculators; their commands are in ASE's configuration."""

    environment: dict[str, str] = Field(
        default_factory=dict,
        title="Environment",
        description="Additional environment variables of the program, such as ASE_CONFIG_PATH; never a secret.",
    )
    timeout_minutes: LabelTimeout = 60.0


@dataclass(frozen=True, slots=True)
class EMTReference:
    """Effective medium theory, computed by ASE.

    Attributes:
        parameters: cutoff, and rehearsal.
    """

    parameters: EMTParameters = field(default_factory=EMTParameters)

    def resolve(self) -> LevelOfTheory:
        """Return the level of theory: ASE's EMT, for neutral structures of the elements that it has parameters for."""
        content: dict[str, Any] = {  # Any: whatever JSON holds
            "program": "ASE",
            "version": _major(ase.__version__),
            "method": "EMT",
            "asap_cutoff": self.parameters.asap_cutoff,
            "periodicity": periodicity_rule("emt"),
        }
        if self.parameters.rehearsal and self.parameters.rehearsal.failing_fraction:
            content["failing_fraction"] = self.parameters.rehearsal.failing_fraction  # failures are final
        return LevelOfTheory(name="EMT", content=content, charge=0, is_neutral=True, elements=tuple(emt_parameters))

    def compute(self, atoms: Atoms, directory: Path) -> Label | LabelFailure:
        """Compute the label of one structure."""
        rehearsal = self.parameters.rehearsal or Rehearsal()
        if begin(rehearsal, atoms, directory):
            outcome = _rehearsed_failure()
        else:
            calculator = EMT(asap_cutoff=self.parameters.asap_cutoff)
            outcome = compute_with(calculator, atoms, directory, program="ASE EMT", version=ase.__version__)
        end(rehearsal, atoms)
        return outcome


def _rehearsed_failure() -> Label | LabelFailure:
    return LabelFailure("scf_not_converged", "as failing_fraction of the rehearsal says")


@dataclass(frozen=True, slots=True)
class ASEReference:
    """Any calculator in ASE's list; its arguments define the level of theory.

    Potentials that are part of ASE are computed in this process. All other programs and packages run in a separate
    process group, so that their time can be limited, and none survives its worker.

    Attributes:
        parameters: name and arguments of the calculator.
        code: environment and limits of its program.
    """

    parameters: ASEParameters
    code: ASECode = field(default_factory=ASECode)

    @property
    def time_limit_s(self) -> float | None:
        """Time limit of a calculation; None for potentials that are part of ASE."""
        return None if self.parameters.calculator in CLASSICAL else 60 * self.code.timeout_minutes

    def resolve(self) -> LevelOfTheory:
        """Return the level of theory: calculator, arguments, contents of files named in them, and version if known.

        Raises:
            InputError: the calculator does not take its arguments, or its program or a file is missing here.
        """
        name, arguments = self.parameters.calculator, self.parameters.arguments
        found = self._describe()
        reported, stated = found["version"], self.parameters.version
        if None not in (reported, stated) and reported != stated:
            raise InputError(f"reference.ase.version: found {stated!r}, but the program says {reported!r}")
        content = {
            "program": "ASE",
            "version": _major(ase.__version__),
            "calculator": name,
            "calculator_version": reported or stated,
            "arguments": dict(arguments),
            "files": found["files"],
            "periodicity": periodicity_rule(name),
        }
        pseudopotentials = arguments.get("pseudopotentials") if name == "espresso" else None
        return LevelOfTheory(
            name=name,
            content=content,
            charge=None if treats_charge(name) else 0,
            is_neutral=not treats_charge(name),
            elements=tuple(pseudopotentials) if isinstance(pseudopotentials, dict) else None,
            n_periodic=periodicities(name),
        )

    def objection(self, atoms: Atoms) -> str | None:
        """Return why the calculator cannot label a structure; None where nothing is known that prevents it."""
        return objection_to(self.parameters.calculator, atoms)

    def compute(self, atoms: Atoms, directory: Path) -> Label | LabelFailure:
        """Compute the label of one structure."""
        name = self.parameters.calculator
        objection = self.objection(atoms)
        if objection is not None:
            return LabelFailure("invalid_input", objection)
        if name in CLASSICAL:
            calculator = make_calculator(name, self.parameters.arguments)
            return compute_with(calculator, atoms, directory, program=f"ASE {name}", version=ase.__version__)
        arguments = arguments_for(name, self.parameters.arguments, atoms)
        return compute_apart(
            name,
            arguments,
            atoms,
            directory=directory,
            environment=self.code.environment,
            timeout_s=60 * self.code.timeout_minutes,
        )

    def _describe(self) -> Mapping[str, Any]:  # Any: whatever JSON holds
        name, arguments = self.parameters.calculator, self.parameters.arguments
        if name in CLASSICAL:
            return describe(make_calculator(name, arguments), arguments)
        return describe_apart(name, arguments, self.code.environment)


def _major(version: str) -> str:
    return version.partition(".")[0]
