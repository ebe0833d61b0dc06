"""The folders of calculations, one for each attempt at a label: which of them are kept, and for how long."""

import re
import shutil
import tempfile
from collections.abc import Collection, Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from surveyor.labels.claims import Claim
from surveyor.labels.failures import LabelFailure
from surveyor.labels.store import LabelStore
from surveyor.storage import key_of

N_FAILED = 100  # folders of failed attempts are kept in a scratch folder; their last lines are in the store in any case
FAILURE = "FAILURE.txt"  # in the folder of a failed attempt: why it failed
FOLDER = re.compile(r"(?P<digits>[0-9a-f]{16})-.+")


def new_folder(scratch: Path, key: str, attempt: int) -> Path:
    """Make a folder for an attempt at a label, and return it.

    Its own one: the same label may still be in computation where a dead flow has submitted it.

    Args:
        scratch: folder of all calculations.
        key: of the label.
        attempt: 1 for the first one.
    """
    scratch.mkdir(parents=True, exist_ok=True)
    return Path(tempfile.mkdtemp(prefix=f"{_digits(key)}-{attempt}-", dir=scratch))


def folders_of(scratch: Path, key: str) -> list[Path]:
    """Return the folders of all attempts at a label, the first one first."""
    return sorted(scratch.glob(f"{_digits(key)}-*"))


def remove_folders(scratch: Path, key: str) -> None:
    """Remove the folders of all attempts at a label that is in the store."""
    for folder in folders_of(scratch, key):
        shutil.rmtree(folder, ignore_errors=True)


def keep_failed(folder: Path, why: str) -> None:
    """Say in the folder of an attempt why it failed, and remove the oldest folders of failed attempts."""
    with suppress(OSError):  # a full disk: then it is found by the record in the store
        (folder / FAILURE).write_text(f"{why}\n")
    _remove_oldest([each.parent for each in folder.parent.glob(f"*/{FAILURE}")], N_FAILED)


def is_judged(folder: Path, failures: Iterable[LabelFailure]) -> bool:
    """Return whether a recorded failure names the folder of an attempt, or a file in it, as its output.

    Any other attempt may have finished and been killed before its label was stored.
    """
    return any(folder.name in Path(failure.output or "").parts for failure in failures)


def folder_in(output: str) -> Path:
    """Return the folder of the attempt whose output is at a path: the folder itself, or a file in it.

    Args:
        output: as a recorded failure names it; one that is in no such folder is returned as it is.
    """
    path = Path(output)
    return next((each for each in (path, *path.parents) if FOLDER.fullmatch(each.name)), path)


@dataclass(frozen=True, slots=True)
class Cleaned:
    """The outcome of a cleaning.

    Attributes:
        n_removed: number of removed folders.
        n_bytes: total size of their files.
        n_kept: number of remaining folders.
        claimed: remaining labels that are claimed by processes on other hosts, which may be alive or dead.
    """

    n_removed: int
    n_bytes: int
    n_kept: int
    claimed: tuple[Claim, ...] = ()


def clean(scratch: Path, store: LabelStore, *, n_failed: int = 0, interrupted: bool = False) -> Cleaned:
    """Remove folders of calculations whose outcome is in the store.

    Running calculations are kept; a claim of a dead process on this host does not count as running.

    Args:
        scratch: folder of all calculations.
        store: the label store.
        n_failed: number of the newest folders of failed attempts to keep.
        interrupted: also remove folders of interrupted attempts, which the next attempt could read.
    """
    folders = [each for each in scratch.glob("*") if FOLDER.fullmatch(each.name) and each.is_dir()]
    claims = _claims(store, {each.name[:16] for each in folders})
    labelled = _keys(store, "labels/")
    free = [each for each in folders if each.name[:16] not in claims]
    removed = [each for each in free if each.name[:16] in labelled]
    rest = [each for each in free if each.name[:16] not in labelled]
    recorded = _failures(store, {each.name[:16] for each in rest})
    of_failures = [each for each in rest if (each / FAILURE).exists() or is_judged(each, recorded[each.name[:16]])]
    removed += _newest_first(of_failures)[n_failed:]
    if interrupted:
        removed += [each for each in rest if each not in of_failures]
    n_bytes = sum(_size(each) for each in removed)
    for each in removed:
        shutil.rmtree(each, ignore_errors=True)
    elsewhere = tuple(claim for claim in claims.values() if not claim.is_on_this_host)
    return Cleaned(len(removed), n_bytes, len(folders) - len(removed), elsewhere)


def _digits(key: str) -> str:
    return key.partition(":")[2][:16]


def _keys(store: LabelStore, kind: str) -> dict[str, str]:
    """Return the keys of all records of a kind, by their first digits."""
    keys = (key_of(name) for name in store.storage.list(kind))
    return {_digits(key): key for key in keys}


def _claims(store: LabelStore, digits: Collection[str]) -> dict[str, Claim]:
    """Return the claims on labels, by the first digits of their keys, unless their process is known to have ended."""
    found = {each: store.claims.of(key) for each, key in _keys(store, "claims/").items() if each in digits}
    return {each: claim for each, claim in found.items() if claim is not None and not claim.has_ended}


def _failures(store: LabelStore, digits: Collection[str]) -> dict[str, tuple[LabelFailure, ...]]:
    """Return the recorded failures of some labels, by the first digits of their keys."""
    keys = _keys(store, "failures/")
    return {each: store.failures(keys[each]) if each in keys else () for each in digits}


def _remove_oldest(folders: list[Path], n_kept: int) -> None:
    for folder in _newest_first(folders)[n_kept:]:
        shutil.rmtree(folder, ignore_errors=True)


def _newest_first(folders: list[Path]) -> list[Path]:
    return sorted(folders, key=_time, reverse=True)


def _time(folder: Path) -> float:
    try:
        return folder.stat().st_mtime
    except FileNotFoundError:  # another worker has removed it
        return 0.0


def _size(folder: Path) -> int:
    sizes = 0
    for path in folder.rglob("*"):
        with suppress(OSError):
            sizes += path.lstat().st_size
    return sizes
