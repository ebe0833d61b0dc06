"""What makes a call the continuation of work on disk: the parameters and the level of theory recorded there."""

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from surveyor.errors import InputError
from surveyor.files import read_json, write_json
from surveyor.labels import LevelOfTheory, load_theory, save_theory
from surveyor.parameter_files import flat, parse_parameters, path_in_brackets, shown
from surveyor.parameters import Parameters
from surveyor.run_directory import SCHEMA_VERSION, RunDirectory, check_schema

INDEX = re.compile(r"\[\d+\]|\.\d+(?=\.)")  # of an entry of a list, in the dotted name of a field


def record_parameters(path: Path, parameters: Parameters, files: Mapping[str, Path], **others: bool) -> None:
    """Keep parameters, and the hashes of the files that they name.

    Args:
        path: where to keep them.
        parameters: of the work.
        files: those that they name, by the path of the field.
        others: further entries of the record.
    """
    given = parameters.model_dump(mode="json")
    write_json(path, {"schema_version": SCHEMA_VERSION, "parameters": given, "files": hashes_of(files), **others})


def differences_from_record(
    path: Path, parameters: Parameters, files: Mapping[str, Path], may_change: Sequence[str]
) -> list[str]:
    """Return a line for each field that is recorded otherwise although it may not change; none where nothing is.

    Args:
        path: of the record.
        parameters: that are given now.
        files: those that they name, by the path of the field.
        may_change: fields, with all below them; a field of the entries of a list without their number.

    Raises:
        InputError: a newer surveyor wrote the record.
    """
    if not path.exists():
        return []
    record = read_json(path)
    check_schema(record, path)
    # Read again, what a former version has recorded has the fields that are new, with their defaults.
    recorded = parse_parameters(type(parameters), record["parameters"], str(path)).model_dump(mode="json")
    differences = parameter_differences(
        recorded, recorded_files(record), parameters.model_dump(mode="json"), hashes_of(files), may_change
    )
    return [f"  {name}: {there} there, {here} here" for name, there, here in differences]


def recorded_files(record: Mapping[str, Any]) -> dict[str, str]:  # Any: JSON
    """Return the hashes of the files in a record of parameters, by the path of the field."""
    return {path_in_brackets(name): digest for name, digest in record["files"].items()}


def check_same_parameters(
    directory: RunDirectory,
    parameters: Parameters,
    files: Mapping[str, Path],
    may_change: Sequence[str],
    what: str,
    advice: str,
) -> None:
    """Check that work on disk is continued with the parameters with which it began.

    Args:
        directory: of the work.
        parameters: that are given now.
        files: those that they name, by the path of the field.
        may_change: fields, with all below them; a field of the entries of a list without their number.
        what: the work, for the message, such as "labelling".
        advice: what to do, for the message.

    Raises:
        InputError: it is not.
    """
    lines = differences_from_record(directory.parameters, parameters, files, may_change)
    if lines:
        raise InputError("\n".join([f"{directory.path} holds a {what} with other parameters:", *lines, advice]))


def hashes_of(files: Mapping[str, Path]) -> dict[str, str]:
    """Return the hash of the content of each file."""
    return {name: hashlib.sha256(path.read_bytes()).hexdigest() for name, path in files.items()}


def parameter_differences(
    there: Mapping[str, Any],
    files_there: Mapping[str, str],
    here: Mapping[str, Any],
    files_here: Mapping[str, str],
    may_change: Sequence[str] = (),
) -> list[tuple[str, str, str]]:
    """Return the fields that differ although they may not, each with what is there and what is here.

    Args:
        there: recorded parameters, as JSON holds them.
        files_there: recorded hashes of the files they name, by field.
        here: parameters that are given now.
        files_here: hashes of the files that they name.
        may_change: fields, with all below them; a field of the entries of a list without their number.
    """
    old = {**flat(there), **{name: f"file with hash {digest[:12]}" for name, digest in files_there.items()}}
    new = {**flat(here), **{name: f"file with hash {digest[:12]}" for name, digest in files_here.items()}}
    names = [name for name in sorted({*old, *new}) if not INDEX.sub("", name).startswith(tuple(may_change))]
    return [
        (name, shown(old.get(name, "nothing")), shown(new.get(name, "nothing")))
        for name in names
        if old.get(name) != new.get(name)
    ]


def frozen_theory(path: Path, theory: LevelOfTheory, what: str) -> LevelOfTheory:
    """Keep the level of theory when work begins; later, check that it is still the same.

    Args:
        path: where it is kept.
        theory: as it is resolved now.
        what: the work, for the message, such as "campaign".

    Returns:
        The one with which the work began, under whose digest its labels are. Labels that work of later versions has
        under another digest are found, too.

    Raises:
        InputError: it is another one.
    """
    if not path.exists():
        save_theory(path, theory)
    frozen = load_theory(path)
    if not theory.is_same_as(frozen):
        changes = parameter_differences(dict(frozen.content), {}, json.loads(json.dumps(dict(theory.content))), {})
        lines = [f"  {name}: {there} then, {here} now" for name, there, here in changes]
        raise InputError(
            "\n".join([f"reference: the level of theory is not the one with which the {what} began:", *lines])
        )
    others = {theory.digest, *theory.former, *frozen.former} - {frozen.digest}
    return replace(frozen, former=tuple(sorted(others)))
