from pathlib import Path

import pytest
from labelling_inputs import copper

from surveyor.errors import InputError
from surveyor.events.kinds import LabelFailed, Labelled, LabellingBegins, LabellingComplete, LabelsRequested
from surveyor.files import write_json
from surveyor.lease import hold_lease
from surveyor.run_directory import RunDirectory
from surveyor.works.labelling.chunks import LABELLED
from surveyor.works.labelling.progress import labelling_summary, read_labelling_progress
from surveyor.works.summary import write_summary


@pytest.fixture
def directory(tmp_path: Path) -> RunDirectory:
    directory = RunDirectory(tmp_path)
    write_json(directory.parameters, {"parameters": {"structures": "copper.extxyz"}})
    return directory


def begin(directory: RunDirectory, found: str = "") -> None:
    directory.events.append(LabellingBegins(n_structures=len(copper(4))))
    directory.events.append(LabelsRequested(n_requested=4, n_found=len(found), found=list(found)))


def test_labels_of_this_run_are_counted_once_and_those_of_former_runs_as_found(directory: RunDirectory) -> None:
    begin(directory)
    for key in "ab":
        directory.events.append(Labelled(key=key, new=True))
    begin(directory, found="ab")
    for key, new in (("a", False), ("c", True), ("c", True)):
        directory.events.append(Labelled(key=key, new=new))
    directory.events.append(LabelFailed(key="d", new=True))
    progress = read_labelling_progress(directory)
    assert progress.state == "stopped"
    assert (progress.n_found, progress.n_labelled, progress.n_failed, progress.n_done) == (2, 1, 1, 4)
    assert labelling_summary(progress) == "4 of 4: 1 new, 2 from the store, 1 failed"
    with hold_lease(directory.lease):
        assert read_labelling_progress(directory).state == "running"
    directory.events.append(LabellingComplete(message="3 of 4 structures are labelled"))
    assert read_labelling_progress(directory).state == "complete"


def test_until_a_run_has_looked_for_labels_those_of_former_runs_count(directory: RunDirectory) -> None:
    begin(directory, found="a")
    directory.events.append(Labelled(key="b", new=True))
    directory.events.append(LabelFailed(key="d", new=True))
    for _ in range(2):
        directory.events.append(LabellingBegins(n_structures=4))
        assert labelling_summary(read_labelling_progress(directory)) == "3 of 4: 0 new, 3 from the store, 0 failed"
    begin(directory, found="ab")
    assert labelling_summary(read_labelling_progress(directory)) == "2 of 4: 0 new, 2 from the store, 0 failed"


def test_a_complete_labelling_has_the_numbers_of_its_summary_even_if_events_were_lost(directory: RunDirectory) -> None:
    begin(directory, found="a")
    directory.events.append(Labelled(key="b", new=True))
    directory.events.append(LabelFailed(key="d", new=True))
    outcomes = {"a": LABELLED, "b": LABELLED, "c": LABELLED, "d": "timeout"}
    structures = [{"key": key, "outcome": outcome} for key, outcome in outcomes.items()]
    structures += [{"key": "b", "outcome": LABELLED}, {"key": None, "outcome": "invalid_input"}]
    write_summary(directory, {"n_new": 2, "structures": structures})
    assert labelling_summary(read_labelling_progress(directory)) == "3 of 4: 1 new, 1 from the store, 1 failed"
    directory.events.append(LabellingComplete())
    assert labelling_summary(read_labelling_progress(directory)) == "4 of 4: 2 new, 1 from the store, 1 failed"
    write_summary(directory, {"structures": structures})  # of a former version
    assert labelling_summary(read_labelling_progress(directory)) == "3 of 4: 1 new, 1 from the store, 1 failed"


def test_labels_and_failures_that_others_found_are_counted_once(directory: RunDirectory) -> None:
    begin(directory, found="a")
    for key, new in (("a", False), ("b", True), ("b", False), ("c", False), ("c", False)):
        directory.events.append(Labelled(key=key, new=new))
    directory.events.append(LabelFailed(key="d", new=False))
    assert labelling_summary(read_labelling_progress(directory)) == "4 of 4: 1 new, 2 from the store, 1 failed"


def test_before_anything_is_requested_there_is_nothing_to_tell(directory: RunDirectory) -> None:
    directory.events.append(LabellingBegins(n_structures=4))
    assert labelling_summary(read_labelling_progress(directory)) == ""


def test_the_folder_of_a_campaign_is_refused(tmp_path: Path) -> None:
    write_json(RunDirectory(tmp_path).parameters, {"parameters": {"walkers": []}})
    with pytest.raises(InputError, match="is not the output directory of a labelling"):
        read_labelling_progress(RunDirectory(tmp_path))
