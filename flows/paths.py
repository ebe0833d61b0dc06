import re
from pathlib import Path
from typing import TypeVar

from prefect import runtime

from surveyor.errors import InputError
from surveyor.parameters import Parameters
from surveyor.parameters.files import absolute_paths, files_named

P = TypeVar("P", bound=Parameters)


def with_absolute_paths(parameters: P) -> P:
    """Take relative paths as relative to the current folder; a deployment's run has none that means anything.

    Raises:
        InputError: a path of a deployment's run is relative.
    """
    relative = [f"{name}: {path}" for name, path in files_named(parameters).items() if not path.is_absolute()]
    if relative and runtime.deployment.id is not None:
        raise InputError(
            f"a deployment runs in a folder of its own: expected absolute paths, found {', '.join(relative)}"
        )
    return absolute_paths(parameters, Path.cwd())


def run_url() -> str | None:
    """Return the page of the current run, in the UI to which the address of a server leads: version 2.

    A temporary server of Prefect's has no UI, and nothing is returned.
    """
    url = str(runtime.flow_run.ui_url)
    return re.sub("^(https?://[^/]+)/(flow-)?runs/", r"\1/v2/runs/", url) if url.startswith("http") else None


def of_run(url: str | None) -> str:
    """Return the address of a run as the end of a line; empty without an address."""
    return "" if url is None else f"; this run: {url}"
