"""Levels of theory: all that a label depends on besides the structure."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from ase import Atoms

from surveyor.errors import InputError
from surveyor.files import write_json
from surveyor.labels.records import SCHEMA_VERSION, hash_of, read_record
from surveyor.structures import canonical, charge_of, check_multiplicity, multiplicity_of


@dataclass(frozen=True, slots=True)
class LevelOfTheory:
    """Everything that a label depends on besides the structure: the canonical scientific input, but not how it is run.

    Attributes:
        name: name for people, such as "GFN2-xTB".
        content: canonical input, contents of data files, program and major version, as JSON values.
        charge: total charge stated in the input, or None.
        multiplicity: multiplicity stated in the input, or None.
        distinguishes_kinds: whether atoms of one element can have different kinds.
        elements: symbols of supported elements; None if only an attempt can tell.
        n_periodic: supported numbers of periodic directions; None for any.
        is_neutral: whether the method supports only charge 0.
        former: digests of the same level of theory in earlier versions of surveyor.
        unusable: reason why an element in the input cannot be labelled, by symbol.
    """

    name: str
    content: Mapping[str, Any] = field(hash=False)  # Any: whatever JSON holds
    charge: int | None = None
    multiplicity: int | None = None
    distinguishes_kinds: bool = False
    elements: tuple[str, ...] | None = None
    n_periodic: tuple[int, ...] | None = None
    is_neutral: bool = False
    former: tuple[str, ...] = field(default=(), compare=False)
    unusable: Mapping[str, str] = field(default_factory=dict, hash=False, compare=False)

    @property
    def digest(self) -> str:
        """Hash of the content, hexadecimal."""
        return hash_of(self.content)

    def is_same_as(self, other: "LevelOfTheory") -> bool:
        """Return whether another level of theory has the same digest, or had it in a former version of surveyor."""
        return not {self.digest, *self.former}.isdisjoint({other.digest, *other.former})

    def with_electrons(self, atoms: Atoms) -> Atoms:
        """Return a canonical copy of a structure in which charge and multiplicity are explicit.

        Raises:
            InputError: the structure and the input state different ones, or together an impossible multiplicity.
        """
        stated = canonical(atoms)
        for name, value in (("charge", self.charge), ("multiplicity", self.multiplicity)):
            if value is not None and atoms.info.get(name, value) != value:
                if name == "charge" and self.is_neutral:
                    raise InputError(
                        f"{self.name} treats neutral structures only; the structure has charge {atoms.info[name]}"
                    )
                raise InputError(
                    f"the structure has {name} {atoms.info[name]}, the input of {self.name} says {value}; "
                    "remove one of them"
                )
            if value is not None:
                stated.info[name] = value
        stated.info["charge"] = charge_of(stated)
        stated.info["multiplicity"] = multiplicity_of(stated)
        check_multiplicity(stated)
        return stated


def save_theory(path: Path, theory: LevelOfTheory) -> None:
    """Write a level of theory to a file, for people and for `load_theory`."""
    write_json(path, {"schema_version": SCHEMA_VERSION, "digest": theory.digest, **asdict(theory)})


def load_theory(path: Path) -> LevelOfTheory:
    """Read a level of theory that `save_theory` wrote."""
    record = read_record(path.read_bytes(), str(path))
    names = [each.name for each in fields(LevelOfTheory) if each.name in record]
    tuples = {name: tuple(record[name]) for name in names if isinstance(record[name], list)}
    return LevelOfTheory(**{name: record[name] for name in names} | tuples)
