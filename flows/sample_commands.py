"""`surveyor sample`: let walkers move on a given potential."""

import argparse
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console, RenderableType
from rich.table import Table

from surveyor.events.kinds import BatchHalved, FileRead, Rejected, SampleEnds, WorkBegins, WorkEnds
from surveyor.events.log import of_kind
from surveyor.flows.display import WAITS, View, show_work, with_waits
from surveyor.flows.work_commands import add_work_command
from surveyor.run_directory import RunDirectory
from surveyor.works.sampling import SAMPLING
from surveyor.works.summary import read_summary


def _look(directory: RunDirectory) -> tuple[RenderableType, str]:
    events = directory.events.read()[0]
    # A sample that a former run has brought is told again when it is found on disk.
    ended = {event.name: event.message for event in of_kind(events, SampleEnds)}
    planned = [event.n_samples for event in of_kind(events, WorkBegins)]
    of_all = f" of {planned[-1]}" if planned else ""
    line = f"samples: {len(ended)}{of_all}; {[*ended.values()][-1]}" if ended else ""
    return with_waits(directory, events, line), line


def _show_results(console: Console, directory: RunDirectory) -> None:
    console.print(_table(directory))


def _conclude(console: Console, directory: RunDirectory, structures: Path) -> int:
    _show_results(console, directory)
    console.print(f"structures: {structures}")
    return 0


SAMPLING_VIEW = View(
    begins=WorkBegins,
    milestones=(WorkBegins, FileRead, BatchHalved, Rejected, *WAITS, WorkEnds),
    look=_look,
    conclude=_conclude,
    show=partial(show_work, results=_show_results, look=_look, none_yet="no walker has ended yet"),
    kind=SAMPLING,
    flow="sample_walkers",
    run_name="sampling of {}",
)


def add_sample_command(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add `sample`."""
    add_work_command(commands, "sample", "run walkers on a given potential, or continue them", SAMPLING_VIEW)


def _table(directory: RunDirectory) -> Table:
    table = Table(title="samples", title_justify="left")
    for header in ("sample", "steps", "temperature (K)", "ended", "rejected tries"):
        table.add_column(header, justify="right")
    for record in read_summary(directory)["samples"]:
        temperature = "-" if record["temperature_K"] is None else f"{record['temperature_K']:.0f}"
        reasons = [f"{each['reason']} at step {each['step']}" for each in record["rejections"]]
        table.add_row(record["name"], str(record["n_steps"]), temperature, _end(record), ", ".join(reasons) or "-")
    return table


def _end(record: Mapping[str, Any]) -> str:  # Any: JSON
    if record["stop"] is not None:
        return str(record["stop"]["reason"]).replace("_", " ")
    if record["is_converged"] is None:
        return "-"
    return "converged" if record["is_converged"] else "not converged"
