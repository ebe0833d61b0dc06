"""The summary of work: its results, written as the last file, which marks the work as complete."""

from collections.abc import Mapping
from typing import Any

from surveyor.errors import InputError
from surveyor.files import read_json, write_json
from surveyor.run_directory import SCHEMA_VERSION, RunDirectory, check_schema


def is_complete(directory: RunDirectory) -> bool:
    """Return whether the work in a folder is complete."""
    return directory.summary.is_file()


def write_summary(directory: RunDirectory, content: Mapping[str, Any]) -> dict[str, Any]:  # Any: whatever JSON holds
    """Write the summary as the last file, and return it as written."""
    summary = {"schema_version": SCHEMA_VERSION, **content}
    write_json(directory.summary, summary)
    return summary


def read_summary(directory: RunDirectory) -> dict[str, Any]:  # Any: whatever JSON holds
    """Return the summary of the work in a folder.

    Raises:
        InputError: the work is not complete, or the summary was written by a newer version.
    """
    if not is_complete(directory):
        raise InputError(f"the work in {directory.path} is not complete; the same call continues it")
    summary: dict[str, Any] = read_json(directory.summary)
    check_schema(summary, directory.summary)
    return summary
