"""Having CP2K itself read the input of a label, without computing anything."""

import tempfile
from pathlib import Path

from ase import Atoms

from surveyor.errors import InputError
from surveyor.labels import LabelFailure
from surveyor.reference.cp2k import CP2KReference
from surveyor.reference.cp2k_code import QUESTION_TIMEOUT_S, run_cp2k
from surveyor.reference.cp2k_input import place, write_input
from surveyor.reference.cp2k_output import parse_output

ACCEPTED = "SUCCESS, the input could be parsed correctly"


def check_input(reference: CP2KReference, atoms: Atoms) -> None:
    """Have the CP2K of this machine read the input for a structure.

    Args:
        reference: whose input and program it is.
        atoms: with charge and multiplicity.

    Raises:
        InputError: CP2K does not start here, or does not take the input.
    """
    placed = place(atoms)
    with tempfile.TemporaryDirectory(prefix="surveyor-") as folder:
        output = Path(folder) / "output.txt"
        (output.parent / "input.inp").write_text(write_input(reference.input, placed))
        arguments = ["--check", "-i", "input.inp"]
        result = run_cp2k(
            reference.code, arguments, directory=output.parent, output=output, timeout_s=QUESTION_TIMEOUT_S
        )
        said = output.read_text(errors="replace")
    if ACCEPTED in said:
        return
    refused = parse_output(said, placed, returncode=result.returncode, timed_out=result.timed_out)
    reason = refused.message if isinstance(refused, LabelFailure) else "it says nothing of the input"
    raise InputError(
        f"CP2K does not take the input: {reason}; correct the input, or run a version of CP2K that knows it"
    )
