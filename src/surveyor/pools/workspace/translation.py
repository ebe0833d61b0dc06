"""Paths in texts for people: where a call runs in a temporary folder, those of the flow take their place."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

_translation: ContextVar[Callable[[str], str]] = ContextVar("translation", default=lambda text: text)


def translated(text: str) -> str:
    """Return a text for people and records, with the paths of the flow in place of those of a temporary folder."""
    return _translation.get()(text)


@contextmanager
def translating(translation: Callable[[str], str]) -> Iterator[None]:
    """Have texts translated within the block."""
    token = _translation.set(translation)
    try:
        yield
    finally:
        _translation.reset(token)
