"""Files that are whole or absent: a crash at any moment leaves no half-written file under its final name."""

import errno
import json
import logging
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from surveyor.errors import InputError, StorageFailed

T = TypeVar("T")

FULL = (errno.ENOSPC, errno.EDQUOT)  # errors of a disk, or of a user's part of it, without room
PATIENCE_S = 900.0  # how long to wait for room on a full disk
RETRY_S = 10.0
SOME_BYTES = 1 << 16  # a disk without room for them is full

logger = logging.getLogger(__name__)


@contextmanager
def temporary_beside(path: Path) -> Iterator[Path]:
    """Provide a new temporary path in the folder of `path`, and remove a remaining file at the end.

    Args:
        path: final path of the file; its folder is created.
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


def write_atomically(path: Path, content: str | bytes, *, is_patient: bool = True) -> None:
    """Write a file atomically: readers see either the old or the new content.

    Args:
        path: the file.
        content: the new content.
        is_patient: whether to wait for space if the disk is full.

    Raises:
        StorageFailed: the disk stays full.
    """
    encoded = content.encode() if isinstance(content, str) else content
    write_with(lambda temporary: temporary.write_bytes(encoded), path, is_patient=is_patient)


def write_with(write: Callable[[Path], object], path: Path, *, is_patient: bool = True) -> None:
    """Write a file atomically by a function that is given a temporary path, as `write_atomically` does.

    Args:
        write: writes the file; it may be called again.
        path: where the file shall finally be.
        is_patient: whether to wait for room where the disk is full.

    Raises:
        StorageFailed: the disk stays full.
    """

    def attempt() -> None:
        with temporary_beside(path) as temporary:
            write(temporary)
            publish(temporary, path)

    if is_patient:
        patiently(attempt, path)
    else:
        attempt()


def is_full(error: OSError) -> bool:
    """Return whether an error means that a disk, or a user's quota on it, is full."""
    if isinstance(error, shutil.Error):  # it has the errors of several files
        return any(os.strerror(number) in str(error) for number in FULL)
    return error.errno in FULL


def is_disk_full(folder: Path) -> bool:
    """Return whether the disk of a folder is full, or the user's quota on it."""
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(bytes(SOME_BYTES))
            file.flush()
    except OSError as error:
        return is_full(error)
    return False


def append_text(path: Path, text: str) -> None:
    """Append text to a file, all of it or nothing; wait for room if the disk is full.

    Args:
        path: the file; its folder is created.
        text: the text.

    Raises:
        StorageFailed: the disk stays full.
    """

    def attempt() -> None:
        make_folder(path.parent)
        with path.open("ab", buffering=0) as file:
            size = file.tell()
            try:
                written = file.write(text.encode())
                if written < len(text.encode()):
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
            except OSError:
                file.truncate(size)
                raise

    patiently(attempt, path)


def patiently(attempt: Callable[[], T], path: Path) -> T:
    """Call a function that writes a file; while the disk is full, wait for room and call it again.

    Raises:
        StorageFailed: the disk stays full; names the file and its file system.
    """
    deadline = time.monotonic() + PATIENCE_S
    while True:
        try:
            return attempt()
        except OSError as error:
            if not is_full(error):
                raise
            found = f"{path} cannot be written: {error.strerror or error}; {describe_disk(path)}"
            if time.monotonic() > deadline:
                raise StorageFailed(f"{found}, after {PATIENCE_S / 60:g} min of waiting. {REMEDY}") from error
            logger.warning("%s. Make room; until then this waits", found)
            time.sleep(RETRY_S)


def outlast(attempt: Callable[[], T], problem: str, remedy: str) -> T:
    """Call a function; while its file system is full or away, wait and call it again.

    Args:
        attempt: reads or writes.
        problem: what cannot be done meanwhile, for messages.
        remedy: what to do if waiting does not help, for the message.

    Raises:
        StorageFailed: the file system stays full or away.
    """
    deadline = time.monotonic() + PATIENCE_S
    while True:
        try:
            return attempt()
        except OSError as error:
            if time.monotonic() > deadline:
                waited = f"after {PATIENCE_S / 60:g} min of waiting"
                raise StorageFailed(f"{problem}: {error}, {waited}. {remedy}") from error
            logger.warning("%s: %s. Until this is fixed, the work waits", problem, error)
            time.sleep(RETRY_S)


REMEDY = (
    "Make room, then give the same command: it continues, and nothing that was finished is lost. "
    "`surveyor calculations clean` removes outputs of failed calculations"
)


@contextmanager
def naming_full_disks(*folders: Path) -> Iterator[None]:
    """Name the full disks in errors for lack of space within the block, as such errors name no file.

    Raises:
        StorageFailed: a disk is full; names the file systems of the folders, with their free space.
    """
    try:
        yield
    except OSError as error:
        if not is_full(error):
            raise
        file = error.filename or "a file"
        disks = "; ".join(dict.fromkeys(describe_disk(folder) for folder in (*folders, Path(tempfile.gettempdir()))))
        raise StorageFailed(f"{file} cannot be written: {error.strerror or error}; {disks}. {REMEDY}") from error


def describe_disk(path: Path) -> str:
    """Return where the file system of a path is mounted, and how much of it is free."""
    folder = next(each for each in (path.absolute(), *path.absolute().parents) if each.is_dir()).resolve()
    mount = next(each for each in (folder, *folder.parents) if os.path.ismount(each))
    usage = shutil.disk_usage(folder)
    return f"the file system at {mount} has {usage.free / 1e6:.4g} of {usage.total / 1e6:.4g} MB free"


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


def write_json(path: Path, value: Any, *, is_patient: bool = True) -> None:  # Any: whatever JSON can hold
    """Write a value as JSON, as `write_atomically` does; floats are written so that they come back bit for bit."""
    write_atomically(path, json.dumps(value, indent=1, allow_nan=False) + "\n", is_patient=is_patient)


def read_json(path: Path) -> Any:  # Any: whatever JSON can hold
    """Return the content of a file that `write_json` wrote."""
    return json.loads(path.read_text())


def read_arrays(path: Path, schema_version: int) -> dict[str, np.ndarray]:
    """Return the arrays that `write_arrays` wrote, by name.

    Args:
        path: the file; one of its arrays is `schema_version`.
        schema_version: the newest that can be read.

    Raises:
        InputError: a newer surveyor wrote the file.
    """
    arrays = load_arrays(path)
    found = int(arrays["schema_version"])
    if found > schema_version:
        raise InputError(
            f"{path} has schema version {found}, this surveyor reads up to {schema_version}; update surveyor"
        )
    return arrays


def load_arrays(path: Path) -> dict[str, np.ndarray]:
    """Read the arrays of a file, each once, whatever its schema version."""
    with np.load(path, allow_pickle=False) as arrays:
        return dict(arrays)


def write_arrays(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Write plain arrays by name (npz), as `write_atomically` does."""

    def write(temporary: Path) -> None:
        with temporary.open("wb") as file:
            np.savez(file, **arrays)  # type: ignore[arg-type]  # numpy's stub takes the names for its own options

    write_with(write, path)
