"""The label store of work: which it is, and whether it is there."""

from pathlib import Path

from surveyor.errors import InputError
from surveyor.files import read_json, write_json
from surveyor.labels import LabelStore
from surveyor.run_directory import SCHEMA_VERSION, RunDirectory, check_schema
from surveyor.storage import MARK, FolderStorage
from surveyor.storage.buckets import BucketAccess
from surveyor.storage.object_storage import ObjectStorage, prove, storage_at
from surveyor.works.parameters import WorkParameters


def open_store(directory: RunDirectory, parameters: WorkParameters, access: BucketAccess | None = None) -> LabelStore:
    """Return the label store of work; record its mark, by which the work recognizes it when it continues."""
    storage = storage_at(parameters.label_store, access)
    if not parameters.keeps_labels:
        return LabelStore(storage)
    storage = storage.marked(recorded_mark(directory, str(storage)))
    record = {"schema_version": SCHEMA_VERSION, "folder": str(storage), "mark": storage.mark}
    write_json(directory.label_store, record)
    return LabelStore(storage)


def check_store(directory: RunDirectory, parameters: WorkParameters) -> None:
    """Check that the folder of the label store that work has used is there.

    A folder that holds labels but no mark is taken for this store: somebody has copied the labels alone.

    Raises:
        InputError: the folder is missing, empty, or has another mark, as its file system may be away.
    """
    if isinstance(parameters.label_store, Path):
        _check_mark(directory, FolderStorage(parameters.label_store.absolute()))


def check_bucket(directory: RunDirectory, parameters: WorkParameters, access: BucketAccess | None) -> None:
    """Check that the bucket of the label store can be used, and is the one that the work has used.

    Raises:
        InputError: it cannot keep labels safely, refuses access, does not answer, or holds another store.
    """
    if not (parameters.keeps_labels and isinstance(parameters.label_store, str)):
        return
    storage = storage_at(parameters.label_store, access)
    if isinstance(storage, ObjectStorage):
        try:
            prove(storage)
        except InputError as error:
            raise InputError(f"labels: {error}") from error
        _check_mark(directory, storage)


def _check_mark(directory: RunDirectory, storage: FolderStorage | ObjectStorage) -> None:
    mark, found = recorded_mark(directory, str(storage)), storage.found_mark()
    if mark and found != mark and (found or not any(storage.list("labels/"))):
        away = "Mount its file system" if isinstance(storage, FolderStorage) else "Mend the access to its service"
        raise InputError(
            f"labels: {directory.path} has kept labels in {storage}, which now holds "
            f"{'another label store' if found else 'none'}; expected {MARK} with {mark} there. {away}, "
            f"or give the place to which it was moved. To begin with an empty store, remove {directory.label_store}"
        )


def recorded_mark(directory: RunDirectory, store: str) -> str:
    """Return the mark of the store that work has used at a place; empty if it has used none there."""
    if not directory.label_store.exists():
        return ""
    record = read_json(directory.label_store)
    check_schema(record, directory.label_store)
    return str(record["mark"]) if record["folder"] == store else ""
