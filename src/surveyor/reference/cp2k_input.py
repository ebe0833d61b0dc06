"""Inputs of CP2K: read once, kept as a tree of sections, written for each structure.

In a tree, sections are dicts under "+NAME", keywords are values under "NAME", the parameter of a section is under "_";
what may be repeated is a list. Names and enumerated values are in upper case, values in CP2K's default units.
"""

import re
from collections.abc import Callable, Iterator, Mapping
from copy import deepcopy
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms
from ase.data import atomic_numbers

from surveyor.errors import InputError
from surveyor.reference.cp2k_lines import Places
from surveyor.reference.cp2k_scope import check_scope
from surveyor.structures import canonical, charge_of, is_periodic, kinds_of, multiplicity_of

Tree = dict[str, Any]  # Any: sections, values, and lists of both

VACUUM_A = 5.0
WITHOUT_CELL = (
    "not periodic: in the middle (to a whole Å) of a cubic box, whose edge is the smallest even number of Å that "
    "leaves 5 Å on each side; POISSON_SOLVER WAVELET unless the input names another one than PERIODIC"
)
FORCE_DIGITS = 14
PROJECT = "label"
WAVEFUNCTION = f"{PROJECT}-RESTART.wfn"
COMMENT_BEHIND = re.compile(r"\s[!#]")
KIND_NAME = re.compile(r"(?P<symbol>[A-Za-z]{1,2})(?:[\d_-].*)?")


@dataclass(frozen=True, slots=True)
class CP2KInput:
    """The scientific part of an input: one FORCE_EVAL without structure and print sections.

    Attributes:
        force_eval: tree of the section.
        charge: total charge stated in the input, or None.
        multiplicity: multiplicity stated in the input, or None.
        lines: numbers and texts of its lines, by section and keyword, for messages.
        unknown: unknown keywords and sections that are passed on, for messages.
    """

    force_eval: Mapping[str, Any] = field(hash=False)  # Any: a tree
    charge: int | None = None
    multiplicity: int | None = None
    lines: Mapping[str, tuple[str, ...]] = field(default_factory=dict, compare=False)
    unknown: tuple[str, ...] = field(default=(), compare=False)

    @property
    def dft(self) -> Tree:
        """The section FORCE_EVAL/DFT."""
        dft: Tree = self.force_eval["+DFT"]
        return dft

    @property
    def kinds(self) -> dict[str, Tree]:
        """The sections FORCE_EVAL/SUBSYS/KIND by their names in upper case."""
        return {str(kind["_"]).upper(): kind for kind in self.force_eval["+SUBSYS"]["+KIND"]}

    @property
    def elements(self) -> tuple[str, ...] | None:
        """Symbols of the elements that have a kind, by atomic number; None if a kind applies to all elements."""
        if "DEFAULT" in self.kinds:
            return None
        symbols = {element_of(kind) for kind in self.kinds.values()}
        return tuple(sorted(symbols, key=lambda symbol: atomic_numbers[symbol]))

    def where(self, path: str, value: str = "") -> str:
        """Return a section or keyword with its line, for messages.

        Args:
            path: below FORCE_EVAL, such as SUBSYS/KIND H/BASIS_SET.
            value: what the line contains, where the keyword is repeated.
        """
        lines = self.lines.get(f"FORCE_EVAL/{path}", ())
        words = {line: re.split(r"[\s'\"]+", line.upper()) for line in lines}
        line = next((line for line in lines if not value or value.upper() in words[line]), None)
        return f"FORCE_EVAL/{path} of the CP2K input" + ("" if line is None else f" ({line})")

    @property
    def distinguishes_kinds(self) -> bool:
        """True if some kind has another name than its element."""
        return any(
            name not in ("DEFAULT", element_of(kind).upper()) for name, kind in self.kinds.items() if name != "DEFAULT"
        )


def read_input(
    text: str, folder: Path | None = None, description: Path | None = None, data: Callable[[], Path] | None = None
) -> CP2KInput:
    """Read a CP2K input, whole or its FORCE_EVAL.

    Sections other than FORCE_EVAL, the structure and print sections are left out. Unknown keywords and
    sections are passed on with a warning.

    Args:
        text: the input.
        folder: folder of included files; None if the input may include only CP2K's own files.
        description: XML description of the input of a CP2K version; by default that of the library.
        data: returns CP2K's data directory, for included files that are not in the folder.

    Raises:
        InputError: the input does not define a calculation of energy and forces with density functional theory.
    """
    from surveyor.reference.cp2k_syntax import parse  # it takes a second to import

    parsed = parse(text, Places(folder, data), description)
    sections = parsed.tree.get("+FORCE_EVAL", [])
    if len(sections) != 1:
        raise InputError(f"the CP2K input has {len(sections)} sections FORCE_EVAL, expected one")
    force_eval = _without_printing(sections[0])
    check_scope(force_eval, CP2KInput(force_eval, lines=parsed.lines).where)
    kinds = force_eval.get("+SUBSYS", {}).get("+KIND", [])
    if not kinds or any("_" not in kind for kind in kinds):
        raise InputError(
            "the CP2K input has no SUBSYS/KIND, or one without a name; "
            "give one for each element, with BASIS_SET and POTENTIAL"
        )
    force_eval["+SUBSYS"] = {"+KIND": kinds}
    dft = force_eval["+DFT"]
    dft.get("+POISSON", {}).pop("PERIODIC", None)
    charge, multiplicity = dft.pop("CHARGE", None), dft.pop("MULTIPLICITY", None)
    force_eval["METHOD"] = "QS"
    if force_eval.get("STRESS_TENSOR", "NONE") == "NONE":
        force_eval["STRESS_TENSOR"] = "ANALYTICAL"
    stated = multiplicity or None  # 0 is how CP2K writes "the lowest"
    found = CP2KInput(force_eval, charge, stated, parsed.lines, parsed.unknown)
    _check_comments(found)
    return found


def _check_comments(given: CP2KInput) -> None:
    # Keywords of CP2K's type string take the rest of the line, and most of them are names of files.
    for path, section in sections_of(given.force_eval):
        for name, value in section.items():
            for text in value if isinstance(value, list) else [value]:
                if name != "*" and isinstance(text, str) and COMMENT_BEHIND.search(text):
                    raise InputError(
                        f"{given.where(f'{path}/{name}', text.split()[0])}: CP2K takes the comment for a part of the "
                        "value; write the comment on a line of its own"
                    )


def _without_printing(section: Tree) -> Tree:
    return {
        name: [_without_printing(each) if isinstance(each, dict) else each for each in value]
        if isinstance(value, list)
        else _without_printing(value)
        if isinstance(value, dict)
        else value
        for name, value in section.items()
        if name != "+PRINT"
    }


def element_of(kind: Mapping[str, Any]) -> str:  # Any: a tree
    """Return the symbol of the element of a kind.

    Raises:
        InputError: neither ELEMENT nor the name of the kind gives an element.
    """
    name = str(kind["_"])
    match = KIND_NAME.fullmatch(name)
    symbol = str(kind.get("ELEMENT", match["symbol"] if match else name)).capitalize()
    if symbol not in atomic_numbers:
        raise InputError(f"KIND {name} of the CP2K input is of no known element; add ELEMENT with its symbol")
    return symbol


def sections_of(tree: Mapping[str, Any], path: str = "") -> Iterator[tuple[str, Tree]]:  # Any: a tree
    """Yield all sections of a tree with their paths, such as "DFT/XC"; those that are repeated share one path."""
    for name, value in tree.items():
        if not name.startswith("+"):
            continue
        inner = f"{path}/{name[1:]}".removeprefix("/")
        for section in value if isinstance(value, list) else [value]:
            yield inner, section
            yield from sections_of(section, inner)


def place(atoms: Atoms) -> Atoms:
    """Return a structure as it is computed: one without a cell is put into a box, see `WITHOUT_CELL`."""
    placed = canonical(atoms)
    if is_periodic(atoms):
        return placed
    low, high = placed.positions.min(axis=0), placed.positions.max(axis=0)
    edge = 2 * np.ceil(((high - low).max() + 2 * VACUUM_A) / 2)
    placed.set_cell(np.eye(3) * edge, scale_atoms=False)
    # By whole Å, so that the grid does not move under the atoms when one of them does.
    placed.positions += np.round(edge / 2 - (low + high) / 2)
    return canonical(placed)


def write_input(science: CP2KInput, atoms: Atoms, *, keeps_wavefunction: bool = False) -> str:
    """Return the input for the energy, forces and stress of a structure.

    Args:
        science: the level of theory.
        atoms: as `place` gives it, with charge and multiplicity.
        keeps_wavefunction: whether CP2K writes `WAVEFUNCTION`, from which another run can begin.
    """
    from surveyor.reference.cp2k_syntax import write  # it takes a second to import

    force_eval: Tree = deepcopy(dict(science.force_eval))
    periodic = "XYZ" if is_periodic(atoms) else "NONE"
    _set_electrons(force_eval["+DFT"], atoms)
    poisson = force_eval["+DFT"].setdefault("+POISSON", {})
    poisson["PERIODIC"] = periodic
    if periodic == "NONE" and poisson.get("POISSON_SOLVER", "PERIODIC") == "PERIODIC":
        poisson["POISSON_SOLVER"] = "WAVELET"
    force_eval["+DFT"].setdefault("+SCF", {})["+PRINT"] = {
        "+RESTART": {"_": "ON", "BACKUP_COPIES": 0} if keeps_wavefunction else {"_": "OFF"}
    }
    force_eval["+PRINT"] = {"+FORCES": {"_": "ON", "NDIGITS": FORCE_DIGITS}}
    if is_periodic(atoms):
        force_eval["+PRINT"]["+STRESS_TENSOR"] = {"_": "ON"}
    else:
        force_eval["STRESS_TENSOR"] = "NONE"
    cell = {name: vector.tolist() for name, vector in zip("ABC", atoms.cell.array, strict=True)}
    places = zip(kinds_of(atoms), atoms.positions, strict=True)
    force_eval["+SUBSYS"] |= {
        "+CELL": {**cell, "PERIODIC": periodic},
        "+COORD": {"*": [f"{kind} {x:.8f} {y:.8f} {z:.8f}" for kind, (x, y, z) in places]},
        "+PRINT": {"+ATOMIC_COORDINATES": {"_": "ON"}},
    }
    run = {"PROJECT_NAME": PROJECT, "RUN_TYPE": "ENERGY_FORCE", "PRINT_LEVEL": "LOW"}
    # The default, ELPA, ends with a segmentation fault on some machines.
    run["PREFERRED_DIAG_LIBRARY"] = "SCALAPACK"
    return write({"+GLOBAL": run, "+FORCE_EVAL": [force_eval]})


def _set_electrons(dft: Tree, atoms: Atoms) -> None:
    dft["CHARGE"], dft["MULTIPLICITY"] = charge_of(atoms), multiplicity_of(atoms)
    if multiplicity_of(atoms) > 1 and not {"UKS", "ROKS"} & dft.keys():
        dft["UKS"] = True
