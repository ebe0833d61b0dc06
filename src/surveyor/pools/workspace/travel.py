"""Calls and results whose paths travel; the side that packs a path decides its meaning on the other side."""

import pickle
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import cloudpickle  # type: ignore[import-untyped] # it has no types

from surveyor.pools.transport import dumps

Mark = tuple[str, ...]  # what stands in place of a path
FILE, PLACE, FLOW = "file", "place", "flow"


class _Packer(cloudpickle.Pickler):  # type: ignore[misc] # it has no types
    def __init__(self, file: BytesIO, mark_of: Callable[[Path], Mark | None]) -> None:
        super().__init__(file)
        self._mark_of = mark_of

    def persistent_id(self, value: object) -> Mark | None:
        return self._mark_of(value) if isinstance(value, Path) else None


class _Unpacker(pickle.Unpickler):
    def __init__(self, file: BytesIO, path_of: Callable[[Mark], Path]) -> None:
        super().__init__(file)
        self._path_of = path_of

    def persistent_load(self, mark: Mark) -> Path:
        return self._path_of(mark)


def pack_paths(value: object, what: str, mark_of: Callable[[Path], Mark | None]) -> bytes:
    """Return a value as bytes, with marks in place of some of its paths.

    Args:
        value: the value.
        what: it is, for messages.
        mark_of: returns the mark of a path; None for a path that stays as it is.

    Raises:
        InputError: something in it cannot travel.
    """

    def pickled(value: object) -> bytes:
        with BytesIO() as file:
            _Packer(file, mark_of).dump(value)
            return file.getvalue()

    return dumps(value, what, pickled)


def unpack_paths(content: bytes, path_of: Callable[[Mark], Path]) -> Any:  # Any: whatever was packed
    """Return the value that was packed, with paths in place of the marks.

    Args:
        content: the bytes.
        path_of: returns the path of a mark.
    """
    return _Unpacker(BytesIO(content), path_of).load()
