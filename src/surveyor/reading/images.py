"""Structure files as ASE reads them."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import ase.io
from ase import Atoms
from ase.io.extxyz import key_val_str_to_dict

from surveyor.errors import InputError
from surveyor.reading.stress import is_symmetric

# The exceptions that ASE's readers raise on a malformed file: there is no common class.
UNREADABLE = (
    ase.io.formats.UnknownFileTypeError,
    ArithmeticError,
    AssertionError,
    AttributeError,
    LookupError,
    OSError,
    RuntimeError,
    StopIteration,
    TypeError,
    ValueError,
)


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
            yield atoms
            n_read += 1
    except UNREADABLE as error:
        where = f", after {n_read} that can" if n_read else ""
        raise InputError(
            f"{path} cannot be read as structures{where} ({type(error).__name__}: {error}); "
            "expected a format that ASE reads, such as extxyz"
        ) from error
    if not n_read:
        raise InputError(f"{path} holds no structure")


def _properties(line: str) -> dict[str, Any]:  # Any: whatever the file holds
    """Return the fields in the second line of a structure in an extxyz file.

    ASE takes the upper half of `stress` without a look at the lower one.

    Raises:
        ValueError: the stress is not symmetric.
    """
    fields: dict[str, Any] = key_val_str_to_dict(line)
    stress = fields.get("stress")
    if stress is not None and not is_symmetric(stress):
        raise ValueError(f"stress is not symmetric: {stress.tolist()}")
    return fields


def read_images(path: Path) -> list[Atoms]:
    """Return all structures of a file as ASE reads them, with the results that they carry.

    Raises:
        InputError: as in `images_in`.
    """
    return list(images_in(path))
