"""Announcements: events for programs that are log lines for people, too."""

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from surveyor.events.kinds import Event
from surveyor.events.log import EventLog
from surveyor.files import is_full

# Where a flow, or a call on a pool, records; threads that work for it are started in a copy of its context.
_of_context: ContextVar[EventLog | None] = ContextVar("destination", default=None)
_of_process: list[EventLog] = []  # those of flows: a pool may call functions in threads of its own


def announce(logger: logging.Logger, event: Event) -> None:
    """Record an event regardless of the level of the logger, and log its message."""
    own = _of_context.get()
    for events in _of_process if own is None else (own,):
        _record(events, event)
    logger.log(event.level, "%s", event.message, extra={"event": event}, stacklevel=2)


def _record(events: EventLog, event: Event) -> None:
    try:
        events.append(event)
    except OSError as error:  # it must not end the work that is reported
        if event.level >= logging.WARNING or not is_full(error):  # such as that work waits for room
            sys.stderr.write(f"{event.message} (not recorded: {error})\n")


class _LogHandler(logging.Handler):
    """A log handler that records log lines that are no events."""

    def __init__(self, events: EventLog, *, of_call: bool) -> None:
        super().__init__()
        self.events = events
        self.of_call = of_call

    def emit(self, record: logging.LogRecord) -> None:
        own = _of_context.get()
        concerns = own is self.events or (own is None and not self.of_call)
        if concerns and not isinstance(getattr(record, "event", None), Event):
            _record(self.events, Event(message=record.getMessage(), level=record.levelno))


@contextmanager
def reporting(events: EventLog, *, of_call: bool = False) -> Iterator[None]:
    """Record announced events, and lines logged under the logger "surveyor", in an event file within the block.

    Args:
        events: the file.
        of_call: record only events of this context, not of threads of other calls in the same process.
    """
    logger, handler = logging.getLogger("surveyor"), _LogHandler(events, of_call=of_call)
    logger.addHandler(handler)
    token = _of_context.set(events)
    if not of_call:
        _of_process.append(events)
    try:
        yield
    finally:
        if not of_call:
            _of_process.remove(events)
        _of_context.reset(token)
        logger.removeHandler(handler)
