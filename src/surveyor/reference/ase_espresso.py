"""Quantum ESPRESSO behind ASE's calculator: input parameters for a structure, and checks of the output of pw.x."""

import re
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from ase import Atoms
from pydantic import JsonValue

from surveyor.labels import Reason
from surveyor.structures import charge_of, is_periodic, lowest_multiplicity, multiplicity_of

# All others ASE would leave out without a word.
ARGUMENTS = frozenset({"additional_cards", "input_data", "koffset", "kpts", "kspacing", "pseudopotentials"})
# Said by the structure, by surveyor or by the site, or makes a label depend on what came before. Without
# scf_must_converge pw.x takes its last step for a result, and says that convergence has been achieved.
OF_SURVEYOR = frozenset(
    {
        "calculation", "outdir", "prefix", "pseudo_dir", "restart_mode", "scf_must_converge", "startingpot",
        "startingwfc", "tot_charge", "tot_magnetization", "tprnfor", "tstress", "wfcdir",
    }
)  # fmt: skip

# Images at the distance of twice the extent of the density are cut off exactly (Martyna and Tuckerman 1999).
LEAST_BOX_A, MARGIN_A = 10, 4
WITHOUT_CELL = (
    "periodic in three directions; without periodicity isolated (assume_isolated mt) in "
    f"a cubic box, of an even number of Å, twice as wide as the atoms and {MARGIN_A} Å, at least {LEAST_BOX_A} Å"
)

ERROR = re.compile(r"Error in routine\s+(?P<routine>\w+) \(\d+\):\n\s*(?P<message>.*)")
REASONS: Mapping[str, Reason] = {
    "check_atoms": "geometry",
    "readpp": "missing_data_file",
    "read_namelists": "invalid_input",
    "read_cards": "invalid_input",
    "electrons": "invalid_input",  # it counts them before it begins
    "iosys": "invalid_input",
}
ENDED_EARLY: tuple[Reason, str] = ("crash", "pw.x ended in the middle")
THRESHOLD = re.compile(r"scf convergence threshold =\s*(\S+)")
ACCURACY = re.compile(r"estimated scf accuracy\s*<\s*(\S+)")


def check_espresso(arguments: Mapping[str, JsonValue]) -> None:
    """Check that the arguments hold no keyword that surveyor sets, and none that pw.x does not have."""
    unknown = set(arguments) - ARGUMENTS
    if unknown:
        raise ValueError(f"espresso takes no {', '.join(sorted(unknown))}; keywords of pw.x belong into input_data")
    reserved = set(_names_in(arguments)) & OF_SURVEYOR
    if reserved:
        raise ValueError(
            f"{', '.join(sorted(reserved))} of espresso is set by surveyor, for each structure; leave it out"
        )
    _sections(arguments.get("input_data"))


def _names_in(arguments: Mapping[str, JsonValue]) -> Iterator[str]:
    for name, value in arguments.items():
        yield name.lower()
        if isinstance(value, dict):
            yield from _names_in(value)


def espresso_arguments(arguments: Mapping[str, JsonValue], atoms: Atoms) -> dict[str, Any]:  # Any: JSON values
    """Return the arguments for one structure: those given, with its charge and multiplicity."""
    complete = dict(arguments) | {"input_data": _espresso_input(arguments.get("input_data"), atoms)}
    if is_periodic(atoms):
        return complete
    return {name: value for name, value in complete.items() if name not in ("koffset", "kpts", "kspacing")}


def _espresso_input(data: JsonValue, atoms: Atoms) -> dict[str, Any]:  # Any: JSON values
    sections = _sections(data)
    sections["control"] |= {"calculation": "scf", "tprnfor": True, "tstress": is_periodic(atoms)}
    system = sections["system"]
    if charge_of(atoms):
        system["tot_charge"] = charge_of(atoms)
    if not is_periodic(atoms):
        system.setdefault("assume_isolated", "mt")
    # The lowest multiplicity of a crystal is left to nspin and smearing of the input: it may be a metal.
    is_left = is_periodic(atoms) and multiplicity_of(atoms) == lowest_multiplicity(atoms)
    if not is_left and (multiplicity_of(atoms) > 1 or "nspin" in system):
        system.setdefault("nspin", 2)
        system["tot_magnetization"] = multiplicity_of(atoms) - 1
    return sections


def _sections(data: JsonValue) -> dict[str, dict[str, Any]]:  # Any: JSON values
    """Return an input of pw.x by section, whether or not it was given so.

    Raises:
        ValueError: a keyword is in no section that ASE knows; ASE would leave it out without a word.
    """
    from ase.io.espresso import Namelist

    if not isinstance(data, dict | None):
        raise ValueError(f"expected input_data of espresso to be keywords and values, found {data!r}")
    tree = Namelist(data or {})
    tree.to_nested("pw")
    sections = {section: dict(values) for section, values in tree.items()}
    lost = set(_names_in(data or {})) - set(_names_in(sections))
    if lost:
        raise ValueError(f"pw.x has no keyword {', '.join(sorted(lost))}; or give it in its section of input_data")
    return sections


def in_box(atoms: Atoms) -> Atoms:
    """Return a structure in the middle of a box, see `WITHOUT_CELL`."""
    boxed = atoms.copy()
    low, high = boxed.positions.min(axis=0), boxed.positions.max(axis=0)
    edge = max(LEAST_BOX_A, 2 * np.ceil((high - low).max() + MARGIN_A))
    boxed.set_cell(np.eye(3) * edge, scale_atoms=False)
    # By whole Å, so that the grid does not move under the atoms when one of them does.
    boxed.positions += np.round(edge / 2 - (low + high) / 2)
    return boxed


def fault_in_espresso(output: str) -> tuple[Reason, str] | None:
    """Return the fault of a Quantum ESPRESSO calculation according to the output of pw.x, or None.

    ASE accepts any energy in the output, and pw.x can print one without convergence.
    """
    error = ERROR.search(output)
    if error is not None:
        routine, message = error["routine"], error["message"].strip()
        return REASONS.get(routine, "crash"), f"pw.x: {message} (in {routine})"
    if "convergence NOT achieved" in output:
        return "scf_not_converged", "pw.x: convergence NOT achieved"
    if "JOB DONE." not in output:
        return ENDED_EARLY
    threshold, accuracies = THRESHOLD.search(output), ACCURACY.findall(output)
    if threshold is None or not accuracies or not _number(accuracies[-1]) <= _number(threshold[1]):
        return "scf_not_converged", f"pw.x: the last accuracy is {accuracies[-1] if accuracies else 'not there'}"
    return None


def _number(text: str) -> float:
    try:
        return float(text.replace("D", "E"))
    except ValueError:
        return np.nan  # stars, where a number does not fit
