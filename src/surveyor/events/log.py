"""Append-only files of events, one JSON object a line."""

import errno
import json
import os
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any


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

        Raises:
            OSError: there is no room for it.
        """
        self.path.parent.mkdir(parents=True, exist_ok=True)
        line = (json.dumps({"time": round(time.time(), 3), "event": event} | details) + "\n").encode()
        descriptor = os.open(self.path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o644)
        try:
            size = os.fstat(descriptor).st_size
            if size and os.pread(descriptor, 1, size - 1) != b"\n":
                line = b"\n" + line  # a full disk, or a death, has left half a line
            if os.write(descriptor, line) < len(line):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self.path))
        finally:
            os.close(descriptor)

    def read(self, offset: int = 0) -> tuple[list[Mapping[str, Any]], int]:  # Any: whatever JSON holds
        """Return the events from a position in the file on, and the position behind the last whole one."""
        records, position = read_lines(self.path, offset)
        return [record for record in records if "event" in record], position

    def follow(self, offset: int = 0) -> Iterator[tuple[Mapping[str, Any], int]]:  # Any: whatever JSON holds
        """Yield the events from a position in the file on, each with the position behind it."""
        for line in _whole_lines(self.path, offset):
            offset += len(line)
            record = _record(line)
            if record is not None and "event" in record:
                yield record, offset


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
        record = json.loads(line)
    except ValueError:
        return None
    return record if isinstance(record, dict) else None
