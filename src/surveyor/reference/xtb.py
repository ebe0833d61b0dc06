"""GFN-xTB references, by the library tblite."""

import importlib.metadata
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from ase import Atoms
from ase.data import chemical_symbols
from pydantic import Field

from surveyor.errors import InputError
from surveyor.labels import Label, LabelFailure, LevelOfTheory
from surveyor.parameters import Parameters
from surveyor.reference.ase_calculation import compute_with
from surveyor.structures import charge_of, multiplicity_of

HEAVIEST = 86  # radon: the GFN-xTB parameters end there
PERIODICITY = "as pbc says, in none or all three directions; stress where all three are periodic"


class XTBParameters(Parameters):
    """Semi-empirical tight binding: minutes of a laptop where density functional theory takes days."""

    method: Literal["GFN2-xTB", "GFN1-xTB"] = Field("GFN2-xTB", title="Method", description="Parametrisation.")
    accuracy: float = Field(
        0.01,
        gt=0,
        le=1000,
        title="Accuracy",
        description="Scales all thresholds of tblite, whose default is 1; smaller values are tighter.",
    )
    electronic_temperature_K: float = Field(
        300.0, ge=0, le=100_000, title="Electronic temperature (K)", description="Temperature of the Fermi smearing."
    )
    max_iterations: int = Field(
        250,
        ge=1,
        le=100_000,
        title="SCF steps",
        description="Maximum number of SCF steps; a label that needs more fails.",
    )


@dataclass(frozen=True, slots=True)
class XTBReference:
    """GFN-xTB with the charge and multiplicity of the structure.

    OMP_NUM_THREADS sets the number of threads.

    Attributes:
        parameters: method and thresholds.
    """

    parameters: XTBParameters = field(default_factory=XTBParameters)

    def resolve(self) -> LevelOfTheory:
        """Return the level of theory.

        Raises:
            InputError: tblite is not installed here.
        """
        version = check_installed()
        content = {
            "program": "tblite",
            "version": ".".join(version.split(".")[:2]),  # before 1.0, the second number is the major one
            "method": self.parameters.method,
            "accuracy": self.parameters.accuracy,
            "electronic_temperature_K": self.parameters.electronic_temperature_K,
            # It changes no label, but a failure that is final at one limit may be a label at another.
            "max_iterations": self.parameters.max_iterations,
            "periodicity": PERIODICITY,
        }
        return LevelOfTheory(
            name=self.parameters.method,
            content=content,
            elements=tuple(chemical_symbols[1 : HEAVIEST + 1]),
            n_periodic=(0, 3),
        )

    def compute(self, atoms: Atoms, directory: Path) -> Label | LabelFailure:
        """Compute the label of one structure."""
        version = check_installed()
        if atoms.pbc.any() and not atoms.pbc.all():
            return LabelFailure(
                "invalid_input",
                f"tblite takes structures periodic in no or three directions; found pbc {atoms.pbc.tolist()}",
            )
        outcome = compute_with(self._calculator(atoms), atoms, directory, program="tblite", version=version)
        if isinstance(outcome, LabelFailure) and "not converged" in outcome.message:
            return replace(outcome, reason="scf_not_converged")
        return outcome

    def _calculator(self, atoms: Atoms) -> Any:  # Any: tblite has no types
        from tblite.ase import TBLite

        return TBLite(
            method=self.parameters.method,
            charge=charge_of(atoms),
            multiplicity=multiplicity_of(atoms),
            accuracy=self.parameters.accuracy,
            electronic_temperature=self.parameters.electronic_temperature_K,
            max_iterations=self.parameters.max_iterations,
            verbosity=0,
        )


def check_installed() -> str:
    """Return the version of tblite.

    Raises:
        InputError: it is not installed here.
    """
    try:
        return importlib.metadata.version("tblite")
    except importlib.metadata.PackageNotFoundError as error:
        raise InputError(
            'GFN-xTB needs tblite, which is not installed here; run: pip install "surveyor[xtb]"'
        ) from error
