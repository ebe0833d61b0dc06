"""Labels and the store that keeps each of them for good.

A label costs minutes to hours of a cluster. So whoever computes one writes it here before returning, under a key that
says what was computed: the structure and the level of theory. Whoever wants one looks here first.
"""

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol, get_args, runtime_checkable

import numpy as np
from ase import Atoms

from surveyor.errors import InputError
from surveyor.files import synchronize, temporary_beside, write_json
from surveyor.structures import canonical, charge_of, identity_of, multiplicity_of

KEY_VERSION = "v1"
SCHEMA_VERSION = 1

Reason = Literal[
    "invalid_input",
    "missing_data_file",
    "scf_not_converged",
    "geometry",
    "timeout",
    "memory",
    "launch",
    "crash",
    "disk",
    "unparsable",
]
REASONS: tuple[Reason, ...] = get_args(Reason)

# How often a label may fail for one reason before its failure is final: once where the same input gives the same end.
# A job that is being ended, or a node that is broken, fails to start programs, or ends them, whatever they compute.
ATTEMPTS: Mapping[Reason, int] = {"launch": 4, "crash": 3, "disk": 3, "memory": 2}


@dataclass(frozen=True, slots=True)
class LevelOfTheory:
    """What a label depends on beside the structure: the canonical scientific input, without how it is run.

    Attributes:
        name: what people call it, such as "GFN2-xTB".
        content: canonical input, contents of data files, program and major version; whatever JSON holds.
        charge: total charge that the input states, None where it states none.
        multiplicity: multiplicity that the input states, None where it states none.
        distinguishes_kinds: whether atoms of one element can be of several kinds.
        elements: symbols that it can treat, None where only the attempt tells.
        n_periodic: numbers of periodic directions that it can treat, None for any.
    """

    name: str
    content: Mapping[str, Any] = field(hash=False)  # Any: whatever JSON holds
    charge: int | None = None
    multiplicity: int | None = None
    distinguishes_kinds: bool = False
    elements: tuple[str, ...] | None = None
    n_periodic: tuple[int, ...] | None = None

    @property
    def digest(self) -> str:
        """Hash of the content, hexadecimal."""
        return _hash(self.content)

    def with_electrons(self, atoms: Atoms) -> Atoms:
        """Return a canonical copy of a structure in which charge and multiplicity are explicit.

        Raises:
            InputError: the structure and the input state different ones.
        """
        stated = canonical(atoms)
        for name, value in (("charge", self.charge), ("multiplicity", self.multiplicity)):
            if value is not None and atoms.info.get(name, value) != value:
                raise InputError(
                    f"the structure has {name} {atoms.info[name]}, the input of {self.name} says {value}; "
                    "remove one of them"
                )
            if value is not None:
                stated.info[name] = value
        stated.info["charge"] = charge_of(stated)
        stated.info["multiplicity"] = multiplicity_of(stated)
        return stated


def label_key(atoms: Atoms, theory: LevelOfTheory) -> str:
    """Return the key of the label of a structure at a level of theory: "v1:" and 64 hexadecimal digits."""
    identity = identity_of(theory.with_electrons(atoms), kinds=theory.distinguishes_kinds)
    return f"{KEY_VERSION}:{_hash({'structure': identity, 'level_of_theory': theory.digest})}"


def _hash(content: Mapping[str, Any]) -> str:  # Any: whatever JSON holds
    return hashlib.sha256(
        json.dumps(content, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()
    ).hexdigest()


@dataclass(frozen=True, slots=True, eq=False)
class Label:
    """Energy, forces and stress of a structure at a level of theory.

    Attributes:
        energy: force-consistent total energy in eV, unshifted.
        forces: in eV/Å, shape (n_atoms, 3).
        stress: six Voigt components in eV/Å³ with ASE's sign, None where the structure is not periodic in three
            directions.
        provenance: hash of the inputs, program, version, SCF steps, wall time, host.
    """

    energy: float
    forces: np.ndarray
    stress: np.ndarray | None = None
    provenance: Mapping[str, Any] = field(default_factory=dict)  # Any: whatever JSON holds

    def is_complete_for(self, atoms: Atoms) -> bool:
        """Say whether all numbers are there, for so many atoms, and finite."""
        has_all = self.forces.shape == (len(atoms), 3) and (self.stress is None or self.stress.shape == (6,))
        numbers = (self.energy, self.forces, () if self.stress is None else self.stress)
        return has_all and all(bool(np.isfinite(each).all()) for each in numbers)


@dataclass(frozen=True, slots=True)
class LabelFailure:
    """A label that could not be had, which is a result too.

    Attributes:
        reason: one of a closed set.
        message: what happened, for people.
        output: where the output of the program is, None where there is none.
        attempt: 1 for the first attempt at this label.
        provenance: as for a label.
    """

    reason: Reason
    message: str
    output: str | None = None
    attempt: int = 1
    provenance: Mapping[str, Any] = field(default_factory=dict, hash=False)  # Any: whatever JSON holds


@runtime_checkable  # Prefect derives a schema from the parameters of flows, which asks for isinstance
class Storage(Protocol):
    """Named byte strings that are written once and never changed."""

    def put_new(self, name: str, content: bytes) -> bool:
        """Write durably unless the name is taken; say whether it was written."""

    def get(self, name: str) -> bytes | None:
        """Return what is stored under a name, None where there is nothing."""

    def list(self, prefix: str) -> Iterator[str]:
        """Yield the names that begin with a prefix, in order."""


@dataclass(frozen=True, slots=True)
class FolderStorage:
    """Storage in a folder of a file system, local or shared.

    Attributes:
        folder: where the files are; created when something is written.
    """

    folder: Path

    def __str__(self) -> str:
        return str(self.folder)

    def put_new(self, name: str, content: bytes) -> bool:
        """Write a file unless it is there: `link` fails where the name is taken, so of two writers one wins."""
        path = self.folder / name
        with temporary_beside(path) as temporary:
            temporary.write_bytes(content)
            synchronize(temporary)
            try:
                os.link(temporary, path)
            except FileExistsError:
                return False
            synchronize(path.parent)
        return True

    def get(self, name: str) -> bytes | None:
        """Read a file, None where it is not there."""
        try:
            return (self.folder / name).read_bytes()
        except FileNotFoundError:
            return None

    def list(self, prefix: str) -> Iterator[str]:
        """Yield the names of files that begin with a prefix, in order, without those being written."""
        folder = self.folder / prefix.rpartition("/")[0]
        paths = [path for path in folder.rglob("*") if path.is_file() and not path.name.startswith(".")]
        names = sorted(path.relative_to(self.folder).as_posix() for path in paths)
        yield from (name for name in names if name.startswith(prefix))


@dataclass(frozen=True, slots=True)
class LabelStore:
    """Labels and failures by key, on three operations of a storage; readers never see half a record.

    Attributes:
        storage: where the records are.
    """

    storage: Storage

    def __str__(self) -> str:
        return str(self.storage)

    @classmethod
    def in_folder(cls, folder: Path) -> "LabelStore":
        """Return the store in a folder of a file system."""
        return cls(FolderStorage(folder.absolute()))

    def get(self, key: str) -> Label | None:
        """Return the label under a key, bit for bit as it was put, None where there is none."""
        content = self.storage.get(f"labels/{_name(key)}.json")
        return None if content is None else _label(_record(content, key))

    def put(self, key: str, atoms: Atoms, theory: LevelOfTheory, label: Label) -> bool:
        """Keep a label for good; say whether it is this one that is kept, or another was there before.

        Raises:
            ValueError: the label is not complete for these atoms.
        """
        if not label.is_complete_for(atoms):
            raise ValueError(
                f"a label of {len(atoms)} atoms is not complete: forces of shape {label.forces.shape}, stress "
                f"{label.stress}, or numbers that are not finite"
            )
        result = {
            "energy": float(label.energy),
            "forces": label.forces.tolist(),
            "stress": None if label.stress is None else label.stress.tolist(),
            "provenance": dict(label.provenance),
        }
        return self._put(f"labels/{_name(key)}.json", key, atoms, theory, result)

    def failures(self, key: str) -> tuple[LabelFailure, ...]:
        """Return the recorded failures under a key, in the order of the attempts."""
        names = self.storage.list(f"failures/{_name(key)}-")
        contents = [self.storage.get(name) for name in names]
        return tuple(_failure(_record(content, key)) for content in contents if content is not None)

    def put_failure(self, key: str, atoms: Atoms, theory: LevelOfTheory, failure: LabelFailure) -> bool:
        """Keep a failure for good; say whether it was kept, or that attempt was recorded before."""
        result = {
            "reason": failure.reason,
            "message": failure.message,
            "output": failure.output,
            "attempt": failure.attempt,
            "provenance": dict(failure.provenance),
        }
        return self._put(f"failures/{_name(key)}-{failure.attempt:03d}.json", key, atoms, theory, result)

    def outcome(self, key: str) -> Label | LabelFailure | None:
        """Return the label, or the last failure where no further attempt is due, None where work is to be done."""
        label = self.get(key)
        if label is not None:
            return label
        failures = self.failures(key)
        if not failures:
            return None
        n_alike = sum(failure.reason == failures[-1].reason for failure in failures)
        return failures[-1] if n_alike >= ATTEMPTS.get(failures[-1].reason, 1) else None

    def keys(self) -> Iterator[str]:
        """Yield the keys of all labels."""
        for name in self.storage.list("labels/"):
            _, version, _, file = name.split("/")
            yield f"{version}:{file.removesuffix('.json')}"

    def _put(self, name: str, key: str, atoms: Atoms, theory: LevelOfTheory, result: Mapping[str, Any]) -> bool:
        record = {
            "schema_version": SCHEMA_VERSION,
            "key": key,
            "structure": identity_of(theory.with_electrons(atoms), kinds=theory.distinguishes_kinds),
            "level_of_theory": {"name": theory.name, "digest": theory.digest},
            **result,
        }
        return self.storage.put_new(name, json.dumps(record, allow_nan=False).encode())


def _name(key: str) -> str:
    version, _, digest = key.partition(":")
    return f"{version}/{digest[:2]}/{digest}"


def _record(content: bytes, key: str) -> dict[str, Any]:  # Any: whatever JSON holds
    record: dict[str, Any] = json.loads(content)
    if record["schema_version"] > SCHEMA_VERSION:
        raise InputError(
            f"the record of {key} has schema version {record['schema_version']}, "
            f"this surveyor reads up to {SCHEMA_VERSION}; update surveyor"
        )
    return record


def _label(record: Mapping[str, Any]) -> Label:
    stress = record["stress"]
    return Label(
        energy=record["energy"],
        forces=np.array(record["forces"], dtype=float).reshape(-1, 3),
        stress=None if stress is None else np.array(stress, dtype=float),
        provenance=record["provenance"],
    )


def _failure(record: Mapping[str, Any]) -> LabelFailure:
    return LabelFailure(
        reason=record["reason"],
        message=record["message"],
        output=record["output"],
        attempt=record["attempt"],
        provenance=record["provenance"],
    )


def save_theory(path: Path, theory: LevelOfTheory) -> None:
    """Write a level of theory to a file, for people and for `load_theory`."""
    write_json(
        path,
        {
            "schema_version": SCHEMA_VERSION,
            "digest": theory.digest,
            "name": theory.name,
            "content": dict(theory.content),
            "charge": theory.charge,
            "multiplicity": theory.multiplicity,
            "distinguishes_kinds": theory.distinguishes_kinds,
            "elements": theory.elements,
            "n_periodic": theory.n_periodic,
        },
    )


def load_theory(path: Path) -> LevelOfTheory:
    """Read a level of theory that `save_theory` wrote."""
    record = _record(path.read_bytes(), str(path))
    elements, n_periodic = record["elements"], record.get("n_periodic")
    return LevelOfTheory(
        name=record["name"],
        content=record["content"],
        charge=record["charge"],
        multiplicity=record["multiplicity"],
        distinguishes_kinds=record["distinguishes_kinds"],
        elements=None if elements is None else tuple(elements),
        n_periodic=None if n_periodic is None else tuple(n_periodic),
    )
