"""Check of a label's input by CP2K itself, without a calculation."""

import tempfile
from pathlib import Path

import numpy as np
from ase import Atoms

from surveyor.errors import InputError
from surveyor.labels import LabelFailure
from surveyor.reference.cp2k_code import QUESTION_TIMEOUT_S, CP2KCode, run_cp2k, working_folder
from surveyor.reference.cp2k_input import CP2KInput, element_of, write_input
from surveyor.reference.cp2k_output import parse_output

ACCEPTED = "SUCCESS, the input could be parsed correctly"
APART_A = 3.0


def check_input(given: CP2KInput, code: CP2KCode) -> None:
    """Have the CP2K of this machine check the input that surveyor makes of a given one.

    Raises:
        InputError: CP2K does not start here, or does not take the input.
    """
    atoms = one_of_each_kind(given)
    with tempfile.TemporaryDirectory(prefix="surveyor-") as directory:
        output = Path(directory) / "output.txt"
        with working_folder(code, output.parent) as folder:
            (folder / "input.inp").write_text(write_input(given, atoms))
            arguments = ["--check", "-i", "input.inp"]
            result = run_cp2k(code, arguments, directory=folder, output=output, timeout_s=QUESTION_TIMEOUT_S)
        said = output.read_text(errors="replace")
    if ACCEPTED in said:
        return
    refused = parse_output(said, atoms, returncode=result.returncode, timed_out=result.timed_out)
    reason = refused.message if isinstance(refused, LabelFailure) else "it says nothing of the input"
    passed_on = "".join(f"; surveyor had passed on: {each}" for each in given.unknown)
    raise InputError(
        f"CP2K does not take the input: {reason}{passed_on}. Correct the input, or run a version of CP2K that knows it"
    )


def one_of_each_kind(given: CP2KInput) -> Atoms:
    """Return a structure with one atom of each kind of an input, in a row; hydrogen if one applies to all elements."""
    kinds = {str(kind["_"]): element_of(kind) for name, kind in given.kinds.items() if name != "DEFAULT"} or {"H": "H"}
    edge = APART_A * len(kinds)
    atoms = Atoms(list(kinds.values()), cell=[edge, edge, edge], pbc=True)
    atoms.positions[:, 0] = APART_A * np.arange(len(kinds))
    atoms.set_array("kinds", np.array(list(kinds)))
    atoms.info["charge"], atoms.info["multiplicity"] = given.charge or 0, given.multiplicity or 1
    return atoms
