"""The display of running work in a terminal."""

from dataclasses import replace
from io import StringIO
from pathlib import Path

from processes import wait_until
from rich.console import Console

from surveyor.events.kinds import EpochEnds, TrainingBegins, TrainingEnds, WorkBegins
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


def test_behind_the_end_of_a_training_follows_no_line_of_an_epoch(tmp_path: Path) -> None:
    directory = RunDirectory(tmp_path)
    directory.events.append(TrainingBegins())
    directory.events.append(EpochEnds(message="epoch 0", number=0))
    assert TRAINING_VIEW.look(directory)[1] == "epoch 0"
    directory.events.append(TrainingEnds(message="trained in 1 epoch", epochs=1))
    assert TRAINING_VIEW.look(directory)[1] == ""
    assert str(TRAINING_VIEW.look(directory)[0]) == "epoch 0"  # for `surveyor status`
