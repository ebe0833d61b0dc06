"""Files in the bucket between a flow and workers that share no disk: their names, and a cache of them on each machine.

objects/DIGEST                  a file that the flow has sent, by its content
calls/CALL/manifest.json        written last: what a call has left and returned
calls/CALL/checkpoints/N.json   what it has left so far; the newest two are kept
calls/CALL/files/ATTEMPT/DIGEST a file that one attempt at it has written
calls/CALL/events/PROCESS/...   what it has reported so far
"""

import hashlib
import json
import os
import shutil
import tempfile
import time
from base64 import b64decode, b64encode
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from surveyor.files import write_atomically
from surveyor.storage import Storage

OBJECTS, CALLS = "objects", "calls"
CACHE_BYTES = 20e9
UNUSED_S = 7 * 86400.0  # so long is a file kept in a full cache after its last use


class ObjectLost(Exception):
    """An object is not there although it was written, as somebody or a newer attempt has removed it."""


def digest_of(content: bytes) -> str:
    """Return the hash of the content of a file."""
    return hashlib.sha256(content).hexdigest()


@dataclass(frozen=True, slots=True)
class CallObjects:
    """The names of the objects of a call.

    Attributes:
        call: hash of its key.
    """

    call: str

    @property
    def folder(self) -> str:
        """Beginning of all names."""
        return f"{CALLS}/{self.call}/"

    @property
    def manifest(self) -> str:
        """Name of the object with the outcome of the call."""
        return f"{self.folder}manifest.json"

    @property
    def checkpoints(self) -> str:
        """Beginning of the names of the checkpoints."""
        return f"{self.folder}checkpoints/"

    @property
    def events(self) -> str:
        """Beginning of the names of its events."""
        return f"{self.folder}events/"

    def file(self, attempt: str, digest: str) -> str:
        """Return the name of a file that an attempt has written."""
        return f"{self.folder}files/{attempt}/{digest}"


@dataclass(frozen=True, slots=True)
class Manifest:
    """The outcome of a call.

    Attributes:
        files: names of the objects, by the path of the file below the folder of the work.
        events: lines of events that are in no object, by process.
        value: what it returned, packed; empty for a checkpoint.
        has_objects: whether there are objects of the call.
    """

    files: Mapping[str, str]
    events: Mapping[str, str] = field(default_factory=dict)
    value: bytes = b""
    has_objects: bool = True

    def to_json(self) -> bytes:
        """Return the manifest as it stands in a bucket."""
        plain = {"files": dict(self.files), "events": dict(self.events), "has_objects": self.has_objects}
        return json.dumps({"schema_version": 1, **plain, "value": b64encode(self.value).decode()}).encode()

    @classmethod
    def from_json(cls, content: bytes) -> "Manifest":
        """Return the manifest that `to_json` wrote."""
        record = json.loads(content)
        return cls(record["files"], record["events"], b64decode(record["value"]), record["has_objects"])


def fetch(storage: Storage, name: str, path: Path) -> None:
    """Write an object, whose name ends with the hash of its content, to a file.

    Raises:
        ObjectLost: it is not there.
        OSError: its content is another one, or it cannot be read.
    """
    content = storage.get(name)
    if content is None:
        raise ObjectLost(f"{storage} has no object {name}")
    if digest_of(content) != name.rpartition("/")[2]:
        raise OSError(f"the content of {name} in {storage} is not the one that was written")
    write_atomically(path, content)


def cached(storage: Storage, digest: str, name: str) -> Path:
    """Return a file that the flow has sent, from the cache of this machine; fetch it first if it is not there.

    Args:
        storage: the bucket.
        digest: hash of its content.
        name: last part of its path; the other parts are those of the cache.
    """
    path = _cache() / digest / name
    if path.exists():
        os.utime(path)
    else:
        fetch(storage, f"{OBJECTS}/{digest}", path)
        _make_room()
    return path


def _cache() -> Path:
    folder = Path(tempfile.gettempdir()) / f"surveyor-objects-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    if folder.stat().st_uid != os.getuid():
        raise PermissionError(f"{folder} belongs to another user; remove it, or set TMPDIR to another folder")
    return folder


def _make_room() -> None:
    """Remove files that were not used for long, the oldest first, while the cache is too large."""
    found = []
    for path in _cache().glob("*/*"):
        with suppress(FileNotFoundError):
            found.append((path.stat().st_mtime, path.stat().st_size, path))
    total = sum(size for _, size, _ in found)
    for used, size, path in sorted(found):
        if total <= CACHE_BYTES or used > time.time() - UNUSED_S:
            return
        shutil.rmtree(path.parent, ignore_errors=True)
        total -= size
