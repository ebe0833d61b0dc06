"""The display of running work in a terminal."""

from dataclasses import replace
from io import StringIO
from pathlib import Path

from processes import wait_until
from rich.console import Console

from surveyor.events.kinds import WorkBegins
from surveyor.flows.display import following
from surveyor.flows.train_commands import TRAINING_VIEW
from surveyor.run_directory import RunDirectory


def test_a_live_display_goes_on_without_events(tmp_path: Path) -> None:
    directory, looks = RunDirectory(tmp_path), []

    def look(directory: RunDirectory) -> tuple[str, str]:
        looks.append(directory)
        return f"look {len(looks)}", ""

    view = replace(TRAINING_VIEW, begins=WorkBegins, milestones=(), look=look)
    console = Console(file=StringIO(), force_terminal=True)
    with following(directory, console, view):
        directory.events.append(WorkBegins())
        wait_until(lambda: len(looks) >= 3, lambda: f"{len(looks)} looks, expected 3")
