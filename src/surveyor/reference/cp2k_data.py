"""The data files of a CP2K input: entries of basis sets and pseudopotentials, and whole parameter files."""

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from difflib import get_close_matches
from functools import lru_cache
from pathlib import Path
from typing import Any

from ase.data import chemical_symbols

from surveyor.errors import InputError
from surveyor.reference.cp2k_input import CP2KInput, Tree, element_of, sections_of
from surveyor.reference.cp2k_normal import normal
from surveyor.reference.cp2k_repair import without_solver

SYMBOLS = frozenset(symbol.upper() for symbol in chemical_symbols)

# Keywords that name a file which is used as a whole, by their sections, with CP2K's own defaults.
PARAMETER_FILES = {
    "PAIR_POTENTIAL": ("PARAMETER_FILE_NAME", None),
    "GCP_POTENTIAL": ("PARAMETER_FILE_NAME", None),
    "NON_LOCAL": ("KERNEL_FILE_NAME", "vdW_kernel_table.dat"),
    "INTERACTION_POTENTIAL": ("T_C_G_DATA", "t_c_g.dat"),
    "RI_METRIC": ("T_C_G_DATA", "t_c_g.dat"),
}


def science_of(given: CP2KInput, directory: Path, *, is_normal: bool = True) -> Tree:
    """Return the content on which a label depends: the input in canonical order, with contents in place of file names.

    Settings of the solver that a repair may change do not belong to it. It is the same for all inputs of the same
    science (`cp2k_normal`).

    Args:
        given: an input.
        directory: CP2K's data directory.
        is_normal: False gives the content that former versions of surveyor hashed. It depends on how the input is
            written, and on the choice of OT or diagonalisation.

    Raises:
        InputError: a file or an entry is missing.
    """
    tree = without_solver(given.force_eval, keeps_method=not is_normal)
    dft = tree["+DFT"]
    basis_files = {
        name: _read(name, directory, given.where("DFT/BASIS_SET_FILE_NAME", name))
        for name in dft.pop("BASIS_SET_FILE_NAME", ["BASIS_SET"])
    }
    potential_file = dft.pop("POTENTIAL_FILE_NAME", "POTENTIAL")
    files = dict(_take_parameter_files(given, tree, directory))
    tree = normal(tree) if is_normal else tree
    for kind in tree["+SUBSYS"]["+KIND"]:
        name = kind.pop("POTENTIAL_FILE_NAME", potential_file)
        potentials = {name: _read(name, directory, given.where("DFT/POTENTIAL_FILE_NAME", name))}
        _replace_names(given, kind, basis_files, potentials)
        if is_normal:
            _name_entries(kind, basis_files, potentials)
        kind["_"] = str(kind["_"]).upper()
    return {"input": _in_order(tree), "files": files}


def usable_part(given: CP2KInput, directory: Path) -> tuple[CP2KInput, dict[str, str]]:
    """Return an input without the kinds whose entries are missing, which may be needed by no structure.

    Returns:
        The input with the other kinds, and why the elements that are left out cannot be labelled.

    Raises:
        InputError: a file is missing, or no kind can be used.
    """
    usable: list[Tree] = []
    objections: dict[str, InputError] = {}
    for kind in given.force_eval["+SUBSYS"]["+KIND"]:
        try:
            science_of(_with_kinds(given, [kind]), directory, is_normal=False)
        except InputError as error:
            objections[element_of(kind)] = error
        else:
            usable.append(kind)
    if not usable:
        raise next(iter(objections.values()))
    part = _with_kinds(given, usable)
    treated = part.elements or ()
    return part, {element: str(error) for element, error in objections.items() if element not in treated}


def _with_kinds(given: CP2KInput, kinds: list[Tree]) -> CP2KInput:
    subsys = {**given.force_eval["+SUBSYS"], "+KIND": kinds}
    return replace(given, force_eval={**given.force_eval, "+SUBSYS": subsys})


def _take_parameter_files(given: CP2KInput, tree: Tree, directory: Path) -> Iterator[tuple[str, list[str]]]:
    hashes: dict[str, list[str]] = {}
    for path, section in sections_of(tree):
        keyword, default = PARAMETER_FILES.get(path.rpartition("/")[2], (None, None))
        if keyword is None:
            continue
        name = section.pop(keyword, None)
        if name is None and (default is None or not (directory / default).is_file()):
            continue
        content = _read(name or str(default), directory, given.where(f"{path}/{keyword}", name or ""))
        hashes.setdefault(f"{path}/{keyword}", []).append(_hash(content))
    for name, found in hashes.items():
        yield name, sorted(found)


def _replace_names(given: CP2KInput, kind: Tree, basis_files: Mapping[str, str], potentials: Mapping[str, str]) -> None:
    if str(kind["_"]).upper() == "DEFAULT":
        # Which entries it takes depends on the structure, so all of them count.
        kind["FILES"] = [_hash(text) for text in [*basis_files.values(), *potentials.values()]]
        return
    _replace_basis_sets(given, kind, basis_files)
    _replace_potential(given, kind, potentials)


def _replace_basis_sets(given: CP2KInput, kind: Tree, basis_files: Mapping[str, str]) -> None:
    section = f"SUBSYS/KIND {kind['_']}"
    if "BASIS_SET" in kind:
        words = [[str(word) for word in _listed(value)] for value in kind["BASIS_SET"]]
        kind["BASIS_SET"] = sorted(
            [
                *(word.upper() for word in types),
                _entry(given.where(f"{section}/BASIS_SET", name), element_of(kind), "basis set", name, basis_files),
            ]
            for *types, name in words
        )
    elif "+BASIS" not in kind:
        raise InputError(f"{given.where(section)} has no BASIS_SET")


def _replace_potential(given: CP2KInput, kind: Tree, potentials: Mapping[str, str]) -> None:
    element, section = element_of(kind), f"SUBSYS/KIND {kind['_']}"
    potential = [str(word) for word in _listed(kind.get("POTENTIAL", []))]
    if potential and (potential[0].upper() == "ECP" or str(kind.get("POTENTIAL_TYPE", "")).upper() == "ECP"):
        kind["POTENTIAL"] = [element, *potential, *(_hash(text) for text in potentials.values())]
    elif potential:
        where = given.where(f"{section}/POTENTIAL", potential[-1])
        kind["POTENTIAL"] = _entry(where, element, "pseudopotential", potential[-1], potentials)
    elif "+POTENTIAL" not in kind and not kind.get("GHOST"):
        raise InputError(f"{given.where(section)} has no POTENTIAL")


def _name_entries(kind: Tree, basis_files: Mapping[str, str], potentials: Mapping[str, str]) -> None:
    """Give entries of equal content the name that comes first in their files, and leave out the usual type ORB."""
    if str(kind["_"]).upper() == "DEFAULT":
        return
    element = element_of(kind)
    if "BASIS_SET" in kind:
        named = [[*types, _first_name(entry, element, basis_files)] for *types, entry in kind["BASIS_SET"]]
        kind["BASIS_SET"] = sorted(each[1:] if each[0] == "ORB" else each for each in named)
    if isinstance(kind.get("POTENTIAL"), str):
        kind["POTENTIAL"] = _first_name(kind["POTENTIAL"], element, potentials)


def _first_name(entry: str, element: str, texts: Mapping[str, str]) -> str:
    name, _, digest = entry.partition(" ")
    alike = (
        each.names[0]
        for text in texts.values()
        for each in entries_of(text, element)
        if each.names and _hash(each.content) == digest
    )
    return f"{next(alike, name)} {digest}"


def _listed(value: Any) -> list[Any]:  # Any: a value of a keyword, one or several
    return value if isinstance(value, list) else [value]


def _entry(where: str, element: str, what: str, name: str, texts: Mapping[str, str]) -> str:
    for text in texts.values():
        content = find_entry(text, element, name)
        if content is not None:
            return f"{name.upper()} {_hash(content)}"
    available = [entry for text in texts.values() for entry in names_of_entries(text, element)]
    similar = get_close_matches(name.upper(), available, n=3, cutoff=0.4) or available[:3]
    there_are = f"there are {', '.join(similar)}" if similar else f"they have none for {element}"
    raise InputError(f"{where}: {what} {name} for {element} is not in {', '.join(texts)}; {there_are}")


def find_entry(text: str, element: str, name: str) -> str | None:
    """Return the numbers of an entry of a file of basis sets or pseudopotentials; None if there is no such entry.

    Args:
        text: content of the file.
        element: symbol of the element.
        name: one of the names of the entry; as in CP2K, case is ignored and the first match is used.
    """
    return next((entry.content for entry in entries_of(text, element) if name.upper() in entry.names), None)


def names_of_entries(text: str, element: str) -> list[str]:
    """Return the names, in upper case, of all entries for an element."""
    return [name for entry in entries_of(text, element) for name in entry.names]


@dataclass(frozen=True, slots=True)
class Entry:
    """An entry of a file of basis sets or pseudopotentials.

    Attributes:
        names: in upper case.
        content: its numbers, without comments.
    """

    names: tuple[str, ...]
    content: str


@lru_cache(maxsize=16)
def entries_of(text: str, element: str) -> tuple[Entry, ...]:
    """Return all entries of a file for an element, in their order."""
    found: list[tuple[tuple[str, ...], list[str]]] = []
    is_wanted = False
    for words in _lines(text):
        if words[0] in SYMBOLS:
            is_wanted = words[0] == element.upper()
            if is_wanted:
                found.append((tuple(words[1:]), []))
        elif is_wanted:
            found[-1][1].append(" ".join(words))
    return tuple(Entry(names, "\n".join(body)) for names, body in found)


def _lines(text: str) -> Iterator[list[str]]:
    for line in text.splitlines():
        words = line.partition("#")[0].partition("!")[0].upper().split()
        if words:
            yield words


def _read(name: str, directory: Path, where: str) -> str:
    path = directory / name
    try:
        return path.read_text(errors="replace")
    except OSError as error:
        raise InputError(
            f"{where}: the data file {name!r} cannot be read in {directory}: {error.strerror}; "
            "correct the name (a comment behind it is part of it), give the full path, or set the data directory"
        ) from error


def _hash(content: str) -> str:
    return hashlib.sha256(content.encode()).hexdigest()


def _in_order(value: Any) -> Any:  # Any: a tree or a part of one
    # Repeated sections have no order; repeated keywords and lists of numbers may have one.
    if isinstance(value, dict):
        return {name: _in_order(inner) for name, inner in sorted(value.items())}
    if isinstance(value, list) and all(isinstance(inner, dict) for inner in value):
        return sorted((_in_order(inner) for inner in value), key=str)
    return value
