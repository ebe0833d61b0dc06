"""What happens, as it happens: append-only files of events, one JSON object a line.

A function that runs on a pool appends to a file of its own; the flow follows those files. So progress needs no
messaging of the pool's, and any executor serves.
"""

import errno
import json
import logging
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Executor, Future
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

from surveyor.files import is_full
from surveyor.pools.terms import Terms, submit_under

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


@dataclass(frozen=True, slots=True)
class Report:
    """Where a function on a pool reports; a call of this calls the function.

    Attributes:
        folder: of the files of events, one for each process.
        origin: host and process that submit; what runs there is reported already.
    """

    folder: Path
    origin: str

    @classmethod
    def into(cls, folder: Path) -> "Report":
        """Return a report into a folder, for functions that this process submits."""
        return cls(folder, _this_process())

    def __call__(self, function: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        """Call a function so that what it logs goes into the folder."""
        process = _this_process()
        if process == self.origin:
            return function(*args, **kwargs)
        # A worker with several threads reports from each of them: one event must not be written by all.
        with reporting(EventLog(self.folder / f"{process}.jsonl"), of_call=True):
            return function(*args, **kwargs)


class ReportingExecutor(Executor):
    """An executor whose functions report.

    Args:
        executor: runs them.
        report: where they report.
    """

    def __init__(self, executor: Executor, report: Report) -> None:
        self.executor = executor
        self.report = report

    def submit(self, function: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """Submit a function; see `concurrent.futures.Executor.submit`."""
        return self.submit_under(Terms(), function, *args, **kwargs)

    def submit_under(self, terms: Terms, function: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """Submit a function under terms; see `surveyor.pools.terms`."""
        return submit_under(self.executor, terms, self.report, function, *args, **kwargs)


def _this_process() -> str:
    return f"{socket.gethostname()}-{os.getpid()}"


class Relay:
    """Follows the files of events in a folder, and brings what is new to one file and to a listener.

    Args:
        folder: where functions on pools report.
        events: the file of the campaign.
        listener: is called with each event of that file, those of other processes included.
    """

    def __init__(self, folder: Path, events: EventLog, listener: Callable[[Mapping[str, Any]], None]) -> None:
        self.folder = folder
        self.events = events
        self.listener = listener
        self._positions = {path: path.stat().st_size for path in folder.glob("*.jsonl")}
        self._position = events.path.stat().st_size if events.path.exists() else 0

    def pass_on(self) -> None:
        """Bring what is new."""
        for path in sorted(self.folder.glob("*.jsonl")):
            for event, position in EventLog(path).follow(self._positions.get(path, 0)):
                self.events.append(**event)
                self._positions[path] = position  # not before: a full disk may take some of them
        fresh, self._position = self.events.read(self._position)
        for event in fresh:
            self.listener(event)

    @contextmanager
    def running(self, interval_s: float = 0.3) -> Iterator[None]:
        """Bring what is new again and again, in a thread, as long as this lasts."""
        stop = threading.Event()

        def follow() -> None:
            while not stop.wait(interval_s):
                with suppress(OSError):  # a full disk, or one that is away: it is tried again
                    self.pass_on()

        thread = threading.Thread(target=follow, name="events", daemon=True)
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join()
            with suppress(OSError):  # whatever has no room here is in the files of the workers
                self.pass_on()
