"""What surveyor knows of the calculators that ASE knows by name: which may be used, and what each is told."""

import re
from collections.abc import Iterator, Mapping
from copy import deepcopy
from difflib import get_close_matches
from typing import Any

import numpy as np
from ase import Atoms
from ase.calculators import names as ase_names
from pydantic import JsonValue

from surveyor.labels import Reason
from surveyor.structures import charge_of, is_periodic, lowest_multiplicity, multiplicity_of

Arguments = Mapping[str, JsonValue]

# No references: parameters hold no Python objects, and must start nothing but what the site has configured.
EXCLUDED: Mapping[str, str] = {
    "cp2k": "use reference: {cp2k: …}, which checks what CP2K says",
    "dftd3": "it gives a correction, and no energy",
    "ff": "its arguments are Python objects",
    "kim": "its arguments load libraries",
    "lammpslib": "its arguments are a language that starts programs",
    "lammpsrun": "its arguments are a language that starts programs",
    "plumed": "its arguments are Python objects",
}
# ASE's list as it comes, to which other packages of this process add nothing.
NAMES = tuple(name for name in ase_names.names if name not in EXCLUDED)

# Part of ASE itself, computed in the process that asks; all others are run in a process of their own.
CLASSICAL = frozenset(ase_names.builtin) & frozenset(NAMES)
# They know no periodicity, and would pass over a cell without a word.
MOLECULAR = frozenset(
    {"ace", "demonnano", "gamess_us", "gaussian", "mopac", "nwchem", "orca", "psi4", "qchem", "turbomole"}
)
# They compute a crystal, whatever the structure says.
CRYSTALLINE = frozenset({"abinit", "castep", "elk", "espresso", "exciting", "onetep", "openmx", "siesta", "vasp"})
# What charge and multiplicity are called. Quantum ESPRESSO is told, too, but takes a few words more.
ELECTRONS: Mapping[str, tuple[str, str]] = {
    "gaussian": ("charge", "mult"),
    "orca": ("charge", "mult"),
    "psi4": ("charge", "multiplicity"),
}
# Where a program runs, and on what, is said by ASE's configuration and by surveyor.
OF_THE_SITE = re.compile(
    r"(.*_)?(command|cmd|exe|executable|binary|script|profile)|atoms|directory|ignore_bad_restart_file|label|restart|txt"
)
# Of Quantum ESPRESSO: said by the structure, by surveyor or by the site, or lets a label depend on what came before.
# Without scf_must_converge it takes its last step for a result, and says that convergence has been achieved.
OF_SURVEYOR = frozenset(
    {
        "calculation", "outdir", "prefix", "pseudo_dir", "restart_mode", "scf_must_converge", "startingpot",
        "startingwfc", "tot_charge", "tot_magnetization", "tprnfor", "tstress", "wfcdir",
    }
)  # fmt: skip

# Images at the distance of twice the extent of the density are cut off exactly (Martyna and Tuckerman 1999).
LEAST_BOX_A, MARGIN_A = 10, 4
BOX = f"a cubic box, of an even number of Å, twice as wide as the atoms and {MARGIN_A} Å, at least {LEAST_BOX_A} Å"

ESPRESSO_ERROR = re.compile(r"Error in routine\s+(?P<routine>\w+) \(\d+\):\n\s*(?P<message>.*)")
ESPRESSO_REASONS: Mapping[str, Reason] = {
    "check_atoms": "geometry",
    "readpp": "missing_data_file",
    "read_namelists": "invalid_input",
    "read_cards": "invalid_input",
    "electrons": "invalid_input",  # it counts them before it begins
}
ESPRESSO_THRESHOLD = re.compile(r"scf convergence threshold =\s*(\S+)")
ESPRESSO_ACCURACY = re.compile(r"estimated scf accuracy\s*<\s*(\S+)")


def known_name(name: str) -> str:
    """Return a name as ASE's list has it.

    Raises:
        ValueError: there is no such calculator, or it cannot be a reference.
    """
    lower = name.lower()
    if lower in EXCLUDED:
        raise ValueError(f"{name} cannot be a reference: {EXCLUDED[lower]}")
    if lower not in NAMES:
        guesses = get_close_matches(lower.rpartition(".")[2], NAMES, n=3, cutoff=0.5)
        advice = f"did you mean {' or '.join(guesses)}?" if guesses else f"there are {', '.join(NAMES)}"
        raise ValueError(f"ASE knows no calculator {name!r} by name; {advice}")
    return lower


def check_arguments(name: str, arguments: Arguments) -> None:
    """Check that the arguments of a calculator say what is computed, and nothing else.

    Raises:
        ValueError: one of them belongs to the site or to surveyor.
    """
    of_site = [each for each in arguments if OF_THE_SITE.fullmatch(each)]
    if of_site:
        raise ValueError(
            f"{', '.join(of_site)} of {name} is no level of theory; how a program is run is said by ASE's "
            "configuration, at the site"
        )
    told = (
        set(_names_in(arguments)) & OF_SURVEYOR if name == "espresso" else set(ELECTRONS.get(name, ())) & set(arguments)
    )
    if told:
        raise ValueError(f"{', '.join(sorted(told))} of {name} is set by surveyor, for each structure; leave it out")
    if name == "espresso":
        _sections(arguments.get("input_data"))


def _names_in(arguments: Arguments) -> Iterator[str]:
    for name, value in arguments.items():
        yield name.lower()
        if isinstance(value, dict):
            yield from _names_in(value)


def treats_charge(name: str) -> bool:
    """Say whether a calculator is told the charge of a structure."""
    return name in ELECTRONS or name == "espresso"


def periodicities(name: str) -> tuple[int, ...] | None:
    """Return the numbers of periodic directions that a calculator treats; None for any."""
    if name in CLASSICAL:
        return None
    if name in MOLECULAR:
        return (0,)
    return (3,) if name in CRYSTALLINE and name != "espresso" else (0, 3)


def periodicity_rule(name: str) -> str:
    """Return how a calculator treats structures without a cell, in words that belong to the level of theory."""
    if name in CLASSICAL:
        return "as pbc says; open directions need no cell; stress where all three directions are periodic"
    if name == "espresso":
        return f"periodic in three directions; without periodicity isolated (assume_isolated mt) in {BOX}"
    return f"periodic in {' or '.join(map(str, periodicities(name) or ()))} directions, as the structure says"


def objection_to(name: str, atoms: Atoms) -> str | None:
    """Return why a calculator cannot label a structure, None where nothing is known that prevents it."""
    allowed = periodicities(name)
    if allowed is not None and int(atoms.pbc.sum()) not in allowed:
        return (
            f"{name} takes structures periodic in {' or '.join(map(str, allowed))} directions; "
            f"found pbc {atoms.pbc.tolist()}"
        )
    if name in CLASSICAL or treats_charge(name):
        return None
    # That of a crystal is left to the arguments, as long as the structure asks for nothing special.
    least = lowest_multiplicity(atoms) if is_periodic(atoms) else 1
    if multiplicity_of(atoms) > least:
        return f"surveyor cannot tell {name} the multiplicity {multiplicity_of(atoms)}"
    return None


def arguments_for(name: str, arguments: Arguments, atoms: Atoms) -> dict[str, Any]:  # Any: JSON values
    """Return the arguments of a calculator for one structure: those given, with its charge and multiplicity.

    Args:
        name: of the calculator.
        arguments: of the level of theory.
        atoms: with charge and multiplicity.
    """
    told = deepcopy(dict(arguments))
    if name in ELECTRONS:
        charge, multiplicity = ELECTRONS[name]
        return told | {charge: charge_of(atoms), multiplicity: multiplicity_of(atoms)}
    if name == "espresso":
        told["input_data"] = _espresso_input(told.get("input_data"), atoms)
    return told


def _espresso_input(data: JsonValue, atoms: Atoms) -> dict[str, dict[str, Any]]:  # Any: JSON values
    sections = _sections(data)
    sections["control"] |= {"calculation": "scf", "tprnfor": True, "tstress": is_periodic(atoms)}
    system = sections["system"]
    if charge_of(atoms):
        system["tot_charge"] = charge_of(atoms)
    if not is_periodic(atoms):
        system.setdefault("assume_isolated", "mt")
    # The lowest multiplicity of a crystal is left to nspin and smearing of the input: it may be a metal.
    n_unpaired = multiplicity_of(atoms) - 1
    if multiplicity_of(atoms) > (lowest_multiplicity(atoms) if is_periodic(atoms) else 1):
        system.setdefault("nspin", 2)
        system["tot_magnetization"] = n_unpaired
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


def placed(name: str, atoms: Atoms) -> Atoms:
    """Return a structure as a calculator gets it: in a box where it needs one, see `periodicity_rule`."""
    if name != "espresso" or is_periodic(atoms):
        return atoms
    boxed = atoms.copy()
    low, high = boxed.positions.min(axis=0), boxed.positions.max(axis=0)
    edge = max(LEAST_BOX_A, 2 * np.ceil((high - low).max() + MARGIN_A))
    boxed.set_cell(np.eye(3) * edge, scale_atoms=False)
    # By whole Å, so that the grid does not move under the atoms when one of them does.
    boxed.positions += np.round(edge / 2 - (low + high) / 2)
    return boxed


def fault_in_espresso(output: str) -> tuple[Reason, str] | None:
    """Return what is wrong with a calculation of Quantum ESPRESSO, by what pw.x wrote; None where nothing is.

    ASE reads an energy wherever one stands, and pw.x can be made to write one without convergence.
    """
    error = ESPRESSO_ERROR.search(output)
    if error is not None:
        routine, message = error["routine"], error["message"].strip()
        return ESPRESSO_REASONS.get(routine, "crash"), f"pw.x: {message} (in {routine})"
    if "convergence NOT achieved" in output:
        return "scf_not_converged", "pw.x: convergence NOT achieved"
    if "JOB DONE." not in output:
        return "crash", "pw.x ended in the middle"
    threshold, accuracies = ESPRESSO_THRESHOLD.search(output), ESPRESSO_ACCURACY.findall(output)
    if threshold is None or not accuracies or not _number(accuracies[-1]) <= _number(threshold[1]):
        return "scf_not_converged", f"pw.x: the last accuracy is {accuracies[-1] if accuracies else 'not there'}"
    return None


def _number(text: str) -> float:
    try:
        return float(text.replace("D", "E"))
    except ValueError:
        return np.nan  # stars, where a number does not fit
