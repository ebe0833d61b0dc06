"""`surveyor train` and `surveyor export`: train a model on given files, and export it for other programs."""

import argparse
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import get_args

from rich.console import Console, RenderableType
from rich.table import Table

from surveyor.dataset.metrics import Errors
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
from surveyor.files import read_json
from surveyor.flows.display import WAITS, View, show_work, with_waits
from surveyor.flows.work_commands import add_work_command
from surveyor.models.choice import check_model_parameters
from surveyor.models.export import Format, export_model
from surveyor.pools.choice import LOCAL
from surveyor.progress import max_epochs_of
from surveyor.run_directory import GenerationDirectory, RunDirectory, folder_of_model
from surveyor.works.summary import read_summary
from surveyor.works.training import TRAINING, TrainingParameters


def _look(directory: RunDirectory) -> tuple[RenderableType, str]:
    events = directory.events.read()[0]
    epochs = of_kind(events, EpochEnds)
    line = _epoch_line(directory, epochs[-1]) if epochs else ""
    has_ended = any(of_kind(events, TrainingEnds))  # behind that line, none of an epoch
    return with_waits(directory, events, line), "" if has_ended else line


def _epoch_line(directory: RunDirectory, epoch: EpochEnds) -> str:
    """Return the message of an epoch, with the maximum number of epochs if it is known."""
    parameters = read_json(directory.parameters)["parameters"]
    # A training from a saved model may have another limit.
    n_epochs = max_epochs_of(parameters["model"]) if parameters.get("start") is None else None
    name = f"epoch {epoch.number + 1}"
    return epoch.message if n_epochs is None else epoch.message.replace(f"{name}:", f"{name} of {n_epochs}:", 1)


def _show_results(console: Console, directory: RunDirectory) -> None:
    """Print the errors and where the files are."""
    summary = read_summary(directory)
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


def _conclude(console: Console, directory: RunDirectory, potential: Path) -> int:
    _show_results(console, directory)
    console.print(f"potential: {potential}")
    return 0


TRAINING_VIEW = View(
    begins=WorkBegins,
    milestones=(WorkBegins, FileRead, *WAITS, TrainingBegins, TrainingEnds, CommitteeCalibrated, BatchHalved),
    look=_look,
    conclude=_conclude,
    show=partial(show_work, results=_show_results, look=_look, none_yet="no epoch has ended yet"),
    kind=TRAINING,
    flow="train_model",
    run_name="training of {}",
)


def add_train_commands(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add `train` and `export`."""
    summary = "train a model on labelled structures, or continue an interrupted training"
    add_work_command(commands, "train", summary, TRAINING_VIEW, _check_here)
    export = commands.add_parser(
        "export",
        help="write a model in the format of another program",
        epilog="example: surveyor export campaigns/ethanol ethanol.pt --format lammps",
    )
    export.add_argument("model", type=Path, help="folder of a model; or of a campaign or training, for its newest one")
    export.add_argument("file", type=Path, help="file to write")
    export.add_argument(
        "--format",
        choices=get_args(Format),
        default="ase",
        help="ase: the native file, for the calculator of the engine; lammps: the file for LAMMPS, by the "
        "engine's tool; ase by default",
    )
    export.set_defaults(command=_export)


def _check_here(parameters: TrainingParameters) -> None:
    if parameters.pool == LOCAL and parameters.model is not None:
        check_model_parameters(parameters.model)


def _export(options: argparse.Namespace, console: Console) -> None:
    folder = folder_of_model(options.model)
    export_model(folder, options.file, options.format)
    console.print(f"{options.file}: model of {folder}")


def _errors_table(errors: Mapping[str, Errors]) -> Table:
    headers = ("energy (meV/atom)", "without offset", "offset", "forces (meV/Å)", "stress (meV/Å³)")
    table = _table(headers)
    for name, each in errors.items():
        energy = (each.energy_rmse, each.energy_rmse_without_offset, each.energy_offset)
        numbers = map(_format_number, (*energy, each.forces_rmse, each.stress_rmse))
        table.add_row(name, str(each.n_structures), *numbers)
    return table


def _elements_table(errors: Mapping[str, Errors], symbols: Sequence[str]) -> Table:
    table = _table(symbols)
    for name, each in errors.items():
        numbers = (_format_number(each.forces_rmse_by_element.get(symbol)) for symbol in symbols)
        table.add_row(name, str(each.n_structures), *numbers)
    return table


def _table(headers: Sequence[str]) -> Table:
    table = Table()
    for header in ("set", "structures", *headers):
        table.add_column(header, justify="right")
    return table


def _format_number(error: float | None) -> str:
    return "-" if error is None else f"{1e3 * error:.2f}"
