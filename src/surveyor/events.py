"""What happens, as it happens: append-only files of events, one JSON object a line.

A function that runs on a pool appends to a file of its own; the flow follows those files. So progress needs no
messaging of the pool's, and any executor serves.
"""

import json
import logging
import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class EventLog:
    """An append-only file of events.

    Attributes:
        path: the file; its folder is created.
    """

    path: Path

    def append(self, event: str, **details: Any) -> None:  # Any: whatever JSON holds
        """Append one event, in a single write, so that several processes can share the file.

        Args:
            event: what happened, a word such as "labelled".
            details: more about it.
        """
        self.path.parent.mkdir(parents=True, exist_ok=True)
        line = json.dumps({"time": round(time.time(), 3), "event": event, **details}) + "\n"
        descriptor = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        try:
            os.write(descriptor, line.encode())
        finally:
            os.close(descriptor)

    def read(self, offset: int = 0) -> tuple[list[Mapping[str, Any]], int]:  # Any: whatever JSON holds
        """Return the events from a position in the file on, and the position behind the last whole one."""
        try:
            with self.path.open("rb") as file:
                file.seek(offset)
                content = file.read()
        except FileNotFoundError:
            return [], offset
        whole = content[: content.rfind(b"\n") + 1]
        return [event for line in whole.splitlines() if (event := _event(line)) is not None], offset + len(whole)


def _event(line: bytes) -> Mapping[str, Any] | None:
    try:
        event: Mapping[str, Any] = json.loads(line)
    except ValueError:
        return None  # the torn last line of a process that was killed, to which another has appended
    return event


class _EventHandler(logging.Handler):
    def __init__(self, events: EventLog) -> None:
        super().__init__()
        self.events = events

    def emit(self, record: logging.LogRecord) -> None:
        self.events.append("log", level=record.levelno, message=record.getMessage())


@contextmanager
def reporting(events: EventLog) -> Iterator[None]:
    """Append what is logged under the logger "surveyor" to a file of events, as long as this lasts."""
    logger = logging.getLogger("surveyor")
    handler = _EventHandler(events)
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)


def call_reporting(path: Path, function: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
    """Call a function on a pool so that what it logs reaches the flow through a file of events.

    Args:
        path: the file of events.
        function: what to call.
        args: its arguments.
        kwargs: its keyword arguments.
    """
    with reporting(EventLog(path)):
        return function(*args, **kwargs)
