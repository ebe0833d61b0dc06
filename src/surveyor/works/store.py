"""The label store of work: which it is, and whether it is there."""

from pathlib import Path

from surveyor.errors import InputError
from surveyor.files import read_json, write_json
from surveyor.labels import LabelStore
from surveyor.run_directory import SCHEMA_VERSION, RunDirectory, check_schema
from surveyor.storage import MARK, FolderStorage
from surveyor.works.parameters import WorkParameters


def open_store(directory: RunDirectory, parameters: WorkParameters) -> LabelStore:
    """Return the label store of work; record its mark, by which the work recognizes it when it continues."""
    folder = parameters.label_store.absolute()
    if "labels" not in parameters.written_folders:
        return LabelStore.in_folder(folder)
    storage = FolderStorage(folder).marked(recorded_mark(directory, folder))
    record = {"schema_version": SCHEMA_VERSION, "folder": str(folder), "mark": storage.mark}
    write_json(directory.label_store, record)
    return LabelStore(storage)


def check_store(directory: RunDirectory, parameters: WorkParameters) -> None:
    """Check that the label store that work has used is there.

    A folder that holds labels but no mark is taken for this store: somebody has copied the labels alone.

    Raises:
        InputError: the folder is missing, empty, or has another mark, as its file system may be away.
    """
    storage = FolderStorage(parameters.label_store.absolute())
    mark, found = recorded_mark(directory, storage.folder), storage.found_mark()
    if mark and found != mark and (found or not any(storage.list("labels/"))):
        raise InputError(
            f"labels: {directory.path} has kept labels in {storage}, which now holds "
            f"{'another label store' if found else 'none'}; expected {MARK} with {mark} there. Mount its file system, "
            f"or give the folder to which it was moved. To begin with an empty store, remove {directory.label_store}"
        )


def recorded_mark(directory: RunDirectory, folder: Path) -> str:
    """Return the mark of the store that work has used in a folder; empty if it has used none there."""
    if not directory.label_store.exists():
        return ""
    record = read_json(directory.label_store)
    check_schema(record, directory.label_store)
    return str(record["mark"]) if record["folder"] == str(folder) else ""
