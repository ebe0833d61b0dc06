"""`surveyor sample`: let walkers move on a given potential."""

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console, RenderableType
from rich.table import Table
from rich.text import Text

from surveyor.events.kinds import BatchHalved, FileRead, Rejected, SampleEnds, WorkBegins, WorkEnds
from surveyor.events.log import of_kind
from surveyor.exploration import SUMMARY, check_exploration, load_exploration, read_exploration_summary
from surveyor.flows.display import WAITS, View, following, quieten_prefect, waiting_now, where_it_runs
from surveyor.lease import is_in_use
from surveyor.run_directory import RunDirectory


def _look(directory: RunDirectory) -> tuple[RenderableType, str]:
    events = directory.events.read()[0]
    # A sample that a former run has brought is told again when it is found on disk.
    ended = {event.name: event.message for event in of_kind(events, SampleEnds)}
    planned = [event.n_samples for event in of_kind(events, WorkBegins)]
    of_all = f" of {planned[-1]}" if planned else ""
    line = f"samples: {len(ended)}{of_all}; {[*ended.values()][-1]}" if ended else ""
    return Text("\n".join(filter(None, [waiting_now(directory, events), line]))), line


def _conclude(console: Console, directory: RunDirectory, structures: Path) -> None:
    console.print(_table(directory))
    console.print(f"structures: {structures}")


SAMPLING = View(WorkBegins, (WorkBegins, FileRead, BatchHalved, Rejected, *WAITS, WorkEnds), _look, _conclude)


def add_sample_command(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add `sample`."""
    command = commands.add_parser(
        "sample",
        help="run walkers on a given potential, or continue them",
        epilog="example: surveyor sample ethanol.yaml",
    )
    command.add_argument("parameters", type=Path, help="parameter file (YAML)")
    command.add_argument("--json", action="store_true", help="only print the valid parameters, for a deployment")
    command.set_defaults(command=_sample)


def _sample(options: argparse.Namespace, console: Console) -> None:
    parameters = load_exploration(options.parameters)
    directory = check_exploration(parameters).directory
    if options.json:
        console.print(parameters.model_dump_json(), markup=False)
        return
    quieten_prefect()
    from surveyor.flows.sample_walkers import sample_walkers
    from surveyor.flows.server import using_server

    with using_server() as server:
        console.print(server)
        with following(directory, console, SAMPLING):
            fields = {name: getattr(parameters, name) for name in type(parameters).model_fields}
            path = sample_walkers(**fields, display=False)
    _conclude(console, directory, path)


def show_sampling(directory: RunDirectory, console: Console) -> None:
    """Say where walkers on a given potential stand."""
    if (directory.path / SUMMARY).exists() and not is_in_use(directory.lease):
        console.print(f"{directory.path} is complete")
        console.print(_table(directory))
        return
    running = where_it_runs(directory)
    state = f"is running{running}" if running else "has stopped; the same command continues it"
    console.print(f"{directory.path} {state}", markup=False)
    console.print(str(_look(directory)[0]) or "no walker has ended yet", markup=False)


def _table(directory: RunDirectory) -> Table:
    table = Table(title="samples", title_justify="left")
    for header in ("sample", "steps", "temperature (K)", "ended", "rejected tries"):
        table.add_column(header, justify="right")
    for record in read_exploration_summary(directory)["samples"]:
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
