"""A relay of events from the files of workers to the file of a campaign."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from surveyor.events.kinds import Event
from surveyor.events.log import EventLog


class Relay:
    """A follower of the event files in a folder, which passes new events on to one file and to a listener.

    Args:
        folder: folder with the event files of functions on pools.
        events: event file of the campaign.
        listener: called with each event of that file, including those of other processes.
    """

    def __init__(self, folder: Path, events: EventLog, listener: Callable[[Event], None]) -> None:
        self.folder = folder
        self.events = events
        self.listener = listener
        self._positions = {path: path.stat().st_size for path in folder.glob("*.jsonl")}
        self._position = events.path.stat().st_size if events.path.exists() else 0

    def pass_on(self) -> None:
        """Pass new events on."""
        for path in sorted(self.folder.glob("*.jsonl")):
            for line, position in EventLog(path).follow(self._positions.get(path, 0)):
                self.events.append_line(line)  # as it is, also of a kind that only the worker knows
                self._positions[path] = position  # not before: a full disk may take some of them
        fresh, self._position = self.events.read(self._position)
        for event in fresh:
            self.listener(event)

    @contextmanager
    def running(self, interval_s: float = 0.3) -> Iterator[None]:
        """Pass new events on repeatedly, in a thread, within the block."""
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
