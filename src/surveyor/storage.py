"""Storages: where the label store keeps its records and claims; a few operations, which folders and buckets serve."""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

from surveyor.files import synchronize, temporary_beside


def sharded(key: str) -> str:
    """Return the name of what belongs to the key of a label, in folders that do not grow too large."""
    version, _, digest = key.partition(":")
    return f"{version}/{digest[:2]}/{digest}"


def key_of(name: str) -> str:
    """Return the key of the label to which the record or claim of a name belongs; see `sharded`."""
    _, version, _, rest = name.split("/")
    return f"{version}:{rest.removesuffix('.json').partition('-')[0]}"


@runtime_checkable  # Prefect derives a schema from the parameters of flows, which asks for isinstance
class Storage(Protocol):
    """Named byte strings: records, which are written once and never changed, and claims, which come and go."""

    def put_new(self, name: str, content: bytes, *, durable: bool = True) -> bool:
        """Write unless the name is taken; say whether it was written.

        Args:
            name: where.
            content: what; readers see all of it or nothing.
            durable: whether it must outlast a crash of the machine, as records must.
        """

    def get(self, name: str) -> bytes | None:
        """Return the record under a name, or None."""

    def list(self, prefix: str) -> Iterator[str]:
        """Yield the names that begin with a prefix, in order."""

    def replace(self, name: str, content: bytes) -> None:
        """Write, whether the name is taken or not; readers see the former content or the new."""

    def remove(self, name: str) -> None:
        """Remove the record under a name, if there is one; the name is free afterwards."""


@dataclass(frozen=True, slots=True)
class FolderStorage:
    """Storage in a folder of a file system, local or shared.

    Attributes:
        folder: where the files are; created when something is written.
    """

    folder: Path

    def __str__(self) -> str:
        return str(self.folder)

    def put_new(self, name: str, content: bytes, *, durable: bool = True) -> bool:
        """Write a file unless it exists: `link` fails if the name is taken, so exactly one of two writers wins."""
        path = self.folder / name
        with temporary_beside(path) as temporary:
            temporary.write_bytes(content)
            if durable:
                synchronize(temporary)
            try:
                os.link(temporary, path)
            except FileExistsError:
                return False
            if durable:
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

    def replace(self, name: str, content: bytes) -> None:
        """Write a file beside the old one, and give it the name."""
        path = self.folder / name
        with temporary_beside(path) as temporary:
            temporary.write_bytes(content)
            temporary.replace(path)

    def remove(self, name: str) -> None:
        """Remove a file, if it is there."""
        (self.folder / name).unlink(missing_ok=True)
