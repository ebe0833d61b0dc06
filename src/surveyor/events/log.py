"""Append-only files of events, one JSON object a line."""

import errno
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from pydantic_core import from_json

from surveyor.events.kinds import Event, event_of

Kind = TypeVar("Kind", bound=Event)


@dataclass(frozen=True, slots=True)
class EventLog:
    """An append-only file of events.

    Attributes:
        path: the file; its folder is created.
    """

    path: Path

    def append(self, event: Event) -> None:
        """Append an event.

        Raises:
            OSError: there is no room for it.
        """
        self.append_line(event.to_line())

    def append_line(self, line: bytes) -> None:
        """Append an event as it stands in a file, in a single write, so that several processes can share the file.

        Raises:
            OSError: there is no room for it.
        """
        descriptor = self._open()
        try:
            size = os.fstat(descriptor).st_size
            if size and os.pread(descriptor, 1, size - 1) != b"\n":
                line = b"\n" + line  # a full disk, or a death, has left half a line
            if os.write(descriptor, line) < len(line):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self.path))
        finally:
            os.close(descriptor)

    def _open(self) -> int:
        flags = os.O_RDWR | os.O_APPEND | os.O_CREAT
        try:
            return os.open(self.path, flags, 0o644)
        except FileNotFoundError:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            return os.open(self.path, flags, 0o644)

    def read(self, offset: int = 0) -> tuple[list[Event], int]:
        """Return the events from a position in the file on, and the position behind the last whole one."""
        records, position = read_lines(self.path, offset)
        return [event for record in records if (event := event_of(record)) is not None], position

    def in_order(self) -> list[Event]:
        """Return all events by time, as events of workers reach the file a moment later than those of the flow."""
        return sorted(self.read()[0], key=lambda event: event.time)

    def follow(self, offset: int = 0) -> Iterator[tuple[bytes, int]]:
        """Yield the lines from a position in the file on, each with the position behind it."""
        for line in _whole_lines(self.path, offset):
            offset += len(line)
            yield line, offset


def of_kind(events: Sequence[Event], kind: type[Kind]) -> list[Kind]:
    """Return the events of a kind."""
    return [event for event in events if isinstance(event, kind)]


def since(events: Sequence[Event], kind: type[Event]) -> Sequence[Event]:
    """Return the events from the last one of a kind on; empty without such an event."""
    positions = [position for position, event in enumerate(events) if isinstance(event, kind)]
    return events[positions[-1] :] if positions else ()


def read_lines(path: Path, offset: int = 0) -> tuple[list[Mapping[str, Any]], int]:  # Any: whatever JSON holds
    """Return the JSON objects, one a line, from a position in a file on, and the position behind the last whole line.

    A line that is no object is passed over: it is what a process left that was killed while it wrote, and to which
    another has appended.
    """
    lines = _whole_lines(path, offset)
    return [record for line in lines if (record := _record(line)) is not None], offset + sum(map(len, lines))


def _whole_lines(path: Path, offset: int) -> list[bytes]:
    try:
        with path.open("rb") as file:
            file.seek(offset)
            content = file.read()
    except FileNotFoundError:
        return []
    return content[: content.rfind(b"\n") + 1].splitlines(keepends=True)


def _record(line: bytes) -> Mapping[str, Any] | None:
    try:
        record = from_json(line)
    except ValueError:
        return None
    return record if isinstance(record, dict) else None
