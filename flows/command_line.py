"""The command `surveyor`: run, check and follow campaigns, label datasets, train models, and sample with them."""

import argparse
import errno
import sys
from collections.abc import Sequence
from functools import partial
from importlib import import_module
from pathlib import Path

from rich.console import Console

from surveyor import __version__
from surveyor.campaign import (
    CampaignParameters,
    Origin,
    check_campaign,
    check_continuation,
    load_campaign,
)
from surveyor.errors import InputError, SurveyorError
from surveyor.exploration import is_exploration
from surveyor.flows.block_commands import add_block_commands
from surveyor.flows.calculation_commands import add_calculation_commands
from surveyor.flows.check_command import add_check_command
from surveyor.flows.display import CAMPAIGN, errors_table, following, quieten_prefect, where_it_runs
from surveyor.flows.doctor import add_doctor_command
from surveyor.flows.dry_run import dry_running
from surveyor.flows.label_commands import add_label_commands
from surveyor.flows.pool_commands import add_pool_commands
from surveyor.flows.sample_commands import add_sample_command, show_sampling
from surveyor.flows.termination import Terminated, raising_at_sigterm
from surveyor.flows.train_commands import add_train_commands, show_training
from surveyor.labelling.progress import is_labelling, read_labelling_progress, render_labelling
from surveyor.parameter_files import located
from surveyor.progress import now, read_progress, render
from surveyor.run_directory import RunDirectory
from surveyor.training import is_training

STORAGE_FAULTS = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EIO, errno.ESTALE)
INTERRUPTED = 130  # exit status after Ctrl-C, as shells have it
TERMINATED = 143  # and after SIGTERM


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command.

    Args:
        arguments: of the command line; those of the process by default.

    Returns:
        The exit status: 0, 2 for input that cannot work, 1 for any other failure.
    """
    options = command_parser().parse_args(arguments)
    console = Console(highlight=False, soft_wrap=True)
    errors = Console(highlight=False, soft_wrap=True, stderr=True)
    try:
        with raising_at_sigterm():
            return int(options.command(options, console) or 0)
    except InputError as error:
        errors.print(f"[bold red]error:[/] {_escaped(_located(error, options))}")
        return 2
    except SurveyorError as error:
        errors.print(f"[bold red]error:[/] {_escaped(str(error))}")
        return 1
    except OSError as error:
        if error.errno not in STORAGE_FAULTS:
            raise
        errors.print(
            f"[bold red]error:[/] {_escaped(str(error))}; make room or mend the disk, then give the same command: it "
            "continues, and nothing that was finished is lost"
        )
        return 1
    except (KeyboardInterrupt, Terminated) as error:
        console.print("stopped; the same command continues where this stopped")
        return TERMINATED if isinstance(error, Terminated) else INTERRUPTED


def _escaped(message: str) -> str:
    return message.replace("[", r"\[")


def _located(error: InputError, options: argparse.Namespace) -> str:
    """Return the message of an error, with the place of its field in the parameter file of the command."""
    file = vars(options).get("campaign") or vars(options).get("parameters")
    return str(error) if file is None else located(str(error), file)


def command_parser() -> argparse.ArgumentParser:
    """Return what parses the command line."""
    parser = argparse.ArgumentParser(
        prog="surveyor",
        description="Develop interatomic potentials by online learning, on Prefect.",
        epilog="example: surveyor run campaign.yaml",
    )
    parser.add_argument("--version", action="version", version=f"surveyor {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    run = commands.add_parser(
        "run", help="run a campaign, or continue it where it stopped", epilog="example: surveyor run campaign.yaml"
    )
    run.add_argument("campaign", type=Path, help="campaign file (YAML)")
    run.add_argument("--from", dest="origin", type=Path, metavar="RUN_DIRECTORY", help="begin from another campaign")
    run.add_argument(
        "--generation", type=int, metavar="N", help="generation of the other campaign; by default the newest"
    )
    run.add_argument(
        "--dry-run", action="store_true", help="take one structure through every stage, and report durations"
    )
    run.set_defaults(command=_run)
    add_check_command(commands)
    status = commands.add_parser(
        "status", help="show the progress of work; needs no server", epilog="example: surveyor status campaigns/ethanol"
    )
    status.add_argument("run_directory", type=Path, help="folder of a campaign, a labelling, a training or a sampling")
    status.set_defaults(command=_status)
    add_label_commands(commands)
    add_calculation_commands(commands)
    add_train_commands(commands)
    add_sample_command(commands)
    add_doctor_command(commands)
    add_pool_commands(commands)
    add_block_commands(commands)
    return parser


def _run(options: argparse.Namespace, console: Console) -> None:
    parameters = _with_origin(load_campaign(options.campaign), options.origin, options.generation)
    check_campaign(parameters)
    if options.dry_run:
        with dry_running(parameters, console) as small:
            _call_flow(small, console)
        return
    directory = RunDirectory(parameters.run_directory)
    check_continuation(directory, parameters)
    potential = _call_flow(parameters, console)
    CAMPAIGN.conclude(console, directory, potential)


def _call_flow(parameters: CampaignParameters, console: Console) -> Path:
    quieten_prefect()
    from surveyor.flows.server import using_server

    with using_server(meanwhile=partial(import_module, "surveyor.flows.online_learning")) as server:
        console.print(server)
        from surveyor.flows.online_learning import online_learning

        with following(RunDirectory(parameters.run_directory), console):
            arguments = {name: getattr(parameters, name) for name in type(parameters).model_fields}
            potential: Path = online_learning(**arguments, display=False)
    return potential


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


def _status(options: argparse.Namespace, console: Console) -> None:
    directory = RunDirectory(options.run_directory.absolute())
    if is_labelling(directory):
        console.print(render_labelling(read_labelling_progress(directory)))
        if running := where_it_runs(directory):
            console.print(f"running{running}", markup=False)
        return
    if is_training(directory):
        show_training(directory, console)
        return
    if is_exploration(directory):
        show_sampling(directory, console)
        return
    progress = read_progress(directory)
    if progress.state == "running":
        console.print(f"running: {now(progress)}{where_it_runs(directory)}", markup=False)
    console.print(render(progress))
    if progress.errors:
        console.print(errors_table(progress))


if __name__ == "__main__":
    sys.exit(main())
