"""`surveyor train` and `surveyor export`: train a model on given files, and write what other programs take."""

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import get_args

from rich.console import Console, RenderableType
from rich.table import Table
from rich.text import Text

from surveyor.events.kinds import (
    BatchHalved,
    CommitteeCalibrated,
    EpochEnds,
    FileRead,
    TrainingBegins,
    TrainingEnds,
    WorkBegins,
)
from surveyor.events.log import of_kind
from surveyor.flows.display import WAITS, View, following, quieten_prefect, waiting_now, where_it_runs
from surveyor.metrics import Errors
from surveyor.models.choice import check_model_parameters
from surveyor.models.export import Format, export_model, folder_of_model
from surveyor.pools.choice import LOCAL
from surveyor.run_directory import GenerationDirectory, RunDirectory
from surveyor.training import SUMMARY, check_training, load_training, read_training_summary


def _look(directory: RunDirectory) -> tuple[RenderableType, str]:
    events = directory.events.read()[0]
    epochs = [event.message for event in of_kind(events, EpochEnds)]
    line = epochs[-1] if epochs else ""
    has_ended = any(of_kind(events, TrainingEnds))  # behind that line, none of an epoch
    return Text("\n".join(filter(None, [waiting_now(directory, events), line]))), "" if has_ended else line


def _conclude(console: Console, directory: RunDirectory, potential: Path) -> None:
    _show_results(directory, console)
    console.print(f"potential: {potential}")


TRAINING = View(
    WorkBegins,
    (WorkBegins, FileRead, *WAITS, TrainingBegins, TrainingEnds, CommitteeCalibrated, BatchHalved),
    _look,
    _conclude,
)


def add_train_commands(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add `train` and `export`."""
    train = commands.add_parser(
        "train",
        help="train a model on labelled structures, or continue an interrupted training",
        epilog="example: surveyor train ethanol.yaml",
    )
    train.add_argument("parameters", type=Path, help="parameter file (YAML)")
    train.add_argument("--json", action="store_true", help="only print the valid parameters, for a deployment")
    train.set_defaults(command=_train)
    export = commands.add_parser(
        "export",
        help="write a model in the format of another program",
        epilog="example: surveyor export campaigns/ethanol ethanol.pt --format lammps",
    )
    export.add_argument("model", type=Path, help="folder of a model, or of a campaign or training: its newest model")
    export.add_argument("file", type=Path, help="file to write")
    export.add_argument(
        "--format",
        choices=get_args(Format),
        default="ase",
        help="ase: the native file, for the calculator of the engine; lammps: what its tool makes for LAMMPS; "
        "ase by default",
    )
    export.set_defaults(command=_export)


def _train(options: argparse.Namespace, console: Console) -> None:
    parameters = load_training(options.parameters)
    directory = check_training(parameters).directory
    if options.json:
        console.print(parameters.model_dump_json(), markup=False)
        return
    if parameters.pool == LOCAL and parameters.model is not None:
        check_model_parameters(parameters.model)
    quieten_prefect()
    from surveyor.flows.server import using_server
    from surveyor.flows.train_model import train_model

    with using_server() as server:
        console.print(server)
        with following(directory, console, TRAINING):
            fields = {name: getattr(parameters, name) for name in type(parameters).model_fields}
            path = train_model(**fields, display=False)
    _conclude(console, directory, path)


def show_training(directory: RunDirectory, console: Console) -> None:
    """Say where a training on files stands."""
    if (directory.path / SUMMARY).exists():
        console.print(f"{directory.path} is complete")
        _show_results(directory, console)
        return
    running = where_it_runs(directory)
    state = f"is running{running}" if running else "has stopped; the same command continues it"
    console.print(f"{directory.path} {state}", markup=False)
    console.print(str(_look(directory)[0]) or "no epoch has ended yet", markup=False)


def _export(options: argparse.Namespace, console: Console) -> None:
    folder = folder_of_model(options.model)
    export_model(folder, options.file, options.format)
    console.print(f"{options.file}: model of {folder}")


def _show_results(directory: RunDirectory, console: Console) -> None:
    """Print the errors and where the files are."""
    summary = read_training_summary(directory)
    found = {name: Errors(**record) for name, record in summary["errors"].items()}
    errors = {name: each for name, each in found.items() if each.n_structures}
    console.print("root mean square errors; offset: mean of predicted minus labelled energy per atom")
    console.print(_errors_table(errors))
    symbols = sorted({symbol for each in errors.values() for symbol in each.forces_rmse_by_element})
    if len(symbols) > 1:  # the errors of a single element are those of all atoms
        console.print("root mean square errors of forces by element (meV/Å)")
        console.print(_elements_table(errors, symbols))
    for log in summary.get("logs", ()):
        console.print(f"log: {directory.path / log}", markup=False, soft_wrap=True)
    if figures := sorted(GenerationDirectory(directory.path).figures.glob("*.png")):
        names = ", ".join(path.name for path in figures)
        console.print(f"figures: {figures[0].parent}: {names}", markup=False, soft_wrap=True)


def _errors_table(errors: Mapping[str, Errors]) -> Table:
    headers = ("energy (meV/atom)", "without offset", "offset", "forces (meV/Å)", "stress (meV/Å³)")
    table = _table(headers)
    for name, each in errors.items():
        energy = (each.energy_rmse, each.energy_rmse_without_offset, each.energy_offset)
        shown = map(_shown, (*energy, each.forces_rmse, each.stress_rmse))
        table.add_row(name, str(each.n_structures), *shown)
    return table


def _elements_table(errors: Mapping[str, Errors], symbols: Sequence[str]) -> Table:
    table = _table(symbols)
    for name, each in errors.items():
        shown = (_shown(each.forces_rmse_by_element.get(symbol)) for symbol in symbols)
        table.add_row(name, str(each.n_structures), *shown)
    return table


def _table(headers: Sequence[str]) -> Table:
    table = Table()
    for header in ("set", "structures", *headers):
        table.add_column(header, justify="right")
    return table


def _shown(error: float | None) -> str:
    return "-" if error is None else f"{1e3 * error:.2f}"
