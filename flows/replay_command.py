"""`surveyor replay`: the decisions of a campaign, made again from its journal."""

import argparse
from pathlib import Path

from rich.console import Console

from surveyor.errors import InputError
from surveyor.learning.journal import Journal, first_difference, n_decisions
from surveyor.run_directory import RunDirectory
from surveyor.words import number_of

EXAMPLE = "surveyor replay campaigns/ethanol"


def add_replay_command(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add `replay`."""
    replay = commands.add_parser(
        "replay",
        help="make all decisions of a campaign again from its journal, without any calculation",
        description="Make all decisions of a campaign (which walker begins, which samples a model is trained on) again "
        "from the events in its journal, and name the first that differs. Nothing is calculated, and nothing is "
        "changed; the exit status is 1 if a decision differs.",
        epilog=f"example: {EXAMPLE}",
    )
    replay.add_argument("run_directory", type=Path, help="folder of a campaign")
    replay.set_defaults(command=_replay)


def _replay(options: argparse.Namespace, console: Console) -> int:
    path = RunDirectory(options.run_directory.absolute()).journal
    if not path.is_file():
        raise InputError(
            f"{path} does not exist: expected the folder of a campaign that has begun its first generation after the "
            "bootstrap, with this surveyor or a later one"
        )
    entries = Journal(path).read()
    difference = first_difference(entries)
    if difference is not None:
        console.print(f"{path}, {difference}", markup=False)
        return 1
    console.print(
        f"{number_of(len(entries), 'entry', 'entries')}, {number_of(n_decisions(entries), 'decision')}: each decision "
        "follows from the entries before it"
    )
    return 0
