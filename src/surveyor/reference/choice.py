"""Choosing a reference."""

from pydantic import Field

from surveyor.parameters import Choice, Parameters
from surveyor.reference.ase import ASECode, ASEParameters, ASEReference, EMTParameters, EMTReference
from surveyor.reference.cp2k import CP2KCode, CP2KParameters, CP2KReference
from surveyor.reference.reference import Reference
from surveyor.reference.xtb import XTBParameters, XTBReference


class ReferenceParameters(Choice):
    """The level of theory at which structures are labelled; exactly one."""

    cp2k: CP2KParameters | None = Field(None, title="CP2K", description="Density functional theory in CP2K.")
    xtb: XTBParameters | None = Field(None, title="GFN-xTB", description="Semi-empirical tight binding, by tblite.")
    emt: EMTParameters | None = Field(None, title="EMT", description="Effective medium theory, a toy for metals.")
    ase: ASEParameters | None = Field(
        None, title="ASE calculator", description="Any calculator that ASE knows by name."
    )


class Codes(Parameters):
    """How the programs of references are run at a site."""

    cp2k: CP2KCode = Field(default_factory=CP2KCode, title="CP2K", description="How CP2K is run.")
    ase: ASECode = Field(
        default_factory=ASECode, title="ASE", description="How programs behind ASE's calculators are run."
    )


def make_reference(parameters: ReferenceParameters, codes: Codes | None = None) -> Reference:
    """Return the reference that was chosen; nothing is computed and no program is started.

    Args:
        parameters: what to compute.
        codes: how to run it.

    Raises:
        InputError: an input file is missing or cannot be used.
    """
    chosen = parameters.chosen
    match chosen:
        case CP2KParameters():
            return CP2KReference.from_file(chosen.input, (codes or Codes()).cp2k)
        case XTBParameters():
            return XTBReference(chosen)
        case EMTParameters():
            return EMTReference(chosen)
        case ASEParameters():
            return ASEReference(chosen, (codes or Codes()).ase)
    raise TypeError(f"no reference for {type(chosen).__name__}")
