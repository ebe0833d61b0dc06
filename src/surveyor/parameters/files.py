"""Parameter files of users, and messages about their errors."""

import re
from collections.abc import Callable, Mapping, Sequence
from difflib import get_close_matches
from functools import partial
from pathlib import Path
from typing import Any, TypeVar, get_args

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from surveyor.errors import InputError
from surveyor.parameters.parameters import Parameters
from surveyor.parameters.yaml_files import place_in, read_yaml
from surveyor.words import number_of

FIELD = re.compile(r"[A-Za-z_]\w*(\.\w+|\[\d+\])*(?=: )")

K = TypeVar("K", bound=Parameters)


def load_parameters(kind: type[K], path: Path, what: str, fields: str) -> K:
    """Read a file of parameters (YAML); paths in it are relative to the folder it is in.

    Args:
        kind: class of the parameters.
        path: the file.
        what: name of this kind of file in messages, such as "campaign file".
        fields: some fields that it should have, for messages.

    Raises:
        InputError: the file is missing or not YAML, or fields are wrong; the message names each field, what was found
            and what is expected.
    """
    content = read_fields(path, what, fields)
    return absolute_paths(parse_parameters(kind, content, str(path), path), path.absolute().parent)


def read_fields(path: Path, what: str, fields: str) -> dict[str, Any]:  # Any: what YAML holds
    """Return the fields of a YAML file, unchecked.

    Raises:
        InputError: the file is missing, is no YAML, or holds something else.
    """
    if path.is_dir():
        raise InputError(f"{path} is a folder; expected a file, the {what}")
    if not path.is_file():
        raise InputError(f"{what} {path} does not exist")
    return read_yaml(path, f"fields such as {fields}")


def parse_parameters(
    kind: type[K],
    content: Mapping[str, Any],  # Any: what YAML holds
    name: str,
    file: Path | None = None,
) -> K:
    """Return the parameters in a mapping."""
    try:
        return kind.model_validate(content)
    except ValidationError as error:
        lines = [f"  {_complaint(kind, each, file)}" for each in error.errors()]
        raise InputError("\n".join([f"{name} has {number_of(len(lines), 'wrong field')}:", *lines])) from error


def _complaint(kind: type[BaseModel], error: ErrorDetails, file: Path | None) -> str:
    """Return the path of a field, its place in the file, the error, the value found, and the valid fields."""
    *parents, name = error["loc"] or ("",)
    message = _with_place(f"{complaint_of(error)}{_found(error)}", file)
    if error["type"] != "extra_forbidden":
        return message
    known = _fields_of(kind, parents)
    guesses = get_close_matches(str(name), known, n=1)
    advice = f"did you mean {guesses[0]}?" if guesses else f"leave it out; there are {', '.join(known)}"
    return f"{message}; {advice}"


def _found(error: ErrorDetails) -> str:
    """Return the value that is wrong, unless it is that of a whole model, on which the message says enough."""
    if error["type"] == "missing" or (error["type"] == "value_error" and isinstance(error["input"], Mapping)):
        return ""
    return f" (found {format_value(error['input'])})"


def complaint_of(error: ErrorDetails) -> str:
    """Return pydantic's message on a field, after the path of the field, such as `walkers[0].start`."""
    message = error["msg"].removeprefix("Value error, ")
    return f"{path_of(error['loc'])}: {message}" if error["loc"] else message


def path_of(location: Sequence[int | str]) -> str:
    """Return the path of a field, such as `walkers[0].start`, from names of fields and indices of lists."""
    return "".join(f"[{each}]" if isinstance(each, int) else f".{each}" for each in location).removeprefix(".")


def path_in_brackets(path: str) -> str:
    """Return the path of a field with its indices in brackets, given as former versions wrote it: `walkers.0.start`."""
    return re.sub(r"\.(\d+)(?=\.|$)", r"[\1]", path)


def located(message: str, file: Path) -> str:
    """Return a message that begins with the path of a field, with the line and column of the field in a YAML file.

    Other messages are returned as they are.
    """
    return _with_place(message, file) if file.is_file() else message


def _with_place(message: str, file: Path | None) -> str:
    field = FIELD.match(message)
    if file is None or field is None:
        return message
    names = re.findall(r"\w+", field[0])
    place = place_in(file, [int(name) if name.isdecimal() else name for name in names])
    return f"{field[0]} ({place}){message[field.end() :]}" if place else message


def _fields_of(kind: type[BaseModel], names: Sequence[int | str]) -> list[str]:
    """Return the fields of the model that is reached from another by names of fields and indices of lists."""
    for name in names:
        if isinstance(name, str):
            kind = _model_in(kind.model_fields[name].annotation) or kind
    return list(kind.model_fields)


def _model_in(annotation: Any) -> type[BaseModel] | None:  # Any: a type, such as list[Walkers] or WandB | None
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((model for each in get_args(annotation) if (model := _model_in(each))), None)


def format_value(value: Any) -> str:  # Any: what the user wrote
    """Return a value as a message shows it, shortened where it is long."""
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def absolute_paths(parameters: K, folder: Path) -> K:
    """Return the parameters with every relative path taken as relative to a folder."""
    return with_paths(parameters, partial(_absolute, folder))


def _absolute(folder: Path, path: Path) -> Path:
    return (folder / path.expanduser()).resolve()


def with_paths(parameters: K, change: Callable[[Path], Path]) -> K:
    """Return the parameters with every path changed."""

    def changed(value: Any) -> Any:  # Any: whatever parameters hold
        if isinstance(value, Path):
            return change(value)
        if isinstance(value, dict):
            return {name: changed(each) for name, each in value.items()}
        return [changed(each) for each in value] if isinstance(value, list | tuple) else value

    return type(parameters).model_validate(changed(parameters.model_dump(mode="python")))


def files_named(parameters: Parameters, folders: Sequence[str] = ()) -> dict[str, Path]:
    """Return the files that parameters name, by the path of the field."""
    values = flat(parameters.model_dump(mode="python"))
    return {name: value for name, value in values.items() if isinstance(value, Path) and name not in folders}


def flat(value: Any, name: str = "") -> dict[str, Any]:  # Any: whatever parameters hold
    """Return nested values by the paths of their fields."""
    if isinstance(value, Mapping) and value:
        items: Sequence[tuple[Any, Any]] = list(value.items())
    elif isinstance(value, list | tuple) and value:
        items = list(enumerate(value))
    else:
        return {name: value}
    values: dict[str, Any] = {}
    for key, each in items:
        values |= flat(each, f"{name}[{key}]" if isinstance(key, int) else f"{name}.{key}".removeprefix("."))
    return values


def check_files_exist(files: Mapping[str, Path], what: str) -> None:
    """Check that the files named in parameters exist."""
    for name, path in files.items():
        if path.is_dir():
            raise InputError(f"{name}: {path} is a folder; expected a file")
        if not path.is_file():
            raise InputError(
                f"{name}: file {path} does not exist; paths in a {what} are relative to the folder of that file"
            )


def check_no_file(name: str, folder: Path) -> None:
    """Check that the path of a folder is not a file."""
    if folder.exists() and not folder.is_dir():
        raise InputError(f"{name}: {folder} is a file; expected a folder, or a new name")
