"""What a terminal shows of a campaign, or of a labelling, while it runs."""

import logging
import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console, RenderableType
from rich.live import Live
from rich.table import Table

from surveyor.events import kinds
from surveyor.events.kinds import Event
from surveyor.events.log import since
from surveyor.lease import holder_of, is_in_use
from surveyor.progress import CampaignProgress, read_progress, render, summary, waiting_of
from surveyor.run_directory import RunDirectory
from surveyor.words import number_of

INTERVAL_S = 0.5
PLAIN_INTERVAL_S = 5.0
LOOK_AGAIN = 20  # times what a look takes pass before the next one: it reads all events


@dataclass(frozen=True, slots=True)
class View:
    """How the work in a folder is shown.

    Attributes:
        begins: the event with which a run begins.
        milestones: events whose lines are printed.
        look: returns where the work stands, as lines for a terminal and as one line.
        conclude: prints what came of the work, given its main file.
    """

    begins: type[Event]
    milestones: tuple[type[Event], ...]
    look: Callable[[RunDirectory], tuple[RenderableType, str]]
    conclude: Callable[[Console, RunDirectory, Path], object]


def _look_at_campaign(directory: RunDirectory) -> tuple[RenderableType, str]:
    progress = read_progress(directory)
    return render(progress), summary(progress)


# For a pool, or for labels that others compute.
WAITS = (kinds.Waiting, kinds.WaitingEnds, kinds.LabelAwaited, kinds.ClaimSilent)


def _conclude_campaign(console: Console, directory: RunDirectory, potential: Path) -> None:
    progress = read_progress(directory)
    console.print(errors_table(progress))
    console.print(f"{directory.path} is complete: {progress.reason}")
    isolated = f" ({progress.run_isolated} of isolated atoms)" if progress.run_isolated else ""
    labels, trainings = number_of(progress.run_labels, "new label"), number_of(progress.run_trainings, "training")
    console.print(f"this run: {labels}{isolated}, {trainings}")
    console.print(f"potential: {potential}")
    console.print(f"report:    {directory.report}")


def errors_table(progress: CampaignProgress) -> Table:
    """Return the errors per generation as a table for the terminal."""
    table = Table(title="root mean square errors: energies in meV/atom, forces in meV/Å", title_justify="left")
    for header in ("generation", "labels", "trained on", "before training", "final test set"):
        table.add_column(header, justify="right")
    for row in progress.errors:
        before = _pair(row.before_energy_meV_per_atom, row.before_forces_meV_per_A)
        final = _pair(row.final_energy_meV_per_atom, row.final_forces_meV_per_A)
        table.add_row(str(row.generation), str(row.n_labels), str(row.n_train), before, final)
    return table


def _pair(energy: float | None, forces: float | None) -> str:
    return "-" if energy is None or forces is None else f"{energy:8.2f} {forces:8.1f}"


CAMPAIGN = View(
    kinds.CampaignBegins,
    (
        kinds.CampaignBegins,
        kinds.FileRead,
        kinds.GenerationBegins,
        *WAITS,
        kinds.Rejected,
        kinds.ErrorsMeasured,
        kinds.TrainingBegins,
        kinds.CommitteeCalibrated,
        kinds.BatchHalved,
        kinds.TrainingEnds,
        kinds.GenerationComplete,
    ),
    _look_at_campaign,
    _conclude_campaign,
)


def waiting_now(directory: RunDirectory, events: Sequence[Event]) -> str:
    """Return what work in a folder waits for while it runs; empty for nothing.

    Args:
        directory: the work on disk.
        events: of all its runs.
    """
    return waiting_of(since(events, kinds.WorkBegins)) if is_in_use(directory.lease) else ""


def quieten_prefect() -> None:
    """Have Prefect print nothing: the display shows the work, the UI shows everything. Before Prefect is imported."""
    os.environ.setdefault("PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL", "CRITICAL")
    os.environ.setdefault("PREFECT_LOGGING_INTERNAL_LEVEL", "CRITICAL")


@contextmanager
def following(directory: RunDirectory, console: Console, view: View = CAMPAIGN) -> Iterator[None]:
    """Show the work in a folder as long as this lasts: alive in a terminal, line by line elsewhere.

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
            self._tell(event)
        if not self.has_begun:
            return
        if live is not None:
            self._redraw(live)
        elif events and time.monotonic() > self.line_time + PLAIN_INTERVAL_S:
            self._tell_progress(self.view.look(self.directory)[1])

    def _redraw(self, live: Live) -> None:
        """Look again, also without news, as times go on; but not all the time where a look takes long."""
        begun = time.monotonic()
        if begun >= self.next_look:
            live.update(self.view.look(self.directory)[0])
            self.next_look = begun + LOOK_AGAIN * (time.monotonic() - begun)

    def _tell(self, event: Event) -> None:
        self.has_begun = self.has_begun or isinstance(event, self.view.begins)
        is_warning = event.level >= logging.WARNING
        if event.message and (isinstance(event, self.view.milestones) or is_warning):
            clock = time.strftime("%H:%M:%S", time.localtime(event.time))
            self.console.print(f"{clock} {event.message}", markup=False)

    def _tell_progress(self, line: str) -> None:
        if line and line != self.line:
            self.console.print(f"{time.strftime('%H:%M:%S')}   {line}", markup=False)
            self.line, self.line_time = line, time.monotonic()
