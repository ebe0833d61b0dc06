"""Announcements: events for programs that are log lines for people, too."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from surveyor.events.log import EventLog
from surveyor.files import is_full


def announce(logger: logging.Logger, event: str, message: str, /, **details: Any) -> None:  # Any: whatever JSON holds
    """Log a line for people that is an event for programs, too.

    Args:
        logger: of the module that announces.
        event: what happened, a word such as "labelled".
        message: the line.
        details: more about the event.
    """
    logger.info("%s", message, extra={"event": event, "details": details})


def announce_warning(logger: logging.Logger, event: str, message: str, /, **details: Any) -> None:  # Any: JSON
    """Log a line like `announce`, as a warning, which the terminal and the Prefect UI set off from other lines."""
    logger.warning("%s", message, extra={"event": event, "details": details})


# What a call reports to; threads that work for a call are started in a copy of its context.
_destination: ContextVar[EventLog | None] = ContextVar("destination", default=None)


class _EventHandler(logging.Handler):
    def __init__(self, events: EventLog, *, of_call: bool) -> None:
        super().__init__()
        self.events = events
        self.of_call = of_call

    def emit(self, record: logging.LogRecord) -> None:
        if self.of_call and _destination.get() is not self.events:
            return
        event = getattr(record, "event", "log")
        details = getattr(record, "details", {})
        try:
            self.events.append(event, level=record.levelno, message=record.getMessage(), **details)
        except OSError as error:  # it must not end the work that is reported
            if not is_full(error):
                self.handleError(record)
            elif record.levelno >= logging.WARNING and logging.lastResort is not None:
                logging.lastResort.handle(record)  # onto the terminal, such as that work waits for room


@contextmanager
def reporting(events: EventLog, *, of_call: bool = False) -> Iterator[None]:
    """Append what is logged under the logger "surveyor" to a file of events, as long as this lasts.

    Args:
        events: the file.
        of_call: only what is logged in this context, and not by other calls in the same process.
    """
    logger = logging.getLogger("surveyor")
    handler = _EventHandler(events, of_call=of_call)
    logger.addHandler(handler)
    token = _destination.set(events) if of_call else None
    try:
        yield
    finally:
        if token is not None:
            _destination.reset(token)
        logger.removeHandler(handler)
