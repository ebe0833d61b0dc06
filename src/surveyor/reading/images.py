"""Structure files as ASE reads them."""

from collections.abc import Iterator
from pathlib import Path

import ase.io
from ase import Atoms

from surveyor.errors import InputError

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
        for atoms in ase.io.iread(path, index=":"):
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


def read_images(path: Path) -> list[Atoms]:
    """Return all structures of a file as ASE reads them, with the results that they carry.

    Raises:
        InputError: as in `images_in`.
    """
    return list(images_in(path))
