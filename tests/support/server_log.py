"""The logs of Prefect servers that tests start: an error in one fails the test during which it appears."""

import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

# Patterns of records that are no faults, and why they are none.
EXPECTED = {
    r"database is locked": "SQLite has one writer; the client, or the next pass of the service, tries again",
    # Clients send events again after the server was away, and on SQLite Prefect cannot store a batch that it has
    # already. Events are missing from the list in the UI; automations, which get them another way, are not affected.
    r"NOT NULL constraint failed: events\.occurred": "Prefect stores a batch of known events as one without values",
    r"_receive_loop(?s:.*)\.WebSocketDisconnected": "a worker may end while the server waits for its next message",
    r"\| sqlalchemy\.pool\..*(?s:.*)\.CancelledError$": "a client that is killed leaves a request, which is cancelled",
}
RECORD = re.compile(r"^(?=\d\d:\d\d:\d\d\.\d{3} \| )", re.MULTILINE)
FAULT = re.compile(r"\| (ERROR|CRITICAL) |Traceback \(most recent call last\)|^(ERROR|CRITICAL):", re.MULTILINE)
SETTLE_S = 0.5

_watched: list["ServerLog"] = []


class ServerLog:
    """The log of a server, read up to some place.

    Args:
        path: file that the server writes; it may be missing as yet.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._n_read = 0

    def check(self) -> None:
        """Raise an error for faults since the last call."""
        if _faults(self._unread()):
            time.sleep(SETTLE_S)  # the end of a traceback, which tells what it is about, may not be there yet
        unread = self._unread()
        self._n_read += len(unread)
        faults = _faults(unread)
        assert not faults, f"the Prefect server has logged {len(faults)} errors; the first in {self.path}:\n{faults[0]}"

    def _unread(self) -> str:
        return self.path.read_text(errors="replace")[self._n_read :] if self.path.exists() else ""


@contextmanager
def watched(path: Path) -> Iterator[ServerLog]:
    """Watch the log of a server as long as this lasts; what it says when it ends counts, too."""
    log = ServerLog(path)
    _watched.append(log)
    try:
        yield log
    finally:
        _watched.remove(log)
    log.check()


def check_watched_logs() -> None:
    """Raise an error for faults that have appeared in any watched log since the last call."""
    for log in _watched:
        log.check()


def _faults(text: str) -> list[str]:
    """Return the records that tell of an error that is not expected."""
    return [
        each
        for each in RECORD.split(text)
        if FAULT.search(each) and not any(re.search(known, each.rstrip()) for known in EXPECTED)
    ]
