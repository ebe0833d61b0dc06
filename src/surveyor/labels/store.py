"""The permanent label store.

A label costs minutes to hours of a cluster. The function that computes one therefore writes it to the store before
returning, under a key made of the structure and the level of theory. Labels are looked up here before they are
computed.
"""

import json
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, fields, replace
from itertools import count, takewhile
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms

from surveyor.files import outlast
from surveyor.labels.claims import ANYBODY, Claimant, Claims
from surveyor.labels.failures import NO_LIMITS_KNOWN, LabelFailure, Reason, is_final
from surveyor.labels.label import Label
from surveyor.labels.records import SCHEMA_VERSION, read_record
from surveyor.labels.theory import LevelOfTheory
from surveyor.storage.buckets import BucketAccess, store_address
from surveyor.storage.object_storage import storage_at
from surveyor.storage.storage import FolderStorage, Storage, key_of, sharded
from surveyor.structures import identity_of
from surveyor.words import number_of

REMEDY = "Repair the disk, then give the same command: it continues, and nothing that was finished is lost"


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
    def in_folder(cls, folder: Path | str) -> "LabelStore":
        """Return the store in a folder of a file system."""
        return cls(FolderStorage(Path(folder).absolute()))

    @classmethod
    def in_marked_folder(cls, folder: Path | str) -> "LabelStore":
        """Return the store in a folder that has a mark, or gets one.

        If the file system of the folder is away later, the store waits for it; without a mark it would look empty.
        """
        return cls(FolderStorage(Path(folder).absolute()).marked())

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
        """Claim a label within the block; see `Claims.held`.

        Raises:
            LabelClaimed: another live process computes it.
        """
        return self.claims.held(key, self.claimant)

    def get(self, key: str) -> Label | None:
        """Return the label under a key, bit for bit as it was stored, or None."""
        content = self._read(f"labels/{sharded(key)}.json")
        return None if content is None else _label(read_record(content, key))

    def put(self, key: str, atoms: Atoms, theory: LevelOfTheory, label: Label) -> bool:
        """Keep a label for good; return whether it is this one that is kept, or another was there before.

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
        return tuple(_failure(read_record(content, key)) for content in contents if content is not None)

    def put_failure(self, key: str, atoms: Atoms, theory: LevelOfTheory, failure: LabelFailure) -> bool:
        """Keep a failure for good; return whether it was kept, or that attempt was recorded before."""
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
        return failures[-1] if is_final(due, limits) else None

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
