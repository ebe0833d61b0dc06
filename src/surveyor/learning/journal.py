"""The journal of a campaign: every decision, and every event that led to it, in a file of its own.

Events are recorded before they are acted on, and decisions before they are carried out. A run that was killed at any
moment is continued by reading the journal: the decisions follow from the events again.
"""

import json
import logging
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from surveyor.errors import InputError
from surveyor.events.log import EventLog, read_lines
from surveyor.files import patiently, synchronize
from surveyor.learning.advance import advance
from surveyor.learning.entries import VERSION, AnyEntry, Continues, Entry, RunBegins, RunEnds
from surveyor.learning.schedule import due
from surveyor.learning.states import Schedule

logger = logging.getLogger(__name__)

_ADAPTER: TypeAdapter[AnyEntry] = TypeAdapter(AnyEntry)


@dataclass(frozen=True, slots=True)
class Journal:
    """The journal of a campaign on disk, which one process writes.

    Attributes:
        path: the file, with one entry a line.
    """

    path: Path

    def append(self, entry: Entry) -> None:
        """Write an entry durably.

        Raises:
            StorageFailed: the disk stays full.
        """
        record = {"time": round(time.time(), 3), **entry.model_dump(mode="json")}
        line = json.dumps(record, separators=(",", ":")).encode() + b"\n"
        is_new = not self.path.exists()
        patiently(partial(EventLog(self.path).append_line, line), self.path)
        for path in (self.path, self.path.parent) if is_new else (self.path,):
            patiently(partial(synchronize, path), path)

    def read(self) -> list[Entry]:
        """Return all entries.

        Raises:
            InputError: a newer surveyor wrote one, or it is damaged.
        """
        return [entry for _, entry in self.timed()]

    def timed(self) -> list[tuple[float, Entry]]:
        """Return all entries, each with its time in seconds since 1970; see `read`."""
        records, _ = read_lines(self.path)
        return [(float(record.get("time", 0)), self._entry(number, record)) for number, record in enumerate(records, 1)]

    def resume(self) -> tuple[list[Entry], Schedule]:
        """Return all entries and the schedule after them; warn of a decision that would be made otherwise now.

        Raises:
            InputError: an entry does not follow from those before it: a line is missing, or was changed.
        """
        entries, schedule = self.read(), Schedule()
        for number, entry in enumerate(entries, 1):
            try:
                schedule = advance(entry, schedule)
            except (LookupError, ValueError) as error:
                raise InputError(
                    f"{self.path}: entry {number}, {_in_words(entry)}, does not follow from the entries before it: a "
                    "line is missing or was changed; restore the file from a copy, or begin another campaign from the "
                    "newest generation of this one (begin_from)"
                ) from error
        difference = first_difference(entries)
        if difference is not None:
            text = "the file was changed, or another version of surveyor decided; the campaign goes on from its entries"
            logger.warning("%s, %s: %s", self.path, difference, text)
        return entries, schedule

    def _entry(self, number: int, record: Mapping[str, Any]) -> Entry:  # Any: whatever JSON holds
        try:
            entry: Entry = _ADAPTER.validate_python(record)
        except ValidationError as error:
            raise InputError(f"{self.path}: entry {number} is not one of this surveyor: {record}") from error
        if entry.version > VERSION:
            raise InputError(f"{self.path}: entry {number} is of a newer surveyor; use that one")
        return entry


@dataclass(frozen=True, slots=True)
class Difference:
    """The first entry of a journal that does not follow from those before it.

    Attributes:
        number: of the entry, from 1.
        found: the entry.
        expected: the decision that follows; None if none does.
    """

    number: int
    found: Entry
    expected: Entry | None

    def __str__(self) -> str:
        expected = "no decision" if self.expected is None else _in_words(self.expected)
        return f"entry {self.number}: found {_in_words(self.found)}, expected {expected}"


def first_difference(entries: Iterable[Entry]) -> Difference | None:
    """Make all decisions of a journal again from its events, and return the first that differs.

    A run may have been killed before it recorded a decision; that it is missing at the end of a run is no difference.
    """
    schedule = Schedule()
    for number, entry in enumerate(entries, 1):
        expected = due(schedule)
        ends_run = isinstance(entry, Continues | RunBegins | RunEnds)
        is_same = entry == expected if entry.IS_DECISION else expected is None or ends_run
        try:
            if is_same:
                schedule = advance(entry, schedule)
        except (LookupError, ValueError):  # of a sample or round that is not known
            is_same = False
        if not is_same:
            return Difference(number, entry, expected)
    return None


def n_decisions(entries: Sequence[Entry]) -> int:
    """Return how many entries are decisions."""
    return sum(entry.IS_DECISION for entry in entries)


def _in_words(entry: Entry) -> str:
    return entry.model_dump_json(exclude={"version"})
