"""Storages: where the label store keeps its records and claims; a few operations, which folders and buckets serve."""

import errno
import os
import secrets
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import ClassVar, Protocol, Self, runtime_checkable

from surveyor.files import synchronize, temporary_beside

MARK = "store.txt"  # file with the mark of a folder


def sharded(key: str) -> str:
    """Return the storage name for the key of a label, in folders that do not grow too large."""
    version, _, digest = key.partition(":")
    return f"{version}/{digest[:2]}/{digest}"


def key_of(name: str) -> str:
    """Return the key of the label to which the record or claim of a name belongs; see `sharded`."""
    _, version, _, rest = name.split("/")
    return f"{version}:{rest.removesuffix('.json').partition('-')[0]}"


@runtime_checkable  # Prefect derives a schema from the parameters of flows, which asks for isinstance
class Storage(Protocol):
    """Named byte strings: records, which are written once and never changed, and claims, which come and go.

    Attributes:
        n_at_once: number of operations that are worth doing at once: many where each waits for a network.
    """

    n_at_once: ClassVar[int]

    def put_new(self, name: str, content: bytes, *, durable: bool = True) -> bool:
        """Write unless the name is taken; return whether it was written.

        Args:
            name: where.
            content: what; readers see all of it or nothing.
            durable: whether it must outlast a crash of the machine, as records must.
        """

    def get(self, name: str) -> bytes | None:
        """Return the record under a name, or None."""

    def list(self, prefix: str) -> Iterator[str]:
        """Yield the names that begin with a prefix, in order."""

    def renew(self, name: str, former: bytes, content: bytes) -> bool:
        """Change a record that has not been removed or written anew by others; return whether it was still there.

        A request that arrives late, or a process that was stopped in the middle, changes no record of others.

        Args:
            name: where.
            former: the record as its only writer has left it.
            content: what follows; readers see the former content or the new.
        """

    def remove(self, name: str) -> None:
        """Remove the record under a name, if there is one; the name is free afterwards."""


@dataclass(frozen=True, slots=True)
class MarkedStorage(ABC):
    """Base of storages that are recognized by a mark, a record that is written when they are first used.

    Attributes:
        mark: the mark that the storage has to have; empty for whatever storage is there.
    """

    mark: str = field(default="", kw_only=True)

    @abstractmethod
    def put_new(self, name: str, content: bytes, *, durable: bool = True) -> bool:
        """Write unless the name is taken; see `Storage`."""

    @abstractmethod
    def found_mark(self) -> str:
        """Return the mark that the storage has now, empty without one."""

    def marked(self, mark: str = "") -> Self:
        """Return the storage with its mark.

        Args:
            mark: mark to give to a storage that has none; a random one by default.
        """
        if not self.found_mark():
            self.put_new(MARK, f"{mark or secrets.token_hex(8)}\n".encode())
        return self.expecting(self.found_mark())

    def expecting(self, mark: str) -> Self:
        """Return the storage that has to have a mark."""
        return replace(self, mark=mark)


@dataclass(frozen=True, slots=True)
class FolderStorage(MarkedStorage):
    """Storage in a folder of a file system, local or shared.

    An empty folder and the mount point of a file system that is away look alike. Operations on a storage with a mark
    therefore raise an `OSError` while the folder does not have this mark.

    Attributes:
        folder: where the files are; created when something is written.
        mark: content of the folder's `MARK`; empty for whatever folder is there.
    """

    n_at_once: ClassVar[int] = 1

    folder: Path

    def __str__(self) -> str:
        return str(self.folder)

    def found_mark(self) -> str:
        """Return the mark that the folder has now, empty without one."""
        try:
            return (self.folder / MARK).read_text().strip()
        except (FileNotFoundError, NotADirectoryError):
            return ""

    def check_present(self) -> None:
        """Raise an `OSError` if the folder does not have the mark."""
        if self.mark and self.found_mark() != self.mark:
            text = "the store is gone, or it is another one; its file system may be away"
            raise OSError(errno.ESTALE, text, str(self.folder / MARK))

    def put_new(self, name: str, content: bytes, *, durable: bool = True) -> bool:
        """Write a file unless it exists: `link` fails if the name is taken, so exactly one of two writers wins."""
        self.check_present()
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
        if (content := self._read(name)) is not None:
            return content
        self.check_present()
        return self._read(name) if self.mark else None  # the file system may have come back since

    def list(self, prefix: str) -> Iterator[str]:
        """Yield the names of files that begin with a prefix, in order, without those being written."""
        self.check_present()
        folder = self.folder / prefix.rpartition("/")[0]
        paths = [path for path in folder.rglob("*") if path.is_file() and not path.name.startswith(".")]
        names = sorted(path.relative_to(self.folder).as_posix() for path in paths)
        yield from (name for name in names if name.startswith(prefix))

    def renew(self, name: str, former: bytes, content: bytes) -> bool:
        """Write into the same file: if it has been removed or replaced since it was opened, nobody sees that."""
        self.check_present()
        try:
            with (self.folder / name).open("r+b", buffering=0) as file:
                if file.read() != former:
                    return False
                file.seek(0)
                file.write(content)
                if len(content) < len(former):
                    file.truncate()
        except FileNotFoundError:
            return False
        return True

    def remove(self, name: str) -> None:
        """Remove a file, if it is there."""
        (self.folder / name).unlink(missing_ok=True)

    def _read(self, name: str) -> bytes | None:
        try:
            return (self.folder / name).read_bytes()
        except FileNotFoundError:
            return None
