"""The lease of a run directory: one process at a time."""

import fcntl
import json
import logging
import os
import secrets
import socket
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from surveyor.errors import CampaignInUse
from surveyor.files import temporary_beside

HEARTBEAT_S = 20.0
CLOCK_S = 2.0  # a process is another one when it began so much later: the system derives the time from its clock
STALE_S = 300.0  # a holder on another host that was silent for so long is taken for dead

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Lease:
    """A held lease, which is lost if another process considers this one dead and takes it over.

    Attributes:
        path: file of the lease.
        token: content of the file while this process holds the lease.
    """

    path: Path
    token: str

    @property
    def is_lost(self) -> bool:
        """True if another process has the lease, or had it and is done; False where the file cannot be read."""
        try:
            found = json.loads(self.path.read_text())
        except FileNotFoundError:  # its folder is not there either where a file system is away for a moment
            return self.path.parent.is_dir() and not self.path.exists()
        except (OSError, ValueError):  # such a file system, or a crash of the machine
            return False
        return bool(found["token"] != self.token)

    def check(self) -> None:
        """Raise an error if another process has the lease.

        Raises:
            CampaignInUse: names that process.
        """
        if self.is_lost:
            raise CampaignInUse(
                f"{self.path.parent} was taken over by {_holder(_read(self.path))}, which took this process for dead "
                "after a long silence; give the same command again to go on with what is there"
            )


@contextmanager
def hold_lease(path: Path, *, heartbeat_s: float = HEARTBEAT_S, stale_s: float = STALE_S) -> Iterator[Lease]:
    """Hold the lease at a path, with a heartbeat within the block.

    The lease of a dead process on this host is taken over at once, that of another host when its heartbeat is old.

    Args:
        path: the file of the lease.
        heartbeat_s: how often the file is touched.
        stale_s: age of the last heartbeat from which on a holder on another host is taken for dead.

    Yields:
        The lease, to be asked whether it was lost meanwhile.

    Raises:
        CampaignInUse: a live process holds it.
    """
    mine = this_process() | {"token": secrets.token_hex(8)}
    _acquire(path, mine, stale_s)
    lease, stop = Lease(path, str(mine["token"])), threading.Event()
    heart = threading.Thread(target=_beat, args=(lease, stop, heartbeat_s), name="lease", daemon=True)
    heart.start()
    try:
        yield lease
    finally:
        stop.set()
        heart.join()
        if not lease.is_lost:
            path.unlink(missing_ok=True)


def is_in_use(path: Path, *, stale_s: float = STALE_S) -> bool:
    """Return whether a live process holds the lease at a path."""
    return path.exists() and not _is_stale(path, _read(path), stale_s)


def holder_of(path: Path, *, stale_s: float = STALE_S) -> Mapping[str, Any] | None:
    """Return host and pid of the live process that holds the lease at a path, or None."""
    return _read(path) if is_in_use(path, stale_s=stale_s) else None


def _acquire(path: Path, mine: Mapping[str, Any], stale_s: float) -> None:
    while True:
        with temporary_beside(path) as temporary:
            temporary.write_text(json.dumps(mine))
            with suppress(FileExistsError):
                os.link(temporary, path)
                return
        found = _read(path)
        if not _is_stale(path, found, stale_s):
            raise CampaignInUse(f"{path.parent} is in use by {_holder(found)}; wait for it, or stop it, then try again")
        _remove_stale(path, found)


def _holder(found: Mapping[str, Any]) -> str:
    return f"process {found['pid']} on {found['host']}" if found else "an unknown process"


def _remove_stale(path: Path, found: Mapping[str, Any]) -> None:
    # Of several processes that found the same dead lease, a slow one must not remove the new lease of a quick one.
    with path.with_name(f".{path.name}.lock").open("w") as lock:
        with suppress(OSError):  # a file system without locks: the window between the next two lines stays
            fcntl.flock(lock, fcntl.LOCK_EX)
        if _read(path) == found:
            path.unlink(missing_ok=True)
            logger.warning("taking over %s from %s, which is dead", path.parent, _holder(found))


def _is_stale(path: Path, found: Mapping[str, Any], stale_s: float) -> bool:
    if found and is_on_this_host(found):
        return has_ended(found)
    try:
        return time.time() - path.stat().st_mtime > stale_s
    except FileNotFoundError:
        return True


def this_process() -> dict[str, Any]:  # Any: strings and numbers
    """Return the identity of this process, for `has_ended`."""
    return {"host": socket.gethostname(), "pid": os.getpid(), "started": _started(os.getpid())}


def is_on_this_host(found: Mapping[str, Any]) -> bool:  # Any: strings and numbers
    """Return whether a process runs, or ran, on this host."""
    return bool(found["host"] == socket.gethostname())


def has_ended(found: Mapping[str, Any]) -> bool:  # Any: strings and numbers
    """Return whether a process of this host has ended, though another one may have its number now.

    Args:
        found: what `this_process` returned there.
    """
    started = _started(int(found["pid"]))
    return started is None or abs(started - found["started"]) > CLOCK_S


def _started(pid: int) -> float | None:
    try:
        process = psutil.Process(pid)
        return None if process.status() == psutil.STATUS_ZOMBIE else process.create_time()
    except psutil.NoSuchProcess:
        return None


def _read(path: Path) -> dict[str, Any]:  # Any: strings and numbers
    """Return the holder of a lease; empty without a lease, or if a crash of the machine left it empty."""
    try:
        lease: dict[str, Any] = json.loads(path.read_text())
    except (FileNotFoundError, ValueError):
        return {}
    return lease


def _beat(lease: Lease, stop: threading.Event, heartbeat_s: float) -> None:
    while not stop.wait(heartbeat_s):
        if lease.is_lost:
            logger.error("%s was taken over by another process, which took this one for dead", lease.path.parent)
            return
        with suppress(OSError):  # a file system that is away for a moment must not end the heartbeat
            os.utime(lease.path)
