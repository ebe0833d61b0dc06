"""The display of running work in a terminal."""

import re
import time
from dataclasses import replace
from io import StringIO
from pathlib import Path

from processes import wait_until
from rich.console import Console

from surveyor.events.kinds import EpochEnds, LabellingBegins, TrainingBegins, TrainingEnds, WorkBegins
from surveyor.files import write_json
from surveyor.flows.display import following
from surveyor.flows.label_commands import LABELLING_VIEW
from surveyor.flows.train_commands import TRAINING_VIEW
from surveyor.lease import hold_lease
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
    begin_training(directory)
    directory.events.append(EpochEnds(message="epoch 1: loss 3", number=0))
    assert TRAINING_VIEW.look(directory)[1] == "epoch 1 of 60: loss 3"
    directory.events.append(TrainingEnds(message="trained in 1 epoch", epochs=1))
    assert TRAINING_VIEW.look(directory)[1] == ""
    assert str(TRAINING_VIEW.look(directory)[0]) == "epoch 1 of 60: loss 3"  # for `surveyor status`


def begin_training(directory: RunDirectory, start: str | None = None) -> None:
    model = {"mace": {"max_num_epochs": 60}, "pair": None}
    write_json(directory.parameters, {"schema_version": 1, "parameters": {"model": model, "start": start}})
    directory.events.append(WorkBegins())
    directory.events.append(TrainingBegins())


def test_running_trainings_and_labellings_show_the_time_since_their_start(tmp_path: Path) -> None:
    training, labelling = RunDirectory(tmp_path / "training"), RunDirectory(tmp_path / "labelling")
    begin_training(training, start="other")
    training.events.append(EpochEnds(message="member 0, epoch 5: loss 3", number=4))
    write_json(labelling.parameters, {"kind": "labelling", "parameters": {}})
    labelling.events.append(LabellingBegins(n_structures=3, time=time.time() - 80))
    with hold_lease(training.lease), hold_lease(labelling.lease):
        lines = str(TRAINING_VIEW.look(training)[0]).splitlines()
        console = Console(file=StringIO(), width=100)
        console.print(LABELLING_VIEW.look(labelling)[0])
    assert re.fullmatch(r"0:00:\d\d since the start", lines[0])
    assert lines[1] == "member 0, epoch 5: loss 3"  # the limit is that of `continued`
    assert re.match(r"running: 3 structures \(0:01:[2-5]\d since the start\)", console.file.getvalue())
