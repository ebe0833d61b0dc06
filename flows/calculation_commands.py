"""`surveyor calculations`: the files that calculations have left on disk."""

import argparse
from pathlib import Path

from rich.console import Console

from surveyor.errors import InputError
from surveyor.files import read_json
from surveyor.flows.stores import open_label_store
from surveyor.labels.calculations import clean
from surveyor.run_directory import RunDirectory
from surveyor.storage.buckets import store_address
from surveyor.words import number_of

EXAMPLE = "surveyor calculations clean campaigns/water --keep 10"


def add_calculation_commands(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add `calculations clean`."""
    calculations = commands.add_parser(
        "calculations", help="remove files of calculations from disk", epilog=f"example: {EXAMPLE}"
    )
    verbs = calculations.add_subparsers(required=True, metavar="COMMAND")
    cleaning = verbs.add_parser(
        "clean",
        help="remove outputs of failed calculations; their last lines stay in the label store",
        description="Remove the folders of failed calculations. The label store keeps the reason and the last lines of "
        "each. Labels and running calculations are not touched.",
        epilog=f"example: {EXAMPLE}",
    )
    cleaning.add_argument("run_directory", type=Path, help="folder of a campaign or a labelling")
    cleaning.add_argument(
        "--keep", type=_count, default=0, metavar="N", help="keep the N newest failed calculations; none by default"
    )
    cleaning.add_argument(
        "--interrupted", action="store_true", help="also remove the folders of interrupted calculations"
    )
    cleaning.set_defaults(command=_clean)


def _count(text: str) -> int:
    number = int(text)
    if number < 0:
        raise argparse.ArgumentTypeError(f"found {number}, expected 0 or more")
    return number


def _clean(options: argparse.Namespace, console: Console) -> None:
    directory = RunDirectory(options.run_directory.absolute())
    store = open_label_store(*_store_of(directory), directory)  # without its claims all seem idle
    done = clean(directory.scratch, store, n_failed=options.keep, interrupted=options.interrupted)
    console.print(
        f"removed {number_of(done.n_removed, 'folder')} of calculations ({done.n_bytes / 1e6:.1f} MB), "
        f"kept {done.n_kept} in {directory.scratch}"
    )
    if done.claimed:
        holders = ", ".join(sorted({str(claim) for claim in done.claimed}))
        console.print(
            f"Folders of {number_of(len(done.claimed), 'label')} are left because processes that cannot be seen from "
            f"here claim them: {holders}. If such a process is dead, give this command on its host"
        )


def _store_of(directory: RunDirectory) -> tuple[Path | str, str | None]:
    """Return the address of the label store of work, and the block with the access to it."""
    try:
        parameters = read_json(directory.parameters)["parameters"]
    except (FileNotFoundError, KeyError) as error:
        raise InputError(f"{directory.path} is not the folder of a campaign or a labelling") from error
    labels = parameters.get("labels")
    store = directory.path.parent / "labels" if labels is None else store_address(labels)
    return store, parameters.get("storage")
