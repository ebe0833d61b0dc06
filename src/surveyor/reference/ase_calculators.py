"""The calculators in ASE's list: which are supported, and the properties of a structure passed to each."""

import re
from collections.abc import Mapping
from difflib import get_close_matches
from typing import Any

from ase import Atoms
from ase.calculators import names as ase_names
from pydantic import JsonValue

from surveyor.reference.ase_espresso import WITHOUT_CELL, check_espresso, espresso_arguments, in_box
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
    """Check that the arguments of a calculator define the calculation, and nothing else.

    Raises:
        ValueError: one of them belongs to the site or to surveyor.
    """
    of_site = [each for each in arguments if OF_THE_SITE.fullmatch(each)]
    if of_site:
        raise ValueError(
            f"{', '.join(of_site)} of {name} is no level of theory; how a program is run is said by ASE's "
            "configuration, at the site"
        )
    reserved = set(ELECTRONS.get(name, ())) & set(arguments)
    if reserved:
        raise ValueError(
            f"{', '.join(sorted(reserved))} of {name} is set by surveyor, for each structure; leave it out"
        )
    if name == "espresso":
        check_espresso(arguments)


def treats_charge(name: str) -> bool:
    """Return whether the charge of a structure is passed to a calculator."""
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
        return WITHOUT_CELL
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


def placed(name: str, atoms: Atoms) -> Atoms:
    """Return a structure as a calculator gets it: in a box where it needs one, see `periodicity_rule`."""
    return in_box(atoms) if name == "espresso" and not is_periodic(atoms) else atoms


def arguments_for(name: str, arguments: Arguments, atoms: Atoms) -> dict[str, Any]:  # Any: JSON values
    """Return the arguments of a calculator for one structure: those given, with its charge and multiplicity."""
    if name in ELECTRONS:
        charge, multiplicity = ELECTRONS[name]
        return {**arguments, charge: charge_of(atoms), multiplicity: multiplicity_of(atoms)}
    return espresso_arguments(arguments, atoms) if name == "espresso" else dict(arguments)
