"""What a terminal shows of a campaign while it runs."""

import logging
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.live import Live

from surveyor.progress import CampaignProgress, read_progress, render, summary
from surveyor.run_directory import RunDirectory

INTERVAL_S = 0.5
PLAIN_INTERVAL_S = 5.0
MILESTONES = (
    "campaign_begins",
    "generation_begins",
    "errors",
    "training_begins",
    "training_ends",
    "generation_complete",
)


@contextmanager
def following(directory: RunDirectory, console: Console) -> Iterator[None]:
    """Show a campaign as long as this lasts: alive in a terminal, line by line elsewhere.

    Args:
        directory: the campaign on disk.
        console: where to show it.
    """
    display = _Display(directory, console)
    stop = threading.Event()
    thread = threading.Thread(target=display.follow, args=(stop,), name="display", daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


class _Display:
    def __init__(self, directory: RunDirectory, console: Console) -> None:
        self.directory = directory
        self.console = console
        path = directory.events.path
        self.position = path.stat().st_size if path.exists() else 0
        self.has_begun = False
        self.line = ""
        self.line_time = 0.0

    def follow(self, stop: threading.Event) -> None:
        with Live(console=self.console, transient=True, auto_refresh=self.console.is_terminal) as live:
            while not stop.wait(INTERVAL_S):
                self._show(live)
            self._show(live)

    def _show(self, live: Live) -> None:
        events, self.position = self.directory.events.read(self.position)
        for event in events:
            self._tell(event)
        if events and self.has_begun and self.console.is_terminal:
            live.update(render(read_progress(self.directory)))
        elif events and self.has_begun and time.monotonic() > self.line_time + PLAIN_INTERVAL_S:
            self._tell_progress(read_progress(self.directory))

    def _tell(self, event: Mapping[str, Any]) -> None:  # Any: whatever JSON holds
        self.has_begun = self.has_begun or event["event"] == "campaign_begins"
        is_warning = event.get("level", 0) >= logging.WARNING
        if "message" in event and (event["event"] in MILESTONES or is_warning):
            clock = time.strftime("%H:%M:%S", time.localtime(event["time"]))
            self.console.print(f"{clock} {event['message']}", markup=False)

    def _tell_progress(self, progress: CampaignProgress) -> None:
        line = summary(progress)
        if line and line != self.line:
            self.console.print(f"{time.strftime('%H:%M:%S')}   {line}", markup=False)
            self.line, self.line_time = line, time.monotonic()
