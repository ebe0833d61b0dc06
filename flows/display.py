"""The display of running work in a terminal."""

import logging
import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console, RenderableType
from rich.live import Live
from rich.text import Text

from surveyor.events import kinds
from surveyor.events.kinds import Event
from surveyor.events.log import of_kind, since
from surveyor.lease import holder_of, is_in_use
from surveyor.progress import waiting_of
from surveyor.run_directory import RunDirectory
from surveyor.words import since_the_start
from surveyor.works.summary import is_complete
from surveyor.works.work import Kind

INTERVAL_S = 0.5
PLAIN_INTERVAL_S = 5.0
LOOK_AGAIN = 20  # times what a look takes pass before the next one: it reads all events


@dataclass(frozen=True, slots=True)
class View:
    """The display and the flow of a kind of work.

    Attributes:
        begins: the event with which a run begins.
        milestones: events whose lines are printed.
        look: returns the progress, as lines for a terminal and as one line.
        conclude: prints the results, given the main file, and returns the exit status of the command.
        show: prints the progress of the work in a folder, for `surveyor status`.
        kind: kind of work.
        flow: name of its flow and of the flow's module.
        run_name: name of its runs, with a placeholder for the name of the folder.
    """

    begins: type[Event]
    milestones: tuple[type[Event], ...]
    look: Callable[[RunDirectory], tuple[RenderableType, str]]
    conclude: Callable[[Console, RunDirectory, Path], int]
    show: Callable[[Console, RunDirectory], None]
    kind: Kind[Any, Any, Any]  # Any: of any kind
    flow: str
    run_name: str


# For a pool, or for labels that others compute.
WAITS = (kinds.Waiting, kinds.WaitingEnds, kinds.LabelAwaited, kinds.ClaimSilent)


def waiting_now(directory: RunDirectory, events: Sequence[Event]) -> str:
    """Return the current wait of running work in a folder; empty if there is none.

    Args:
        directory: the work on disk.
        events: of all its runs.
    """
    return waiting_of(since(events, kinds.WorkBegins)) if is_in_use(directory.lease) else ""


def quieten_prefect() -> None:
    """Suppress Prefect's output, before Prefect is imported: the display shows the work, the UI shows everything."""
    os.environ.setdefault("PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL", "CRITICAL")
    os.environ.setdefault("PREFECT_LOGGING_INTERNAL_LEVEL", "CRITICAL")


@contextmanager
def following(directory: RunDirectory, console: Console, view: View) -> Iterator[None]:
    """Show the work in a folder within the block: live in a terminal, line by line elsewhere.

    Args:
        directory: the work on disk.
        console: where to show it.
        view: how.
    """
    display = _Display(directory, console, view)
    stop = threading.Event()
    thread = threading.Thread(target=display.follow, args=(stop,), name="display", daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def where_it_runs(directory: RunDirectory) -> str:
    """Return where the work in a folder runs, such as ", on node1, pid 4242"; nothing if it does not run."""
    holder = holder_of(directory.lease)
    return "" if holder is None else f", on {holder.get('host', 'an unknown host')}, pid {holder.get('pid', 'unknown')}"


def show_work(
    console: Console,
    directory: RunDirectory,
    *,
    results: Callable[[Console, RunDirectory], None],
    look: Callable[[RunDirectory], tuple[RenderableType, str]],
    none_yet: str,
) -> None:
    """Print the results of complete work, or the state and the progress of other work; see `View`.

    Args:
        console: console for the output.
        directory: the work on disk.
        results: prints the results.
        look: returns the progress.
        none_yet: text for work without progress.
    """
    running = where_it_runs(directory)
    if is_complete(directory) and not running:
        console.print(f"{directory.path} is complete", markup=False)
        results(console, directory)
        return
    state = f"is running{running}" if running else "has stopped; the same command continues it"
    console.print(f"{directory.path} {state}", markup=False)
    console.print(str(look(directory)[0]) or none_yet, markup=False)


def with_waits(directory: RunDirectory, events: Sequence[Event], line: str) -> Text:
    """Return a line of progress, below the time since the start and the current wait of running work."""
    begun = of_kind(events, kinds.WorkBegins)
    is_running = bool(begun) and is_in_use(directory.lease)
    elapsed = since_the_start(time.time() - begun[-1].time) if is_running else ""
    return Text("\n".join(filter(None, [elapsed, waiting_now(directory, events), line])))


class _Display:
    def __init__(self, directory: RunDirectory, console: Console, view: View) -> None:
        self.directory = directory
        self.console = console
        self.view = view
        path = directory.events.path
        self.position = path.stat().st_size if path.exists() else 0
        self.has_begun = False
        self.line = ""
        self.line_time = 0.0
        self.next_look = 0.0

    def follow(self, stop: threading.Event) -> None:
        # A notebook is no terminal either; there, Live would need widgets.
        with Live(console=self.console, transient=True) if self.console.is_terminal else nullcontext() as live:
            while not stop.wait(INTERVAL_S):
                self._show(live)
            self._show(live)

    def _show(self, live: Live | None) -> None:
        events, self.position = self.directory.events.read(self.position)
        for event in events:
            self._on_event(event)
        if not self.has_begun:
            return
        if live is not None:
            self._redraw(live)
        elif events and time.monotonic() > self.line_time + PLAIN_INTERVAL_S:
            self._print_progress(self.view.look(self.directory)[1])

    def _redraw(self, live: Live) -> None:
        """Update the display, even without news, because elapsed times change; less often if an update is slow."""
        begun = time.monotonic()
        if begun >= self.next_look:
            live.update(self.view.look(self.directory)[0])
            self.next_look = begun + LOOK_AGAIN * (time.monotonic() - begun)

    def _on_event(self, event: Event) -> None:
        self.has_begun = self.has_begun or isinstance(event, self.view.begins)
        is_warning = event.level >= logging.WARNING
        if event.message and (isinstance(event, self.view.milestones) or is_warning):
            clock = time.strftime("%H:%M:%S", time.localtime(event.time))
            self.console.print(f"{clock} {event.message}", markup=False)

    def _print_progress(self, line: str) -> None:
        if line and line != self.line:
            self.console.print(f"{time.strftime('%H:%M:%S')}   {line}", markup=False)
            self.line, self.line_time = line, time.monotonic()
