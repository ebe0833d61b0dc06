"""What makes a call the continuation of a campaign on disk: its parameters, and copies of the files they name."""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from surveyor.campaign.parameters import CampaignParameters, flat, parse_campaign, shown, with_paths
from surveyor.errors import InputError
from surveyor.files import read_json, write_atomically, write_json
from surveyor.run_directory import SCHEMA_VERSION, RunDirectory, check_schema

MAY_CHANGE = (
    "run_directory",
    "labels",
    "learning.n_generations",
    "learning.max_labels",
    "learning.max_failed_fraction",
    "learning.target_energy_meV_per_atom",
    "learning.target_forces_meV_per_A",
    "pools",
    "codes",
    "wandb",
)


def check_continuation(directory: RunDirectory, parameters: CampaignParameters) -> None:
    """Check that a run directory is new, or holds a campaign with these parameters.

    Raises:
        InputError: it holds one with other parameters: shows the difference.
    """
    if not directory.parameters.exists():
        return
    record = read_json(directory.parameters)
    check_schema(record, directory.parameters)
    # Read again, what a former version has recorded has the fields that are new, with their defaults.
    recorded = parse_campaign(record["parameters"], str(directory.parameters)).model_dump(mode="json")
    given = parameters.model_dump(mode="json")
    differences = parameter_differences(recorded, record["files"], given, _hashes(parameters))
    if differences:
        lines = [f"  {name}: {there} there, {here} here" for name, there, here in differences]
        advice = "choose another run directory, restore the parameters, or begin a new campaign with --from"
        raise InputError("\n".join([f"{directory.path} holds a campaign with other parameters:", *lines, advice]))


def _hashes(parameters: CampaignParameters) -> dict[str, str]:
    return {name: hashlib.sha256(path.read_bytes()).hexdigest() for name, path in parameters.input_files().items()}


def freeze_parameters(directory: RunDirectory, parameters: CampaignParameters) -> None:
    """Keep the parameters of a campaign, and copies of the files that they name."""
    hashes, given = _hashes(parameters), parameters.model_dump(mode="json")
    for name, path in parameters.input_files().items():
        _copy_input(path, _input_copy(directory, path, hashes[name]))
    write_json(directory.parameters, {"schema_version": SCHEMA_VERSION, "parameters": given, "files": hashes})


def _input_copy(directory: RunDirectory, path: Path, digest: str) -> Path:
    return directory.inputs / f"{digest[:12]}-{path.name}"


def _copy_input(path: Path, copy: Path) -> None:
    if not copy.exists():
        write_atomically(copy, path.read_bytes())


def parameter_differences(
    there: Mapping[str, Any], files_there: Mapping[str, str], here: Mapping[str, Any], files_here: Mapping[str, str]
) -> list[tuple[str, str, str]]:
    """Return the fields that differ although they may not, each with what is there and what is here.

    Args:
        there: recorded parameters, as JSON holds them.
        files_there: recorded hashes of the files they name, by field.
        here: parameters that are given now.
        files_here: hashes of the files that they name.
    """
    old = {**flat(there), **{name: f"file with hash {digest[:12]}" for name, digest in files_there.items()}}
    new = {**flat(here), **{name: f"file with hash {digest[:12]}" for name, digest in files_here.items()}}
    names = [name for name in sorted({*old, *new}) if not name.startswith(MAY_CHANGE)]
    return [
        (name, shown(old.get(name, "nothing")), shown(new.get(name, "nothing")))
        for name in names
        if old.get(name) != new.get(name)
    ]


def recorded_parameters(directory: RunDirectory) -> CampaignParameters:
    """Return the parameters of a campaign on disk, with the copies of the files that they name.

    Raises:
        InputError: a newer surveyor wrote them.
    """
    record = read_json(directory.parameters)
    check_schema(record, directory.parameters)
    recorded = CampaignParameters.model_validate(record["parameters"])
    copies = {
        path: _input_copy(directory, path, record["files"][name]) for name, path in recorded.input_files().items()
    }
    return with_paths(recorded, lambda path: copies.get(path, path))
