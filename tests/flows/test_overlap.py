"""Campaigns whose walkers and labels go on during trainings: real pools and a real Prefect server."""

import json
from importlib import import_module
from pathlib import Path
from typing import Any

import httpx
import pytest
from campaigns import Folder
from killed_campaign import repeats_in
from prefect_server import ANSWER_S, post
from processes import wait_until
from slow_campaign import N_GENERATIONS, N_LABELS, N_STATES, SlowCampaign

from surveyor.errors import InputError, NothingLearned
from surveyor.flows.conclusion import Reports
from surveyor.learning.decisions import LearningProgress
from surveyor.learning.entries import LabelArrived, RunEnds, SampleReturned
from surveyor.learning.journal import Journal, first_difference
from surveyor.learning.parameters import Learning
from surveyor.progress import read_progress
from surveyor.testing.references import launches

pytestmark = [pytest.mark.slow]

OVERLAPPED = {"n_generations": 3, "n_states": 4, "labels_ahead": 8, "min_difference_A": 0}


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return Folder(tmp_path)


def walkers_in(folder: Folder, number: int) -> list[dict[str, Any]]:
    walkers: list[dict[str, Any]] = json.loads(folder.directory.generation(number).manifest.read_text())["details"][
        "walkers"
    ]
    return walkers


def cut_after_last_decision(journal: Journal) -> bytes:
    """Leave a journal as of a process that died right after its last decision; what came since is on disk as well.

    A label that is missing in it would come from the store in any case; a decision that is missing would be made twice.
    """
    n_lines = max(number for number, entry in enumerate(journal.read(), 1) if entry.IS_DECISION)
    content = b"".join(journal.path.read_bytes().splitlines(keepends=True)[:n_lines])
    journal.path.write_bytes(content)
    return content


def nodes_in_run_graph(api_url: str) -> list[tuple[str, int]]:
    """Return the name and the number of parents of each node in the graph of the last campaign."""
    campaigns = {"flows": {"name": {"any_": ["online-learning"]}}, "sort": "START_TIME_DESC", "limit": 1}
    (run,) = post(api_url, "flow_runs/filter", campaigns)
    answer = httpx.get(f"{api_url}/flow_runs/{run['id']}/graph-v2", trust_env=False, timeout=ANSWER_S)
    return [(node["label"], len(node["parents"])) for _, node in answer.raise_for_status().json()["nodes"]]


def test_walkers_go_on_during_trainings_and_nothing_is_dropped(folder: Folder, prefect_api_url: str) -> None:
    folder.run(n_walkers=4, learning=OVERLAPPED)
    entries = Journal(folder.directory.journal).read()
    assert first_difference(entries) is None
    samples = [sample for number in (1, 2, 3) for sample in walkers_in(folder, number)]
    assert len({sample["name"] for sample in samples}) == len(samples) == 12
    assert [folder.n_brought(number) for number in (1, 2, 3)] == [4, 4, 4]
    assert folder.n_launches() == 6 + 1 + 12  # bootstrap, isolated atom, samples
    moved_on = [{sample["moved_on"] for sample in walkers_in(folder, number)} for number in (1, 2, 3)]
    assert moved_on[0] == {0}
    assert 0 in moved_on[1]  # begun before the training of generation 1 had ended
    assert all(sample["lag"] < 8 for sample in samples)
    progress = read_progress(folder.directory)
    assert (progress.state, progress.n_labels) == ("complete", 18)
    labels_stand_alone_in_the_run_graph(prefect_api_url)


def test_walkers_and_labels_go_on_while_the_flow_is_held_up(folder: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    journal, begin = Journal(folder.directory.journal), Reports.begin

    def n_arrived() -> int:
        return sum(isinstance(entry, LabelArrived) for entry in journal.read())

    def begin_late(reports: Reports, number: int) -> None:  # as when the server is away between two generations
        if number == 1:
            wait_until(lambda: n_arrived() == 12, lambda: str(journal.read()))  # all: eight samples are ahead
        begin(reports, number)

    monkeypatch.setattr(Reports, "begin", begin_late)
    folder.run(n_walkers=4, learning=OVERLAPPED)
    assert [folder.n_brought(number) for number in (1, 2, 3)] == [4, 4, 4]
    assert first_difference(journal.read()) is None


def labels_stand_alone_in_the_run_graph(api_url: str) -> None:
    """The graph of hundreds of linked tasks has hundreds of rows."""

    def parents_of_labels() -> list[int]:
        return [n_parents for name, n_parents in nodes_in_run_graph(api_url) if name.startswith("label ")]

    wait_until(lambda: len(parents_of_labels()) == 12, lambda: str(nodes_in_run_graph(api_url)))
    assert set(parents_of_labels()) == {0}


def test_a_killed_campaign_goes_on_with_what_was_under_way(tmp_path: Path, prefect_api_url: str) -> None:
    slow = SlowCampaign(tmp_path / "overlapped", prefect_api_url, delay_s=0.5, labels_ahead=2 * N_STATES)
    with slow.running() as process:
        slow.wait_for(lambda: N_LABELS - 10 < len(launches(slow.log, "end")) < N_LABELS - 2)
        process.kill()
        process.wait()
    journal = Journal(slow.directory.journal)
    before = cut_after_last_decision(journal)
    with slow.running() as process:
        slow.wait_for(lambda: process.poll() is not None)
        assert process.returncode == 0, slow.output.read_text()
    assert journal.path.read_bytes().startswith(before)
    assert first_difference(journal.read()) is None
    assert slow.directory.read_manifest(N_GENERATIONS)["n_labels"] == N_LABELS - 1
    repeats = repeats_in(slow.log.read_text().splitlines())
    assert not repeats.finished
    assert len({*launches(slow.log, "end")}) == N_LABELS  # one may have ended at the kill, before it was stored


@pytest.mark.long
def test_what_is_in_computation_at_the_end_is_kept_and_learned_when_the_campaign_goes_on(
    folder: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop_early(progress: LearningProgress, _learning: Learning) -> str | None:
        return "that is enough" if progress.generation == 1 else None

    folder.walkers["n_steps"] = 600  # so that walkers still move when the first model is there
    flow = import_module("surveyor.flows.online_learning")
    with monkeypatch.context() as patch:
        patch.setattr(flow, "reason_to_stop", stop_early)
        folder.run(n_walkers=4, learning=OVERLAPPED)
    entries = Journal(folder.directory.journal).read()
    ended = next(number for number, entry in enumerate(entries) if isinstance(entry, RunEnds))
    begun = {entry.name for entry in entries[:ended] if isinstance(entry, SampleReturned)}
    arrived = {entry.name for entry in entries if isinstance(entry, LabelArrived)}
    assert arrived <= begun  # nothing is bought for a sample that returned later
    assert folder.n_launches() == 6 + 1 + len(arrived)
    folder.run(n_walkers=4, learning=OVERLAPPED)
    assert [folder.n_brought(number) for number in (1, 2, 3)] == [4, 4, 4]
    assert folder.n_launches() == 6 + 1 + 12
    assert first_difference(Journal(folder.directory.journal).read()) is None


@pytest.mark.long  # the record of samples ahead has a test of its own
def test_a_generation_ahead_that_brings_nothing_ends_the_campaign_with_advice_until_its_guards_change(
    folder: Folder,
) -> None:
    loose = dict(folder.walkers)
    folder.walkers["max_force_eV_per_A"] = 1e-6
    with pytest.raises(NothingLearned, match=r"generation 1 brought no new label: 4 of 4 samples .*\n  force: raise"):
        folder.run(n_walkers=4, learning=OVERLAPPED)
    assert folder.n_launches() == 6 + 1
    assert read_progress(folder.directory).failure.startswith("generation 1 brought no new label")

    folder.walkers = loose
    folder.run(n_walkers=4, learning=OVERLAPPED)
    assert [folder.n_brought(number) for number in (1, 2, 3)] == [4, 4, 4]
    assert first_difference(Journal(folder.directory.journal).read()) is None


def test_more_samples_ahead_than_a_generation_has_are_needed(folder: Folder) -> None:
    with pytest.raises(InputError, match=r"labels_ahead: found 3, expected at least n_states, 4"):
        folder.run(n_walkers=4, learning=OVERLAPPED | {"labels_ahead": 3})
    with pytest.raises(InputError, match=r"labels_ahead: found 3, expected at least 4, the number of walkers"):
        folder.run(n_walkers=4, learning={"labels_ahead": 3})
    assert not folder.directory.path.exists()
