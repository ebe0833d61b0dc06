"""Labels, and the permanent label store.

A label costs minutes to hours of a cluster. The function that computes one therefore writes it to the store before
returning, under a key made of the structure and the level of theory. Labels are looked up here before they are
computed.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, field, fields, replace
from itertools import count, takewhile
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, get_args

import numpy as np
from ase import Atoms

from surveyor.buckets import BucketAccess, store_address
from surveyor.claims import ANYBODY, Claimant, Claims
from surveyor.errors import InputError
from surveyor.files import outlast, write_json
from surveyor.object_storage import storage_at
from surveyor.storage import FolderStorage, Storage, key_of, sharded
from surveyor.structures import canonical, charge_of, check_multiplicity, identity_of, multiplicity_of
from surveyor.words import number_of

KEY_VERSION = "v1"
SCHEMA_VERSION = 1
REMEDY = "Mend the disk, then give the same command: it continues, and nothing that was finished is lost"
WORK = "work"  # in the provenance of a label: the work that computed it, see `surveyor.claims.Claimant`

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
NO_LIMITS_KNOWN: Mapping[Reason, float | None] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Policy:
    """What follows when a label fails for one reason.

    Attributes:
        attempts: how often it may fail for this reason before the failure is final: once where the same input gives
            the same end wherever it is run.
        is_repaired: whether the reference changes the settings of its solver, within the attempt, before it gives up.
        is_by_machine: whether the label can be had once the machine is mended, so that `surveyor labels retry` takes
            it unasked.
        has_limit: whether a limit of the code is the cause, so that the failure is final only until that is raised.
    """

    attempts: int = 1
    is_repaired: bool = False
    is_by_machine: bool = False
    has_limit: bool = False


# A job that is being ended, or a node that is broken, fails to start programs, or ends them, whatever they compute.
POLICIES: Mapping[Reason, Policy] = {
    "invalid_input": Policy(),
    "missing_data_file": Policy(attempts=2, is_by_machine=True),
    "scf_not_converged": Policy(is_repaired=True),
    "geometry": Policy(),
    "timeout": Policy(has_limit=True),
    "memory": Policy(attempts=2, has_limit=True),
    "launch": Policy(attempts=4, is_by_machine=True),
    "crash": Policy(attempts=3, is_by_machine=True),
    "disk": Policy(attempts=3, is_by_machine=True),
    "unparsable": Policy(),
}


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
        return _hash(self.content)

    def is_same_as(self, other: "LevelOfTheory") -> bool:
        """Say whether another one is the same, or was called otherwise by a former version of surveyor."""
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


@dataclass(frozen=True, slots=True, eq=False)
class LabelRequest:
    """A structure whose label is asked for.

    Attributes:
        key: of the label.
        structure: in canonical coordinates, with explicit charge and multiplicity; that is what is labelled.
    """

    key: str
    structure: Atoms

    @classmethod
    def of(cls, atoms: Atoms, theory: LevelOfTheory) -> "LabelRequest":
        """Return the request of the label of a structure at a level of theory.

        Raises:
            InputError: the structure and the level of theory contradict each other.
        """
        structure = theory.with_electrons(atoms)
        return cls(_key_under(theory.digest, structure, theory), structure)


def label_key(atoms: Atoms, theory: LevelOfTheory) -> str:
    """Return the key of the label of a structure at a level of theory: "v1:" and 64 hexadecimal digits."""
    return LabelRequest.of(atoms, theory).key


def former_keys(structure: Atoms, theory: LevelOfTheory) -> tuple[str, ...]:
    """Return the keys that former versions of surveyor gave the label of a structure, where they were others.

    Args:
        structure: canonical, with explicit charge and multiplicity.
        theory: at which it is labelled.
    """
    return tuple(_key_under(digest, structure, theory) for digest in theory.former if digest != theory.digest)


def _key_under(digest: str, structure: Atoms, theory: LevelOfTheory) -> str:
    identity = identity_of(structure, kinds=theory.distinguishes_kinds)
    return f"{KEY_VERSION}:{_hash({'structure': identity, 'level_of_theory': digest})}"


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
        provenance: hash of the inputs, program, version, SCF steps, wall time, host, and the work that computed it.
    """

    energy: float
    forces: np.ndarray
    stress: np.ndarray | None = None
    provenance: Mapping[str, Any] = field(default_factory=dict)  # Any: whatever JSON holds

    def is_complete_for(self, atoms: Atoms) -> bool:
        """Return whether all numbers exist for the given number of atoms, and are finite."""
        has_all = self.forces.shape == (len(atoms), 3) and (self.stress is None or self.stress.shape == (6,))
        numbers = (self.energy, self.forces, () if self.stress is None else self.stress)
        return has_all and all(bool(np.isfinite(each).all()) for each in numbers)


@dataclass(frozen=True, slots=True)
class LabelFailure:
    """The failure of a label, which is also a result.

    Attributes:
        reason: one of a closed set.
        message: description for people.
        output: path of the output of the program, or None.
        attempt: number of the attempt at this label, from 1.
        last_lines: last lines of the output, which outlive its file; empty without output.
        limit: the limit that was reached (timeout: in seconds, memory: in GB), or None.
        provenance: as for a label.
    """

    reason: Reason
    message: str
    output: str | None = None
    attempt: int = 1
    last_lines: str = ""
    limit: float | None = None
    provenance: Mapping[str, Any] = field(default_factory=dict, hash=False)  # Any: whatever JSON holds


@dataclass(frozen=True, slots=True)
class LabelStore:
    """Labels and failures by key, on a few operations of a storage; readers never see half a record.

    Attributes:
        storage: where the records are.
        claimant: on whose behalf labels are claimed.
    """

    storage: Storage
    claimant: Claimant = ANYBODY

    def __str__(self) -> str:
        return str(self.storage)

    @classmethod
    def in_folder(cls, folder: Path) -> "LabelStore":
        """Return the store in a folder of a file system."""
        return cls(FolderStorage(folder.absolute()))

    @classmethod
    def in_marked_folder(cls, folder: Path) -> "LabelStore":
        """Return the store in a folder that has a mark, or gets one.

        If the file system of the folder is away later, the store waits for it; without a mark it would look empty.
        """
        return cls(FolderStorage(folder.absolute()).marked())

    @classmethod
    def at(cls, address: Path | str, access: BucketAccess | None = None) -> "LabelStore":
        """Return the store in a folder or in a bucket, which is not asked.

        Args:
            address: path of the folder, or address of the bucket, such as s3://bucket/labels.
            access: how the bucket is reached; None for the access that the environment gives.

        Raises:
            ValueError: it is no such address.
        """
        return cls(storage_at(store_address(address), access))

    @property
    def claims(self) -> Claims:
        """The claims on labels in computation."""
        return Claims(self.storage)

    def on_behalf_of(self, claimant: Claimant) -> "LabelStore":
        """Return the store on behalf of a claimant."""
        return replace(self, claimant=claimant)

    def ignoring(self, dead: frozenset[str]) -> "LabelStore":
        """Return the store, ignoring further claims that were found silent, given by their tokens."""
        return self.on_behalf_of(replace(self.claimant, dead=self.claimant.dead | dead))

    def claimed(self, key: str) -> AbstractContextManager[None]:
        """Claim a label as long as this lasts; see `Claims.held`.

        Raises:
            LabelClaimed: another live process computes it.
        """
        return self.claims.held(key, self.claimant)

    def get(self, key: str) -> Label | None:
        """Return the label under a key, bit for bit as it was stored, or None."""
        content = self._read(f"labels/{sharded(key)}.json")
        return None if content is None else _label(_record(content, key))

    def put(self, key: str, atoms: Atoms, theory: LevelOfTheory, label: Label) -> bool:
        """Keep a label for good; say whether it is this one that is kept, or another was there before.

        Raises:
            ValueError: the label is not complete for these atoms.
        """
        if not label.is_complete_for(atoms):
            raise ValueError(
                f"a label of {number_of(len(atoms), 'atom')} is not complete: forces of shape {label.forces.shape}, "
                f"stress {label.stress}, or numbers that are not finite"
            )
        result = {
            "energy": float(label.energy),
            "forces": label.forces.tolist(),
            "stress": None if label.stress is None else label.stress.tolist(),
            "provenance": dict(label.provenance),
        }
        return self._put(f"labels/{sharded(key)}.json", key, atoms, theory, result)

    def failures(self, key: str) -> tuple[LabelFailure, ...]:
        """Return the recorded failures under a key, in the order of the attempts."""
        # Asked for one after the other: to list them takes the longer, the more failures there are of other labels.
        names = (f"failures/{sharded(key)}-{attempt:03d}.json" for attempt in count(1))
        contents = takewhile(lambda content: content is not None, map(self._read, names))
        return tuple(_failure(_record(content, key)) for content in contents if content is not None)

    def put_failure(self, key: str, atoms: Atoms, theory: LevelOfTheory, failure: LabelFailure) -> bool:
        """Keep a failure for good; say whether it was kept, or that attempt was recorded before."""
        name, record = f"failures/{sharded(key)}-{failure.attempt:03d}.json", asdict(failure)
        problem = f"a failure of label {key[:11]} ({failure.reason}) cannot be kept in {self}"
        return outlast(lambda: self._put(name, key, atoms, theory, record), problem, REMEDY)

    def outcome(self, key: str, limits: Mapping[Reason, float | None] = NO_LIMITS_KNOWN) -> Label | LabelFailure | None:
        """Return the label, or the last failure where no further attempt is due, None where work is to be done.

        Args:
            key: of the label.
            limits: what the code allows now, by the reason that a limit is the cause of, None for no limit: a failure
                at a lower limit is not final.
        """
        label = self.get(key)
        if label is not None:
            return label
        failures = self.failures(key)
        due = failures[self._n_withdrawn(key, len(failures)) :]
        return failures[-1] if _is_final(due, limits) else None

    def retry(self, key: str) -> bool:
        """Allow new attempts at a failed label; return whether it has failed since the last call.

        The records of the failures remain; an additional record makes them no longer final.
        """
        n_failures = len(self.failures(key))
        if n_failures == 0:
            return False
        record = {"schema_version": SCHEMA_VERSION, "key": key, "attempt": n_failures}
        return self.storage.put_new(f"retries/{sharded(key)}-{n_failures:03d}.json", json.dumps(record).encode())

    def keys(self) -> Iterator[str]:
        """Yield the keys of all labels."""
        for name in self.storage.list("labels/"):
            yield key_of(name)

    def failed_keys(self) -> Iterator[str]:
        """Yield the keys of failed labels without a later label, in order."""
        keys = {key_of(name) for name in self.storage.list("failures/")}
        yield from (key for key in sorted(keys) if self.get(key) is None)

    def _n_withdrawn(self, key: str, n_failures: int) -> int:
        names = ((n, f"retries/{sharded(key)}-{n:03d}.json") for n in range(n_failures, 0, -1))
        return next((n for n, name in names if self._read(name) is not None), 0)

    def _read(self, name: str) -> bytes | None:
        try:
            return self.storage.get(name)
        except PermissionError:
            raise
        except OSError:
            return outlast(lambda: self.storage.get(name), f"the label store {self} cannot be read", REMEDY)

    def _put(self, name: str, key: str, atoms: Atoms, theory: LevelOfTheory, result: Mapping[str, Any]) -> bool:
        record = {
            "schema_version": SCHEMA_VERSION,
            "key": key,
            "structure": identity_of(theory.with_electrons(atoms), kinds=theory.distinguishes_kinds),
            "level_of_theory": {"name": theory.name, "digest": theory.digest},
            **result,
        }
        return self.storage.put_new(name, json.dumps(record, allow_nan=False).encode())


def _is_final(failures: Sequence[LabelFailure], limits: Mapping[Reason, float | None]) -> bool:
    if not failures:
        return False
    reason = failures[-1].reason
    alike = [failure for failure in failures if failure.reason == reason and not _has_been_raised(failure, limits)]
    return len(alike) >= POLICIES[reason].attempts


def _has_been_raised(failure: LabelFailure, limits: Mapping[Reason, float | None]) -> bool:
    if not POLICIES[failure.reason].has_limit or failure.limit is None or failure.reason not in limits:
        return False
    now = limits[failure.reason]
    return now is None or now > failure.limit


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
    # Earlier records have neither last lines nor a limit.
    return LabelFailure(**{each.name: record[each.name] for each in fields(LabelFailure) if each.name in record})


def save_theory(path: Path, theory: LevelOfTheory) -> None:
    """Write a level of theory to a file, for people and for `load_theory`."""
    write_json(path, {"schema_version": SCHEMA_VERSION, "digest": theory.digest, **asdict(theory)})


def load_theory(path: Path) -> LevelOfTheory:
    """Read a level of theory that `save_theory` wrote."""
    record = _record(path.read_bytes(), str(path))
    names = [each.name for each in fields(LevelOfTheory) if each.name in record]
    tuples = {name: tuple(record[name]) for name in names if isinstance(record[name], list)}
    return LevelOfTheory(**{name: record[name] for name in names} | tuples)
