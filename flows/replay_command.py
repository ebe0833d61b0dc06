"""`surveyor replay`: the decisions of a campaign, made again from its journal."""

import argparse
from pathlib import Path

from rich.console import Console

from surveyor.errors import InputError
from surveyor.learning.journal import Journal, first_difference, n_decisions
from surveyor.run_directory import RunDirectory
from surveyor.words import number_of
from surveyor.works.campaign import CAMPAIGN

EXAMPLE = "surveyor replay campaigns/ethanol"


def add_replay_command(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add `replay`."""
    replay = commands.add_parser(
        "replay",
        help="make all decisions of a campaign again from its journal, without any calculation",
        description="Make all decisions of a campaign (which walker begins, which samples a model is trained on) again "
        "from the events in its journal, and name the first that differs. Nothing is calculated, and nothing is "
        "changed. The exit status is 0 if each decision follows, 1 if one differs, and 2 if there is no journal. The "
        "campaign may be running.",
        epilog=f"example: {EXAMPLE}",
    )
    replay.add_argument("run_directory", type=Path, help="folder of a campaign")
    replay.set_defaults(command=_replay)


def _replay(options: argparse.Namespace, console: Console) -> int:
    directory = RunDirectory(options.run_directory.absolute())
    path = directory.journal
    if not path.is_file():
        raise InputError(_why_none(directory))
    entries = Journal(path).read()
    if not entries:
        raise InputError(f"{path} has no entry of a journal; expected one JSON object a line")
    difference = first_difference(entries)
    if difference is not None:
        console.print(f"{path}, {difference}", markup=False)
        return 1
    console.print(
        f"{number_of(len(entries), 'entry', 'entries')}, {number_of(n_decisions(entries), 'decision')}: each decision "
        "follows from the entries before it"
    )
    if n_broken := len(path.read_bytes().splitlines()) - len(entries):
        text = f"{number_of(n_broken, 'line')} left incomplete by a run that was killed, or is writing now: passed over"
        console.print(text)
    return 0


def _why_none(directory: RunDirectory) -> str:
    """Return why a folder has no journal."""
    if not directory.parameters.is_file() or not CAMPAIGN.holds(directory):
        return f"{directory.path} is not the run directory of a campaign, so that there is nothing to replay"
    return (
        f"{directory.path} has no {directory.journal.name} yet: it begins with the first generation after the "
        "bootstrap; if an earlier surveyor made the campaign, when this one continues it"
    )
