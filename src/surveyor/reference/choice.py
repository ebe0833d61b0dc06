"""Choosing a reference."""

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Annotated, Any

from pydantic import AfterValidator, ConfigDict, Field, model_validator

from surveyor.errors import InputError
from surveyor.parameters import Choice, Parameters, at_most_one_of
from surveyor.reference.ase import ASECode, ASEParameters, ASEReference, EMTParameters, EMTReference
from surveyor.reference.cp2k import CP2KParameters, CP2KReference
from surveyor.reference.cp2k_code import CP2KCode
from surveyor.reference.reference import Reference
from surveyor.reference.xtb import XTBParameters, XTBReference

CODE = re.compile(r"cp2k/[a-z0-9][a-z0-9-]*")


class ReferenceParameters(Choice):
    """The level of theory at which structures are labelled; exactly one."""

    cp2k: CP2KParameters | None = Field(None, title="CP2K", description="Density functional theory in CP2K.")
    xtb: XTBParameters | None = Field(None, title="GFN-xTB", description="Semi-empirical tight binding, with tblite.")
    emt: EMTParameters | None = Field(
        None, title="EMT", description="Effective medium theory, a test potential for metals."
    )
    ase: ASEParameters | None = Field(
        None, title="ASE calculator", description="Any calculator in ASE's list of calculators."
    )


def _checked(name: str) -> str:
    if not CODE.fullmatch(name):
        raise ValueError(f"found {name!r}, expected the kind and name of a block, such as cp2k/genoa")
    return name


CodeName = Annotated[str, AfterValidator(_checked)]


class Codes(Parameters):
    """Settings of the programs of references at a site: given here, or stored as blocks of Prefect."""

    model_config = ConfigDict(json_schema_extra=at_most_one_of("cp2k", "cp2k_block"))

    cp2k: CP2KCode | None = Field(
        None, title="CP2K", description="Command and limits of CP2K; by default the program cp2k.psmp."
    )
    cp2k_block: CodeName | None = Field(
        None,
        title="CP2K (block)",
        description="Block with the command and limits of CP2K, such as cp2k/genoa; in a file you can also write "
        "cp2k: cp2k/genoa.",
    )
    ase: ASECode = Field(
        default_factory=ASECode, title="ASE", description="Environment and limits of programs behind ASE's calculators."
    )

    @model_validator(mode="before")
    @classmethod
    def _name_of_block(cls, values: Any) -> Any:  # Any: whatever is validated
        # A union of a name and a model would be the natural type, but the form of the Prefect UI cannot serve one.
        if isinstance(values, Mapping) and isinstance(values.get("cp2k"), str):
            if values.get("cp2k_block") is not None:
                raise ValueError("expected one of cp2k and cp2k_block; found both")
            return {**values, "cp2k": None, "cp2k_block": values["cp2k"]}
        return values

    @model_validator(mode="after")
    def _check_one(self) -> "Codes":
        if self.cp2k is not None and self.cp2k_block is not None:
            raise ValueError("expected one of cp2k and cp2k_block; found both")
        return self

    @property
    def without_blocks(self) -> "Codes":
        """These codes, where one that is stored in a block is replaced by the default: for checks without a server."""
        return self if self.cp2k_block is None else self.model_copy(update={"cp2k_block": None})

    @property
    def cp2k_code(self) -> CP2KCode:
        """Command and limits of CP2K.

        Raises:
            InputError: it is stored in a block, which was not loaded.
        """
        if self.cp2k_block is not None:
            raise InputError(f"code {self.cp2k_block}: it is stored in a block, which was not loaded")
        return self.cp2k or CP2KCode()


def make_reference(parameters: ReferenceParameters, codes: Codes | None = None) -> Reference:
    """Return the reference that was chosen; nothing is computed and no program is started.

    Args:
        parameters: what to compute.
        codes: how to run it.

    Raises:
        InputError: an input file is missing or cannot be used, or a code is stored in a block that was not loaded.
    """
    chosen = parameters.chosen
    match chosen:
        case CP2KParameters():
            return CP2KReference.from_parameters(chosen, (codes or Codes()).cp2k_code)
        case XTBParameters():
            return XTBReference(chosen)
        case EMTParameters():
            return EMTReference(chosen)
        case ASEParameters():
            return ASEReference(chosen, (codes or Codes()).ase)
    raise TypeError(f"no reference for {type(chosen).__name__}")


def with_codes(reference: Reference, codes: Codes) -> Reference:
    """Return a reference that runs the same calculations with other codes.

    Raises:
        InputError: a code is stored in a block that was not loaded.
    """
    return replace(reference, code=codes.cp2k_code) if isinstance(reference, CP2KReference) else reference
