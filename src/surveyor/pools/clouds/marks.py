"""Marks by which the machines of a pool are found in a cloud, where its folder and its processes are gone."""

import getpass
import hashlib
import socket
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from uuid import uuid4

OF_SURVEYOR = "surveyor-"  # begins the keys of all marks
POOL, FOLDER, OWNER, EXPIRES, JOB = (f"{OF_SURVEYOR}{word}" for word in ("pool", "folder", "owner", "expires", "job"))


@dataclass(frozen=True, slots=True)
class Found:
    """A machine of a pool that a sweep has found.

    Attributes:
        id: id of the instance, or name of the pod.
        what: type of the instance, or image of the pod.
        state: its state, in the words of the cloud.
        owner: user and machine of the process that started it.
        expires: when it should have ended by itself; None if that is not known.
        was_ended: whether the sweep has ended it.
    """

    id: str
    what: str
    state: str
    owner: str
    expires: datetime | None
    was_ended: bool


def identity_of(folder: Path) -> str:
    """Return the identity of a pool's folder, which differs from that of any other machine, user or folder."""
    path = folder / "pool-id"
    if not path.exists():
        path.write_text(uuid4().hex)
    return digest(path.read_text(), str(folder))[:16]


def owner() -> str:
    """Return the user and the machine of this process."""
    return f"{getpass.getuser()}@{socket.gethostname()}"


def digest(*parts: str) -> str:
    """Return a hash of some texts in their order, in hexadecimal digits."""
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()
