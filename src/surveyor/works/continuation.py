"""The records by which a call continues work on disk: the parameters, and the level of theory."""

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from surveyor.errors import InputError
from surveyor.files import read_json, write_atomically, write_json
from surveyor.labels import LevelOfTheory, load_theory, save_theory
from surveyor.parameters.files import flat, format_value, parse_parameters, path_in_brackets, with_paths
from surveyor.run_directory import (
    FORMER_STOP,
    FORMER_WINDOWS,
    SCHEMA_VERSION,
    SINGLE_UNCERTAINTY,
    WEIGHTS_COUNT,
    RunDirectory,
    check_schema,
)
from surveyor.works.parameters import WorkParameters

P = TypeVar("P", bound=WorkParameters)

INDEX = re.compile(r"\[\d+\]|\.\d+(?=\.)")  # of an entry of a list, in the dotted name of a field


def record_parameters(directory: RunDirectory, parameters: WorkParameters, kind: str) -> None:
    """Keep the parameters of work, and the hashes of the files that they name."""
    record = {
        "schema_version": SCHEMA_VERSION,
        "kind": kind,
        "parameters": parameters.model_dump(mode="json"),
        "files": hashes_of(parameters.recorded_files()),
        WEIGHTS_COUNT: directory.obeys_weights,
        FORMER_WINDOWS: directory.has_former_windows,
        FORMER_STOP: directory.has_former_stop,
        SINGLE_UNCERTAINTY: directory.has_single_uncertainty,
    }
    write_json(directory.parameters, record)


def keep_inputs(directory: RunDirectory, parameters: WorkParameters) -> None:
    """Keep copies of the files that parameters name."""
    files = parameters.input_files()
    for name, digest in hashes_of(files).items():
        copy = _copy_of(directory, files[name], digest)
        if not copy.exists():
            write_atomically(copy, files[name].read_bytes())


def _copy_of(directory: RunDirectory, path: Path, digest: str) -> Path:
    return directory.inputs / f"{digest[:12]}-{path.name}"


def recorded_parameters(directory: RunDirectory, kind: type[P]) -> P:
    """Return the parameters of work on disk, with the copies of the files that they name.

    Raises:
        InputError: a newer surveyor wrote them.
    """
    record = read_json(directory.parameters)
    check_schema(record, directory.parameters)
    recorded, digests = kind.model_validate(record["parameters"]), _recorded_files(record)
    copies = {path: _copy_of(directory, path, digests[name]) for name, path in recorded.input_files().items()}
    return with_paths(recorded, lambda path: copies.get(path, path))


def _recorded_files(record: Mapping[str, Any]) -> dict[str, str]:  # Any: JSON
    """Return the hashes of the files in a record of parameters, by the path of the field."""
    return {path_in_brackets(name): digest for name, digest in record["files"].items()}


def check_same_parameters(
    directory: RunDirectory, parameters: WorkParameters, may_change: Sequence[str], kind: str, advice: str
) -> None:
    """Check that work on disk is continued with the parameters with which it began.

    Args:
        directory: of the work, or a new one.
        parameters: that are given now.
        may_change: fields, with all below them; a field of the entries of a list without their number.
        kind: of the work, for the message, such as "labelling".
        advice: what to do, for the message.

    Raises:
        InputError: it is not: shows the difference; or a newer surveyor wrote the record.
    """
    if not directory.parameters.exists():
        return
    record = read_json(directory.parameters)
    check_schema(record, directory.parameters)
    # Read again, what a former version has recorded has the fields that are new, with their defaults.
    recorded = parse_parameters(type(parameters), record["parameters"], str(directory.parameters))
    differences = parameter_differences(
        recorded.model_dump(mode="json"),
        _recorded_files(record),
        parameters.model_dump(mode="json"),
        hashes_of(parameters.recorded_files()),
        may_change,
    )
    if differences:
        lines = [f"  {name}: {there} there, {here} here" for name, there, here in differences]
        raise InputError("\n".join([f"{directory.path} holds a {kind} with other parameters:", *lines, advice]))


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
    """Return the fields that must not differ but do, each with the recorded and the given value.

    Args:
        there: recorded parameters, as JSON values.
        files_there: recorded hashes of their files, by field.
        here: given parameters.
        files_here: hashes of their files.
        may_change: fields that may differ, with all their subfields; for entries of a list, without the index.
    """
    old = {**flat(there), **{name: f"file with hash {digest[:12]}" for name, digest in files_there.items()}}
    new = {**flat(here), **{name: f"file with hash {digest[:12]}" for name, digest in files_here.items()}}
    names = [name for name in sorted({*old, *new}) if not INDEX.sub("", name).startswith(tuple(may_change))]
    return [
        (name, format_value(old.get(name, "nothing")), format_value(new.get(name, "nothing")))
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
