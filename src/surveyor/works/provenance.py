"""The runs of work: when they began, on which host, with which versions."""

import platform
import time
from importlib import metadata
from typing import Any

from surveyor.files import read_json, write_json
from surveyor.run_directory import SCHEMA_VERSION, RunDirectory

VERSIONS = ("surveyor", "prefect", "ase", "numpy", "distributed", "mace-torch", "torch", "tblite")


def record_run(directory: RunDirectory) -> None:
    """Add this run to the provenance of the work in a folder."""
    runs: list[Any] = read_json(directory.provenance)["runs"] if directory.provenance.exists() else []  # Any: JSON
    run = {"begin": time.strftime("%Y-%m-%dT%H:%M:%S%z"), "host": platform.node(), "python": platform.python_version()}
    runs.append({**run, "versions": installed_versions()})
    write_json(directory.provenance, {"schema_version": SCHEMA_VERSION, "runs": runs})


def installed_versions() -> dict[str, str]:
    """Return the versions of surveyor and of the packages that it uses, as far as they are installed."""
    versions = {}
    for name in VERSIONS:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return versions
