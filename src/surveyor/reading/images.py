"""Structure files as ASE reads them."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import ase.io
from ase import Atoms
from ase.data import chemical_symbols
from ase.io.extxyz import key_val_str_to_dict

from surveyor.errors import UNFORESEEN, InputError
from surveyor.reading.keys import LOPSIDED
from surveyor.reading.stress import is_symmetric

ISOTOPES = {"D": 2.014, "T": 3.016}  # with masses in u
UNKNOWN = re.compile(r"^(Could not parse species from label )?(?P<symbol>[A-Za-z]{1,2}\d?|\d+)\.?$")  # a KeyError

UNREADABLE = (*UNFORESEEN, OSError, StopIteration, ase.io.formats.UnknownFileTypeError)  # of a malformed file


def images_in(path: Path) -> Iterator[Atoms]:
    """Give the structures of a file one by one as ASE reads them, with the results that they carry.

    Raises:
        InputError: the file is missing, cannot be read, or holds no structure.
    """
    if not path.is_file():
        raise InputError(f"structure file {path} does not exist")
    n_read = 0
    try:
        options = {"properties_parser": _properties} if ase.io.formats.filetype(str(path)) == "extxyz" else {}
        for atoms in ase.io.iread(path, index=":", **options):
            _check_numbers(atoms, f"structure {n_read} of {path}")
            yield atoms
            n_read += 1
    except InputError:
        raise
    except UNREADABLE as error:
        symbol = _unknown_symbol(error)
        if symbol is not None:
            raise InputError(f"structure {n_read} of {path}: {_advice(symbol)}") from error
        where = f", after {n_read} that can" if n_read else ""
        raise InputError(
            f"{path} cannot be read as structures{where} ({type(error).__name__}: {error}); "
            "expected a format that ASE reads, such as extxyz"
        ) from error
    if not n_read:
        raise InputError(f"{path} holds no structure")


def _properties(line: str) -> dict[str, Any]:  # Any: whatever the file holds
    """Return the fields in the second line of a structure in an extxyz file.

    ASE uses the upper triangle of `stress` and ignores the lower one. A stress that is not symmetric gets the name
    `LOPSIDED`, so that it can be refused where it is used.
    """
    fields: dict[str, Any] = key_val_str_to_dict(line)
    if "stress" in fields and not is_symmetric(fields["stress"]):
        fields[LOPSIDED] = fields.pop("stress")
    return fields


def _check_numbers(atoms: Atoms, name: str) -> None:
    """Check that each atomic number is one that ASE has a symbol for, without which no file can be written."""
    unknown = atoms.numbers[(atoms.numbers < 0) | (atoms.numbers >= len(chemical_symbols))]
    if len(unknown):
        raise InputError(f"{name}: found the atomic number {unknown[0]}, which is of no chemical element")


def _unknown_symbol(error: Exception) -> str | None:
    """Return the symbol that ASE's readers do not know; None where that is not why they failed."""
    found = UNKNOWN.match(str(error.args[0])) if isinstance(error, KeyError) and error.args else None
    return found["symbol"] if found else None


def _advice(symbol: str) -> str:
    if symbol.capitalize() in ISOTOPES:
        mass = ISOTOPES[symbol.capitalize()]
        return f"found the symbol {symbol}, an isotope of hydrogen; write H, and a column masses with {mass} (u)"
    return f"found {symbol!r}, which is no symbol of a chemical element; correct the file"
