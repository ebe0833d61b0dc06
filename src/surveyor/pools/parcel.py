"""Calls and results as bytes, so that what cannot travel is an error of that call alone, and never of the worker."""

import pickle
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import cloudpickle  # type: ignore[import-untyped] # it has no types

from surveyor.errors import InputError


def name_of(function: Callable[..., object]) -> str:
    """Return the name of a function, or of the class of another callable."""
    return str(getattr(function, "__name__", type(function).__name__))


def pack(function: Callable[..., object], args: Sequence[object], kwargs: Mapping[str, object]) -> bytes:
    """Return a call as bytes: functions of modules by name, those of the main script or notebook by value.

    Raises:
        InputError: something in it cannot travel.
    """
    return _dumps((function, tuple(args), dict(kwargs)), f"the call of {name_of(function)}")


def unpack(content: bytes) -> Any:  # Any: whatever was packed
    """Return what was packed."""
    return pickle.loads(content)


def run_parcel(parcel: bytes) -> bytes:
    """Make a call that was packed and return its packed result. It runs on the worker.

    Raises:
        RuntimeError: the function called `sys.exit`, which would end the worker.
    """
    function, args, kwargs = unpack(parcel)
    try:
        result = function(*args, **kwargs)
    except SystemExit as error:
        raise RuntimeError(f"{name_of(function)} called sys.exit({error.code!r})") from error
    return _dumps(result, f"the result of {name_of(function)}")


def _dumps(value: object, what: str) -> bytes:
    try:
        return bytes(cloudpickle.dumps(value))
    except (TypeError, AttributeError, pickle.PicklingError) as error:
        raise InputError(
            f"{what} cannot travel to another process: {error}; use plain data, arrays, structures, parameters, paths"
        ) from error
