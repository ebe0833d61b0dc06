"""The command `surveyor`: run, check and follow campaigns, label datasets, train models, and sample with them."""

import argparse
import errno
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from surveyor import __version__
from surveyor.errors import InputError, SurveyorError
from surveyor.flows.benchmark_commands import BENCHMARK_VIEW, add_benchmark_command
from surveyor.flows.block_commands import add_block_commands
from surveyor.flows.calculation_commands import add_calculation_commands
from surveyor.flows.campaign_commands import CAMPAIGN_VIEW, add_run_command
from surveyor.flows.check_command import add_check_command
from surveyor.flows.doctor import add_doctor_command
from surveyor.flows.label_commands import LABELLING_VIEW, add_label_commands
from surveyor.flows.pool_commands import add_pool_commands
from surveyor.flows.replay_command import add_replay_command
from surveyor.flows.sample_commands import SAMPLING_VIEW, add_sample_command
from surveyor.flows.termination import Terminated, raising_at_sigterm
from surveyor.flows.train_commands import TRAINING_VIEW, add_train_commands
from surveyor.parameters.files import located
from surveyor.run_directory import RunDirectory

VIEWS = (LABELLING_VIEW, TRAINING_VIEW, SAMPLING_VIEW, BENCHMARK_VIEW, CAMPAIGN_VIEW)
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
            f"[bold red]error:[/] {_escaped(str(error))}; make room or repair the disk, then give the same command: it "
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
    """Return the parser of the command line."""
    parser = argparse.ArgumentParser(
        prog="surveyor",
        description="Develop interatomic potentials by online learning, on Prefect.",
        epilog="example: surveyor run campaign.yaml",
    )
    parser.add_argument("--version", action="version", version=f"surveyor {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    add_run_command(commands)
    add_check_command(commands)
    status = commands.add_parser(
        "status", help="show the progress of work; needs no server", epilog="example: surveyor status campaigns/ethanol"
    )
    status.add_argument("run_directory", type=Path, help="folder of a campaign or of other work")
    status.set_defaults(command=_status)
    add_replay_command(commands)
    add_label_commands(commands)
    add_calculation_commands(commands)
    add_train_commands(commands)
    add_sample_command(commands)
    add_benchmark_command(commands)
    add_doctor_command(commands)
    add_pool_commands(commands)
    add_block_commands(commands)
    return parser


def _status(options: argparse.Namespace, console: Console) -> None:
    directory = RunDirectory(options.run_directory.absolute())
    view = next((view for view in VIEWS if view.kind.holds(directory)), CAMPAIGN_VIEW)
    view.show(console, directory)


if __name__ == "__main__":
    sys.exit(main())
