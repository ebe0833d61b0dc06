from collections.abc import Mapping
from pathlib import Path
from typing import TypeVar

from prefect import runtime

from surveyor.errors import InputError
from surveyor.parameter_files import absolute_paths
from surveyor.parameters import Parameters

P = TypeVar("P", bound=Parameters)


def with_absolute_paths(parameters: P, files: Mapping[str, Path], folders: Mapping[str, Path | None]) -> P:
    """Take relative paths as relative to the current folder; a deployment's run has none that means anything.

    Args:
        parameters: of a flow.
        files: that they name, by field.
        folders: that they name, by field.

    Raises:
        InputError: a path of a deployment's run is relative.
    """
    paths = {**files, **folders}
    relative = [f"{name}: {path}" for name, path in paths.items() if path is not None and not path.is_absolute()]
    if relative and runtime.deployment.id is not None:
        raise InputError(
            f"a deployment runs in a folder of its own: expected absolute paths, found {', '.join(relative)}"
        )
    return absolute_paths(parameters, Path.cwd())
