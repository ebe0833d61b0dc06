"""The progress of a labelling, read from its events, without a server and without disturbing it."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

from rich.console import Group, RenderableType
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from surveyor.errors import InputError
from surveyor.events.kinds import Event, LabelFailed, Labelled, LabellingBegins, LabellingComplete, LabelsRequested
from surveyor.events.log import of_kind, since
from surveyor.lease import is_in_use
from surveyor.progress import State, keys, waiting_of
from surveyor.run_directory import RunDirectory
from surveyor.words import number_of, since_the_start
from surveyor.works.labelling.labelling import LABELLING
from surveyor.works.summary import is_complete, read_summary


@dataclass(frozen=True, slots=True)
class LabellingProgress:
    """The progress of a labelling, with the numbers of the last run.

    Attributes:
        state: "running" if a live process holds the lease; "stopped" if none does and work is left.
        n_structures: number of structures in the file.
        n_requested: number of different structures that can be labelled.
        n_found: labels not computed by this run: those in the store at its start, including failures, and those that
            arrived since, from other processes or from another key of an earlier version.
        n_labelled: labels computed by this run.
        n_failed: structures that failed in this run.
        message: last message of the run.
        waiting: what it waits for, such as a job in a queue; empty for nothing.
        elapsed_s: seconds since a running labelling was last started; None if it does not run.
    """

    state: State
    n_structures: int = 0
    n_requested: int = 0
    n_found: int = 0
    n_labelled: int = 0
    n_failed: int = 0
    message: str = ""
    waiting: str = ""
    elapsed_s: float | None = None

    @property
    def n_done(self) -> int:
        """Number of answered requests."""
        return min(self.n_requested, self.n_found + self.n_labelled + self.n_failed)


def read_labelling_progress(directory: RunDirectory) -> LabellingProgress:
    """Return where a labelling stands.

    Raises:
        InputError: the folder is not that of a labelling.
    """
    if not LABELLING.holds(directory):
        raise InputError(f"{directory.path} is not the output directory of a labelling")
    events = directory.events.in_order()
    run = since(events, LabellingBegins)
    begins, ends = of_kind(run, LabellingBegins), of_kind(run, LabellingComplete)
    state: State = "complete" if ends else "running" if is_in_use(directory.lease) else "stopped"
    progress = replace(
        _counted(events),
        state=state,
        n_structures=begins[-1].n_structures if begins else 0,
        message=ends[-1].message if ends else "",
        waiting=waiting_of(run) if state == "running" else "",
        elapsed_s=time.time() - begins[-1].time if begins and state == "running" else None,
    )
    return _concluded(progress, directory) if ends and is_complete(directory) else progress


def _counted(events: Sequence[Event]) -> LabellingProgress:
    """Return the numbers of the last run; until it has looked for labels, the numbers of the run before are known."""
    run = since(events, LabellingBegins)
    if not run:
        return LabellingProgress("stopped")
    if not (requests := of_kind(run, LabelsRequested)):
        former = _counted(events[: len(events) - len(run)])
        return LabellingProgress("stopped", n_requested=former.n_requested, n_found=former.n_done)
    # A task also tells of what was found in the beginning, where it is in a chunk with what was not.
    known = set(requests[-1].found)
    labelled = keys(run, Labelled) - known
    new = keys(run, Labelled, new=True)
    return LabellingProgress(
        "stopped",
        n_requested=requests[-1].n_requested,
        n_found=requests[-1].n_found + len(labelled - new),
        n_labelled=len(new),
        n_failed=len(keys(run, LabelFailed) - labelled - known),
    )


def _concluded(progress: LabellingProgress, directory: RunDirectory) -> LabellingProgress:
    """Return the progress with the numbers of the summary, because a full disk may have lost events."""
    summary = read_summary(directory)
    if "n_new" not in summary:
        return progress
    n_requested, n_new = len({each["key"] for each in summary["structures"]} - {None}), summary["n_new"]
    n_found = n_requested - n_new - progress.n_failed
    return replace(progress, n_requested=n_requested, n_found=n_found, n_labelled=n_new)


def render_labelling(progress: LabellingProgress) -> RenderableType:
    """Return a few lines for a terminal."""
    text = progress.message or number_of(progress.n_structures, "structure")
    elapsed = "" if progress.elapsed_s is None else f" ({since_the_start(progress.elapsed_s)})"
    headline = Text(f"{progress.state}: {text}{elapsed}", style="bold")
    lines: list[RenderableType] = [headline]
    if progress.waiting:
        lines.append(Text(progress.waiting, style="yellow"))
    if not progress.n_requested:
        return Group(*lines)
    table = Table.grid(padding=(0, 1))
    bar = ProgressBar(total=progress.n_requested, completed=progress.n_done, width=24)
    table.add_row("labelled", bar, labelling_summary(progress))
    return Group(*lines, table)


def labelling_summary(progress: LabellingProgress) -> str:
    """Return one line on the labels, for where lines cannot be redrawn; empty where none is requested."""
    if not progress.n_requested:
        return ""
    done = f"{progress.n_done} of {progress.n_requested}"
    return f"{done}: {progress.n_labelled} new, {progress.n_found} from the store, {progress.n_failed} failed"
