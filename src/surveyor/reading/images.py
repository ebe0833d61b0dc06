"""Structure files as ASE reads them."""

import re
import sqlite3
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import ase.db
import ase.io
from ase import Atoms
from ase.data import chemical_symbols
from ase.io.extxyz import key_val_str_to_dict

from surveyor.errors import UNFORESEEN, InputError
from surveyor.reading.keys import LOPSIDED
from surveyor.reading.stress import is_symmetric

ISOTOPES = {"D": 2.014, "T": 3.016}  # with masses in u
UNKNOWN = re.compile(r"^(Could not parse species from label )?(?P<symbol>[A-Za-z]{1,2}\d?|\d+)\.?$")  # a KeyError

# The exceptions that ASE's readers raise on a malformed file.
UNREADABLE = (
    *UNFORESEEN,
    ase.io.ParseError,
    ase.io.formats.UnknownFileTypeError,
    EOFError,  # a compressed file that was cut off
    ImportError,  # formats that need a further package
    NameError,
    OSError,
    StopIteration,
    SyntaxError,  # broken XML
    sqlite3.Error,
    zlib.error,
)
CHARGED_ATOM = re.compile(r"^M  (?:CHG|RAD)", re.MULTILINE)
# Formats that state charge and spin where ASE does not read them, and how they state others than 0 and the lowest.
STATED = {
    "sdf": CHARGED_ATOM,
    "mol": CHARGED_ATOM,
    "proteindatabank": re.compile(r"^(?:ATOM  |HETATM).{72}(?:[1-9][+-]|[+-][1-9])", re.MULTILINE),
    "gaussian-in": re.compile(r"^\s*(?!0[\s,]+1\s*$)-?\d+[\s,]+\d+\s*$", re.MULTILINE),
    "gaussian-out": re.compile(r"^ *Charge = +(?!0 +Multiplicity = 1\s)-?\d+ +Multiplicity", re.MULTILINE),
    "orca-output": re.compile(
        r"^ *(?:Total Charge +Charge +\.+ +(?!0\s)|Multiplicity +Mult +\.+ +(?!1\s))", re.MULTILINE
    ),
}
DATABASES = ("db", "json")  # formats of ASE's databases


def images_in(path: Path) -> Iterator[Atoms]:
    """Give the structures of a file one by one as ASE reads them, with the results that they carry.

    Raises:
        InputError: the file is missing, cannot be read, or holds no structure.
    """
    if not path.is_file():
        raise InputError(f"structure file {path} does not exist")
    n_read = 0
    try:
        for atoms in _images(path):
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


def unread_electrons(path: Path) -> str:
    """Return a warning for a file that states charge or spin where ASE does not read them; empty for all others."""
    try:
        kind = ase.io.formats.filetype(str(path))
    except UNREADABLE:  # the reader of the structures says so
        return ""
    if kind not in STATED or not STATED[kind].search(path.read_text(errors="replace")):
        return ""
    return (
        f"charges or spins that a file of format {kind} states are not read; unless charge 0 and the lowest "
        "multiplicity are meant, write an extxyz file with charge and multiplicity"
    )


def _images(path: Path) -> Iterator[Atoms]:
    kind = ase.io.formats.filetype(str(path))
    if kind in DATABASES:
        return _rows(path)
    options = {"properties_parser": _properties} if kind == "extxyz" else {}
    images: Iterator[Atoms] = ase.io.iread(path, index=":", **options)
    return images


def _rows(path: Path) -> Iterator[Atoms]:
    """Give the structures of one of ASE's databases with the pairs of key and value of their rows, and their data."""
    with ase.db.connect(path, serial=True) as database:
        for row in database.select():
            atoms = row.toatoms()
            pairs = {key: vars(row)[key] for key in row.key_value_pairs}  # a row's attribute `charge` is another one
            atoms.info |= {**pairs, **row.data}
            yield atoms


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
