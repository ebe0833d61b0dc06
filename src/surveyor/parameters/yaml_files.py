"""YAML files of users: their fields, the places of the fields, and readable error messages."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml

from surveyor.errors import InputError

Location = Sequence[int | str]
TYPES = {list: "a list", str: "text", int: "a number", float: "a number", bool: "true or false"}


def read_yaml(path: Path, expected: str) -> dict[str, Any]:  # Any: what YAML holds
    """Return the fields of a YAML file, unchecked.

    Raises:
        InputError: it is no YAML, holds something else, or a field twice; names the line.
    """
    node = _composed(path)
    if node is None:
        raise InputError(f"{path} is empty; expected {expected}")
    if repeated := next(_repeated(node, set()), None):
        first, second = repeated
        raise InputError(
            f"{path}, {_place(second.start_mark)}: found {second.value} again, which is on line "
            f"{first.start_mark.line + 1} already; leave one of them out"
        )
    content = yaml.safe_load(path.read_text(encoding="utf-8"))
    if not isinstance(content, dict):
        raise InputError(f"{path} holds {TYPES.get(type(content), 'no fields')}; expected {expected}")
    return content


def place_in(path: Path, location: Location) -> str:
    """Return where a field is in a YAML file, such as "line 3, column 5"; of a missing one, where its parent is.

    Args:
        path: of a valid file.
        location: names of fields and indices of lists.
    """
    node, mark = _composed(path), None
    for name in location:
        found = _child(node, name)
        if found is None:
            break
        mark, node = found
    return "" if mark is None else _place(mark)


def words_of(error: yaml.YAMLError) -> str:
    """Return the error in a YAML text, with its place."""
    if isinstance(error, yaml.reader.ReaderError):
        return f"found the character #x{error.character:04x}, which YAML does not allow"
    if not isinstance(error, yaml.MarkedYAMLError) or error.problem_mark is None:
        return str(error)
    context = f" ({error.context})" if error.context else ""
    return f"{_place(error.problem_mark)}: {error.problem}{context}"


def _composed(path: Path) -> yaml.Node | None:
    try:
        return yaml.compose(path.read_text(encoding="utf-8"), Loader=yaml.SafeLoader)
    except yaml.YAMLError as error:
        raise InputError(f"{path} is not valid YAML: {words_of(error)}") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not text in UTF-8; expected a YAML file") from error


def _repeated(node: yaml.Node, seen: set[int]) -> Iterator[tuple[yaml.Node, yaml.Node]]:
    """Yield pairs of equal keys of a mapping anywhere below a node."""
    if id(node) in seen:  # an alias
        return
    seen.add(id(node))
    if isinstance(node, yaml.MappingNode):
        keys: dict[Any, yaml.Node] = {}  # Any: the text of a key, or a list
        for key, value in node.value:
            name = (key.tag, str(key.value))
            if name in keys:
                yield keys[name], key
            keys[name] = key
            yield from _repeated(value, seen)
    elif isinstance(node, yaml.SequenceNode):
        for value in node.value:
            yield from _repeated(value, seen)


def _child(node: yaml.Node | None, name: int | str) -> tuple[yaml.Mark, yaml.Node] | None:
    """Return the place and the value of a field of a mapping or an item of a list, or None."""
    if isinstance(node, yaml.MappingNode):
        return next(((key.start_mark, value) for key, value in node.value if str(key.value) == str(name)), None)
    if isinstance(node, yaml.SequenceNode) and isinstance(name, int) and name < len(node.value):
        return node.value[name].start_mark, node.value[name]
    return None


def _place(mark: yaml.Mark) -> str:
    return f"line {mark.line + 1}, column {mark.column + 1}"
