"""Files that are whole or absent: a crash at any moment leaves no half-written file under its final name."""

import errno
import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

FULL = (errno.ENOSPC, errno.EDQUOT)  # errors of a disk, or of a user's part of it, without room


@contextmanager
def temporary_beside(path: Path) -> Iterator[Path]:
    """Give a fresh temporary path in the folder of `path`, and remove what is left there at the end.

    Args:
        path: where the file shall finally be; its folder is created.
    """
    make_folder(path.parent)
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=path.suffix, dir=path.parent)
    os.close(handle)
    temporary = Path(name)
    temporary.chmod(0o644)
    try:
        yield temporary
    finally:
        temporary.unlink(missing_ok=True)


def make_folder(folder: Path) -> None:
    """Make a folder and those above it, durably: a file is lost with a folder whose entry never reached the disk."""
    if not folder.is_dir():
        make_folder(folder.parent)
        folder.mkdir(exist_ok=True)
        synchronize(folder.parent)


def write_atomically(path: Path, content: str | bytes) -> None:
    """Write a file so that readers see the old content or the new, whatever happens."""
    with temporary_beside(path) as temporary:
        temporary.write_bytes(content.encode() if isinstance(content, str) else content)
        publish(temporary, path)


def publish(temporary: Path, path: Path) -> None:
    """Move a finished temporary file to its name, durably."""
    synchronize(temporary)
    temporary.replace(path)
    synchronize(path.parent)


def synchronize(path: Path) -> None:
    """Force a file, or the entries of a folder, to disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError:
        # Some network file systems refuse fsync on a folder; the entry is then as durable as they make it.
        if not path.is_dir():
            raise
    finally:
        os.close(descriptor)


def write_json(path: Path, value: Any) -> None:  # Any: whatever JSON can hold
    """Write a value as JSON, atomically; floats are written so that they come back bit for bit."""
    write_atomically(path, json.dumps(value, indent=1, allow_nan=False) + "\n")


def read_json(path: Path) -> Any:  # Any: whatever JSON can hold
    """Read what `write_json` wrote."""
    return json.loads(path.read_text())
