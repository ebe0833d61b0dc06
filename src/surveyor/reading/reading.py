"""Reading files of structures and labels in steps, each of which gives meaning to some fields."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from ase import Atoms

from surveyor.dataset import OWN_FIELDS
from surveyor.errors import InputError
from surveyor.reading.images import read_images
from surveyor.reading.keys import REF_KEYS, LabelKeys, in_parameters
from surveyor.reading.labels import read_label
from surveyor.reading.report import Notes, ReadingReport
from surveyor.structures import canonical, check_structure, check_structures
from surveyor.weights import is_counted

# Takes a structure as the step before left it, with the fields of the file; returns it with fields that surveyor knows.
Step = Callable[[Atoms, Notes], Atoms]
COORDINATES = ("numbers", "positions")  # ASE's own arrays, which are always used


@dataclass(frozen=True, slots=True)
class Reading:
    """The structures of a file, and the report on their reading.

    Attributes:
        structures: in canonical coordinates, in the order of the file.
        report: which fields were used, and what was found.
    """

    structures: list[Atoms]
    report: ReadingReport


def read_in_steps(path: Path, steps: Sequence[Step]) -> Reading:
    """Read all structures of a file in any format that ASE knows, in canonical coordinates.

    Args:
        path: the file.
        steps: in this order.

    Raises:
        InputError: the file is missing, cannot be read, or holds no structure; or a step refuses one, which is named by
            its index.
    """
    notes, found, structures = Notes(), dict[str, None](), []
    for notes.index, atoms in enumerate(read_images(path)):
        found |= dict.fromkeys(_fields(atoms))
        try:
            for step in steps:
                atoms = step(atoms, notes)
        except InputError as error:
            raise InputError(f"structure {notes.index} of {path}: {error}") from error
        structures.append(canonical(atoms))
    unused = tuple(name for name in found if name not in notes.used and name not in OWN_FIELDS)
    return Reading(structures, ReadingReport(path, len(structures), notes.used, unused, notes.findings))


def _fields(atoms: Atoms) -> list[str]:
    """Return the names of the fields, columns and results that a file gives a structure."""
    results = [] if atoms.calc is None else list(atoms.calc.results)
    return [*atoms.info, *(name for name in atoms.arrays if name not in COORDINATES), *results]


def read_structures(path: Path) -> Reading:
    """Read structures without labels, such as the starts of walkers, and check them.

    Raises:
        InputError: as in `read_in_steps`; or a structure cannot be worked with.
    """
    reading = read_unchecked(path)
    check_structures(reading.structures, str(path))
    return reading


def read_unchecked(path: Path) -> Reading:
    """Read structures without labels, whatever they are.

    Raises:
        InputError: as in `read_in_steps`.
    """
    return read_in_steps(path, ())


def read_labelled(path: Path, field: str, keys: LabelKeys = REF_KEYS, keys_field: str = "keys") -> Reading:
    """Read labelled structures that a user gives, and check them; those whose labels have weight 0 are left out.

    Args:
        path: the file.
        field: that names it, for messages.
        keys: names of the labels in the file.
        keys_field: that takes these names, for messages.

    Raises:
        InputError: as in `read_in_steps`; or a structure cannot be worked with, has no label, or an incomplete one; or
            all are left out.
    """
    try:
        reading = read_in_steps(path, (partial(read_label, keys=keys, advice=in_parameters(keys_field)),))
    except InputError as error:
        raise InputError(f"{field}: {error}") from error
    for index, atoms in enumerate(reading.structures):
        if is_counted(atoms):
            check_structure(atoms, f"structure {index} of {path}")
    counted = [atoms for atoms in reading.structures if is_counted(atoms)]
    if not counted:
        raise InputError(f"{field}: the labels of all structures of {path} have weight 0; expected some that count")
    return replace(reading, structures=counted)
