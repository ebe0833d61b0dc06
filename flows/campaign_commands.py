"""`surveyor run`: run a campaign, or continue it."""

import argparse
from pathlib import Path

from rich.console import Console, RenderableType
from rich.table import Table

from surveyor.errors import InputError
from surveyor.events import kinds
from surveyor.flows.display import WAITS, View, where_it_runs
from surveyor.flows.dry_run import dry_running
from surveyor.flows.work_commands import call_flow, check_fits, run_work
from surveyor.progress import CampaignProgress, now, read_progress, read_trust, render, summary
from surveyor.run_directory import RunDirectory
from surveyor.words import number_of
from surveyor.works.campaign import CAMPAIGN, CampaignParameters, Origin


def _look(directory: RunDirectory) -> tuple[RenderableType, str]:
    progress = read_progress(directory)
    return render(progress), summary(progress)


def _conclude(console: Console, directory: RunDirectory, potential: Path) -> int:
    progress = read_progress(directory)
    console.print(_errors_table(progress))
    _say_trust(console, directory)
    console.print(f"{directory.path} is complete: {progress.reason}")
    isolated = f" ({progress.run_isolated} of isolated atoms)" if progress.run_isolated else ""
    labels, trainings = number_of(progress.run_labels, "new label"), number_of(progress.run_trainings, "training")
    console.print(f"this run: {labels}{isolated}, {trainings}")
    console.print(f"potential: {potential}")
    console.print(f"report:    {directory.report}")
    return 0


def _errors_table(progress: CampaignProgress) -> Table:
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


def _show(console: Console, directory: RunDirectory) -> None:
    progress = read_progress(directory)
    if progress.state == "running":
        console.print(f"running: {now(progress)}{where_it_runs(directory)}", markup=False)
    console.print(render(progress))
    if progress.errors:
        console.print(_errors_table(progress))
        _say_trust(console, directory)


def _say_trust(console: Console, directory: RunDirectory) -> None:
    """Say how far the potential can be trusted."""
    for line in read_trust(directory).lines:
        console.print(line, markup=False, highlight=False)


CAMPAIGN_VIEW = View(
    begins=kinds.CampaignBegins,
    milestones=(
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
    look=_look,
    conclude=_conclude,
    show=_show,
    kind=CAMPAIGN,
    flow="online_learning",
    run_name="campaign {}",
)


def add_run_command(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add `run`."""
    run = commands.add_parser(
        "run", help="run a campaign, or continue it where it stopped", epilog="example: surveyor run campaign.yaml"
    )
    run.add_argument("campaign", type=Path, help="campaign file (YAML)")
    run.add_argument(
        "--from",
        dest="origin",
        type=Path,
        metavar="RUN_DIRECTORY",
        help="begin with the data, model and walkers of another campaign",
    )
    run.add_argument(
        "--generation", type=int, metavar="N", help="generation of the other campaign; by default the newest"
    )
    run.add_argument(
        "--dry-run", action="store_true", help="take one structure through every stage, and report durations"
    )
    run.set_defaults(command=_run)


def _run(options: argparse.Namespace, console: Console) -> int:
    parameters = _with_origin(CAMPAIGN.load(options.campaign), options.origin, options.generation)
    check_fits(parameters)
    if not options.dry_run:
        return run_work(CAMPAIGN_VIEW, parameters, CAMPAIGN.check(parameters), console)
    CAMPAIGN.check_files(parameters)
    CAMPAIGN.make(parameters)
    with dry_running(parameters, console) as small:
        call_flow(CAMPAIGN_VIEW, small, None, console)
    return 0


def _with_origin(parameters: CampaignParameters, origin: Path | None, generation: int | None) -> CampaignParameters:
    if origin is None:
        if generation is not None:
            raise InputError("--generation needs --from RUN_DIRECTORY")
        return parameters
    directory = RunDirectory(origin.expanduser().resolve())
    number = directory.n_complete() - 1 if generation is None else generation
    if number < 0:
        raise InputError(f"--from: {origin} has no complete generation")
    return parameters.model_copy(update={"begin_from": Origin(run_directory=directory.path, generation=number)})
