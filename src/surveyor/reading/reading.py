"""Reading files of structures and labels in steps, each of which gives meaning to some fields."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

from ase import Atoms

from surveyor.dataset import OWN_FIELDS
from surveyor.dataset.weights import is_counted
from surveyor.errors import InputError
from surveyor.reading.electrons import note_electrons, read_electrons
from surveyor.reading.images import images_in, unread_electrons
from surveyor.reading.keys import LOPSIDED, REF_KEYS, LabelKeys, in_parameters
from surveyor.reading.labels import pass_over_label, read_label
from surveyor.reading.report import Notes, ReadingReport
from surveyor.reading.sites import CONSTRAINTS, read_kinds, read_masses, read_motion, read_sites
from surveyor.structures import canonical, check_structure, check_structures

# Takes a structure as the step before left it, with the fields of the file; returns it with fields that surveyor knows.
Step = Callable[[Atoms, Notes], Atoms]
COORDINATES = ("numbers", "positions")  # ASE's own arrays, which are always used

REFUSED = "fields contradict each other or cannot be used; these structures are refused"  # the finding

STARTS: tuple[Step, ...] = (read_sites, read_electrons, read_kinds, read_masses, pass_over_label)
TO_LABEL: tuple[Step, ...] = (read_sites, read_electrons, read_kinds, pass_over_label)
# Before the labels are read:
GIVEN_DATA: tuple[Step, ...] = (read_sites, read_electrons, read_kinds)  # compared with the reference
TRAINING_DATA: tuple[Step, ...] = (read_sites, note_electrons)


@dataclass(frozen=True, slots=True)
class Reading:
    """The structures of a file, and the report on their reading.

    Attributes:
        structures: structures in canonical coordinates, in the order of the file.
        report: report on the fields and findings.
        refused: reasons why structures cannot be used, by index; empty if one such structure makes the file unusable.
        indices: index of each structure in the file; empty if none was left out.
    """

    structures: list[Atoms]
    report: ReadingReport
    refused: Mapping[int, str] = field(default_factory=dict)
    indices: tuple[int, ...] = ()

    @property
    def numbered(self) -> dict[int, Atoms]:
        """The structures by their index in the file."""
        return dict(zip(self.indices or range(len(self.structures)), self.structures, strict=True))


def read_in_steps(path: Path, steps: Sequence[Step], parameter: str = "", *, keeps_refused: bool = False) -> Reading:
    """Read all structures of a file in any format that ASE knows, in canonical coordinates.

    The images of the file are not kept: a structure is in memory once.

    Raises:
        InputError: the file is missing, cannot be read, or holds no structure; or a step refuses one, which is named by
            its index.
    """
    notes, found, structures, refused = Notes(), dict[str, None](), [], {}
    unread = unread_electrons(path) if read_electrons in steps else ""
    for notes.index, image in enumerate(images_in(path)):
        if unread:
            notes.warn(unread)
        found |= dict.fromkeys(_fields(image))
        atoms = image
        try:
            for step in steps:
                atoms = step(atoms, notes)
        except InputError as error:
            if not keeps_refused:
                raise InputError(f"structure {notes.index} of {path}: {error}") from error
            refused[notes.index] = str(error)
            notes.warn(REFUSED)
        structures.append(canonical(atoms))
        structures[-1].info.pop(LOPSIDED, None)
    unused = tuple(name for name in found if name not in notes.used and name not in OWN_FIELDS)
    report = ReadingReport(path, len(structures), notes.used, unused, notes.findings, parameter)
    return Reading(structures, report, refused)


@contextmanager
def _naming(parameter: str) -> Iterator[None]:
    """Begin messages with the parameter that names the file, if there is one."""
    try:
        yield
    except InputError as error:
        raise InputError(f"{parameter}: {error}".removeprefix(": ")) from error


def _fields(atoms: Atoms) -> list[str]:
    """Return the names of the fields, columns and results that a file gives a structure."""
    own = ["stress" if name == LOPSIDED else name for name in atoms.info]
    results = [] if atoms.calc is None else list(atoms.calc.results)
    constraints = [CONSTRAINTS] if atoms.constraints else []
    return [*own, *(name for name in atoms.arrays if name not in COORDINATES), *results, *constraints]


def read_structures(path: Path, parameter: str = "", *, with_momenta: bool = False) -> Reading:
    """Read the starts of walkers, and check them.

    Raises:
        InputError: as in `read_in_steps`; or a structure cannot be worked with.
    """
    with _naming(parameter):
        reading = read_in_steps(path, (*STARTS, read_motion(with_momenta=with_momenta)), parameter)
        check_structures(reading.structures, str(path))
    return reading


def read_unchecked(path: Path, parameter: str = "") -> Reading:
    """Read structures to label; those that cannot be labelled are returned separately, with the reason.

    Raises:
        InputError: the file is missing, cannot be read, or contains no structure.
    """
    with _naming(parameter):
        return read_in_steps(path, TO_LABEL, parameter, keeps_refused=True)


def read_labelled(
    path: Path,
    parameter: str,
    steps: Sequence[Step] = TRAINING_DATA,
    keys: LabelKeys = REF_KEYS,
    keys_field: str = "label_keys",
) -> Reading:
    """Read labelled structures that a user gives, and check them; those whose labels have weight 0 are left out.

    Args:
        path: the file.
        parameter: that names it, for the report and for messages.
        steps: of the reading before that of the labels; charge and spin matter in `GIVEN_DATA` alone.
        keys: names of the labels in the file.
        keys_field: that takes these names, for messages.

    Raises:
        InputError: as in `read_in_steps`; or a structure cannot be worked with, has no label, or an incomplete one; or
            all are left out.
    """
    step = partial(read_label, keys=keys, advice=in_parameters(keys_field))
    with _naming(parameter):
        reading = read_in_steps(path, (*steps, step), parameter)
        counted = {index: atoms for index, atoms in enumerate(reading.structures) if is_counted(atoms)}
        for index, atoms in counted.items():
            check_structure(atoms, f"structure {index} of {path}")
        if not counted:
            raise InputError(f"the labels of all structures of {path} have weight 0; expected some that count")
    if len(counted) == len(reading.structures):
        return reading
    return replace(reading, structures=[*counted.values()], indices=tuple(counted))
