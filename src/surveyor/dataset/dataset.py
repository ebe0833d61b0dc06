"""Datasets: immutable sequences of structures, with their labels in the fields that extxyz files carry."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, fields
from io import StringIO
from pathlib import Path
from typing import overload

import ase.io
import numpy as np
from ase import Atoms

from surveyor.files import write_atomically
from surveyor.labels import Label, LabelFailure
from surveyor.structures import canonical, is_periodic
from surveyor.words import number_of

ENERGY = "REF_energy"  # atoms.info, eV
FORCES = "REF_forces"  # atoms.arrays, eV/Å, shape (n_atoms, 3)
STRESS = "REF_stress"  # atoms.info, eV/Å³, six Voigt components, absent where the structure is not periodic
KEY = "label_key"  # atoms.info: the key of the label in the store
FAILURE = "failure"  # atoms.info: why there is no label
GIVEN = "given"  # atoms.info: where a structure comes from whose label was not requested by this campaign
MESSAGE = "failure_message"  # atoms.info: the same for people
OUTPUT = "failure_output"  # atoms.info: where the output of the failed calculation is
OWN_FIELDS = (KEY, FAILURE, GIVEN, MESSAGE, OUTPUT)  # that surveyor writes beside the label


def without_label(atoms: Atoms) -> Atoms:
    """Return a canonical copy of a structure without the label, or the failure, that it carries."""
    copy = canonical(atoms)
    for name in (ENERGY, STRESS, *OWN_FIELDS):
        copy.info.pop(name, None)
    copy.arrays.pop(FORCES, None)
    return copy


def with_label(atoms: Atoms, key: str | None, outcome: Label | LabelFailure) -> Atoms:
    """Return a canonical copy of a structure that carries its label, or the reason why it has none.

    Args:
        atoms: the structure.
        key: of the label; None where the structure cannot have one.
        outcome: the label, or why there is none.
    """
    copy = canonical(atoms)
    if key is not None:
        copy.info[KEY] = key
    if isinstance(outcome, LabelFailure):
        copy.info[FAILURE] = outcome.reason
        copy.info[MESSAGE] = outcome.message
        if outcome.output is not None:
            copy.info[OUTPUT] = outcome.output
        return copy
    copy.info[ENERGY] = outcome.energy
    copy.arrays[FORCES] = np.array(outcome.forces)
    if outcome.stress is not None:
        copy.info[STRESS] = np.array(outcome.stress)
    return copy


def is_labelled(atoms: Atoms) -> bool:
    """Return whether a structure carries energy and forces."""
    return ENERGY in atoms.info and FORCES in atoms.arrays


def label_of(atoms: Atoms) -> Label:
    """Return the label that a structure carries; a structure that is not periodic in three directions has no stress.

    Raises:
        ValueError: it carries none.
    """
    if not is_labelled(atoms):
        raise ValueError(f"{atoms} carries no label: expected {ENERGY} and {FORCES}")
    stress = atoms.info.get(STRESS) if is_periodic(atoms) else None
    return Label(
        energy=float(atoms.info[ENERGY]),
        forces=np.array(atoms.arrays[FORCES]),
        stress=None if stress is None else np.array(stress),
    )


class Dataset(Sequence[Atoms]):
    """An immutable sequence of structures; slices and sums are datasets again.

    Args:
        structures: taken as they are, in this order; not to be changed afterwards.

    Example:
        >>> from ase.build import molecule
        >>> water = Dataset([molecule("H2O"), molecule("H2O")])
        >>> len(water[:1] + water)
        3
    """

    __slots__ = ("_structures",)

    def __init__(self, structures: Iterable[Atoms] = ()) -> None:
        self._structures = tuple(structures)

    def __len__(self) -> int:
        return len(self._structures)

    def __iter__(self) -> Iterator[Atoms]:
        return iter(self._structures)

    @overload
    def __getitem__(self, index: int) -> Atoms: ...

    @overload
    def __getitem__(self, index: slice) -> "Dataset": ...

    def __getitem__(self, index: int | slice) -> "Atoms | Dataset":
        if isinstance(index, slice):
            return Dataset(self._structures[index])
        return self._structures[index]

    def __add__(self, other: Iterable[Atoms]) -> "Dataset":
        return Dataset((*self._structures, *other))

    def __repr__(self) -> str:
        return f"Dataset of {number_of(len(self), 'structure')}"

    def where(self, condition: Callable[[Atoms], bool]) -> "Dataset":
        """Return the structures that meet a condition, in order."""
        return Dataset(atoms for atoms in self if condition(atoms))

    def labelled(self) -> "Dataset":
        """Return the structures that carry a label."""
        return self.where(is_labelled)

    def failed(self) -> "Dataset":
        """Return the structures whose label failed."""
        return self.where(lambda atoms: FAILURE in atoms.info)

    def split(self, fraction: float) -> "tuple[Dataset, Dataset]":
        """Return the first structures, floor(fraction · n) of them, and the rest, both in order."""
        n_first = int(fraction * len(self))
        return self[:n_first], self[n_first:]

    def ordered_by_key(self) -> "Dataset":
        """Return the structures in the order of their labels' keys, which does not depend on the order of arrival."""
        return Dataset(sorted(self, key=lambda atoms: str(atoms.info.get(KEY, ""))))

    def keys(self) -> tuple[str, ...]:
        """Return the keys of the labels, in order, of those structures that have one."""
        return tuple(str(atoms.info[KEY]) for atoms in self if KEY in atoms.info)

    def save(self, path: Path | str) -> None:
        """Write an extxyz file, atomically; an empty dataset gives an empty file."""
        text = StringIO()
        if self._structures:
            ase.io.write(text, [_without_calculator(atoms) for atoms in self], format="extxyz")
        write_atomically(Path(path), text.getvalue())

    @classmethod
    def load(cls, path: Path | str) -> "Dataset":
        """Read an extxyz file that `save` wrote."""
        return cls(ase.io.read(path, index=":", format="extxyz"))


def _without_calculator(atoms: Atoms) -> Atoms:
    if atoms.calc is None:
        return atoms
    copy = atoms.copy()
    copy.calc = None
    return copy


@dataclass(frozen=True, slots=True)
class DataSets:
    """The data sets of a campaign so far; a structure stays in the set that it joined.

    Attributes:
        train: structures that models are fitted to.
        valid: structures that tell a training when to stop.
        test: structures that no training ever sees.
        failed: structures whose label failed.
        discarded: labelled structures that were kept from training, because the model was too far off there.
        pending: structures whose label was requested and had not arrived when the generation ended.
    """

    train: Dataset = field(default_factory=Dataset)
    valid: Dataset = field(default_factory=Dataset)
    test: Dataset = field(default_factory=Dataset)
    failed: Dataset = field(default_factory=Dataset)
    discarded: Dataset = field(default_factory=Dataset)
    pending: Dataset = field(default_factory=Dataset)

    def __add__(self, other: "DataSets") -> "DataSets":
        """Return the sets with new structures appended; the pending structures are those of the new sets alone."""
        sums = {each.name: getattr(self, each.name) + getattr(other, each.name) for each in fields(self)}
        return DataSets(**{**sums, "pending": other.pending})

    def save(self, folder: Path | str) -> None:
        """Write one extxyz file per set."""
        for each in fields(self):
            getattr(self, each.name).save(Path(folder) / f"{each.name}.extxyz")

    @classmethod
    def load(cls, folder: Path | str) -> "DataSets":
        """Load the data sets that `save` wrote."""
        return cls(**{each.name: Dataset.load(Path(folder) / f"{each.name}.extxyz") for each in fields(cls)})

    def keys(self) -> tuple[str, ...]:
        """Return the keys of all labels that arrived or failed, without those of pending ones."""
        arrived: list[Dataset] = [getattr(self, each.name) for each in fields(self) if each.name != "pending"]
        return tuple(key for dataset in arrived for key in dataset.keys())  # noqa: SIM118  (a dataset is no dict)

    @property
    def everything(self) -> Dataset:
        """All structures, those too whose label is pending or failed."""
        return sum((getattr(self, each.name) for each in fields(self)), Dataset())

    def n_requested(self) -> int:
        """Return the number of labels that the campaign has requested, that is, without the given ones."""
        return sum(GIVEN not in atoms.info for each in fields(self) for atoms in getattr(self, each.name))
