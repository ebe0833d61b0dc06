"""The deployment `local` with a real server and a real worker, by the commands that README.md gives."""

import json
import time
from collections import Counter
from collections.abc import Callable
from datetime import timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any
from uuid import UUID

import psutil
import pytest
from labelling_inputs import copper, labelled
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.actions import DeploymentUpdate
from prefect.client.schemas.filters import DeploymentFilter, FlowRunFilter, LogFilter
from prefect.client.schemas.objects import FlowRun
from prefect.client.schemas.schedules import IntervalSchedule
from prefect.states import AwaitingRetry, Cancelling
from prefect_events import has_left_worker
from processes import PATIENCE_S
from slow_campaign import stored

from surveyor.dataset import Dataset
from surveyor.models.choice import ModelParameters, make_model
from surveyor.run_directory import RunDirectory
from surveyor.testing.references import launches
from surveyor.works.summary import read_summary

POLL_S = 0.5

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("worker")]


def campaign(folder: Path, starts: Path, delay_s: float = 0.0) -> dict[str, Any]:
    counting = {"log": str(folder / "launches.log"), "delay_s": delay_s}
    return {
        "run_directory": str(folder / "run"),
        "walkers": [{"start": str(starts), "n_walkers": 2, "n_steps": 10, "max_temperature_factor": 100}],
        "reference": {"emt": {"rehearsal": counting}},
        "model": {"pair": {}},
        "bootstrap": {"n_structures": 8},
        "learning": {"n_generations": 1},
    }


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(POLL_S)


def run_of(printed: str, client: SyncPrefectClient) -> FlowRun:
    words = printed.split()
    return client.read_flow_run(UUID(words[words.index("UUID:") + 1]))


def test_the_deployment_is_listed(prefect: Callable[..., Any]) -> None:
    assert "online-learning/local" in prefect("deployment", "ls").stdout
    assert "local" in prefect("work-pool", "ls").stdout


@pytest.mark.long
def test_a_campaign_runs_through_the_worker(
    prefect: Callable[..., Any], client: SyncPrefectClient, tmp_path: Path, starts: Path
) -> None:
    parameters = json.dumps(campaign(tmp_path, starts))
    done = prefect("deployment", "run", "online-learning/local", "--params", parameters, "--watch")
    assert done.returncode == 0, done.stdout
    assert RunDirectory(tmp_path / "run").n_complete() == 2

    mine = LogFilter.model_validate({"flow_run_id": {"any_": [run_of(done.stdout, client).id]}})
    # Said on a worker of the pool, which knows nothing of Prefect; logs arrive in their own time.
    wait_until(lambda: any(log.message.startswith("g001-w000-0: ") for log in client.read_logs(mine)))


def test_scheduled_runs_of_a_dataset_go_through_the_worker_in_turn_and_compute_nothing_again(
    client: SyncPrefectClient, tmp_path: Path, starts: Path
) -> None:
    deployment = client.read_deployment_by_name("label-dataset/local").id
    reference = {"emt": {"rehearsal": {"log": str(tmp_path / "launches.log")}}}
    parameters = {"structures": str(starts), "output_directory": str(tmp_path / "out"), "reference": reference}
    client.update_deployment(deployment, DeploymentUpdate(parameters=parameters))
    often = IntervalSchedule(interval=timedelta(seconds=4))  # more often than the worker can run them
    (schedule,) = client.create_deployment_schedules(deployment, [(often, True)])
    made = DeploymentFilter.model_validate({"id": {"any_": [deployment]}})

    def runs(*types: str) -> list[FlowRun]:
        wanted = FlowRunFilter.model_validate({"state": {"type": {"any_": types}}})
        found = client.read_flow_runs(flow_run_filter=wanted, deployment_filter=made)
        return [run for run in found if run.auto_scheduled]

    def is_over() -> bool:
        for run in runs("SCHEDULED"):  # those that wait for their turn stay when the schedule is gone
            client.delete_flow_run(run.id)
        return not runs("SCHEDULED", "PENDING", "RUNNING")

    wait_until(lambda: len(runs("COMPLETED")) >= 2)
    client.delete_deployment_schedule(deployment, schedule.id)
    wait_until(is_over)

    ended = sorted(runs("COMPLETED"), key=lambda run: run.start_time)
    assert all(first.end_time <= second.start_time for first, second in pairwise(ended))
    assert len(launches(tmp_path / "launches.log")) == 1
    assert read_summary(RunDirectory(tmp_path / "out"))["n_labelled"] == 1


@pytest.mark.long
def test_a_model_is_trained_through_the_worker(prefect: Callable[..., Any], tmp_path: Path) -> None:
    data = str(Path(__file__).parents[2] / "deployments" / "train" / "ethanol.extxyz")
    parameters = {"train": data, "output_directory": str(tmp_path / "out"), "model": {"pair": {}}}
    done = prefect("deployment", "run", "train-model/local", "--params", json.dumps(parameters), "--watch")
    assert done.returncode == 0, done.stdout
    assert read_summary(RunDirectory(tmp_path / "out"))["n_structures"]["train"] == 45


@pytest.mark.long
def test_walkers_move_on_a_given_potential_through_the_worker(
    prefect: Callable[..., Any], tmp_path: Path, starts: Path
) -> None:
    frames = Dataset(labelled(copper(12)))
    model = make_model(ModelParameters.model_validate({"pair": {}})).initialize(frames, atomic_energies=None, seed=0)
    model.train(frames[:9], frames[9:], tmp_path / "training")[0].save(tmp_path / "model")
    walkers = [{"start": str(starts), "n_walkers": 2, "n_steps": 3, "max_temperature_factor": 100}]
    parameters = {"potential": str(tmp_path / "model"), "output_directory": str(tmp_path / "out"), "walkers": walkers}
    done = prefect("deployment", "run", "sample-walkers/local", "--params", json.dumps(parameters), "--watch")
    assert done.returncode == 0, done.stdout
    assert len(read_summary(RunDirectory(tmp_path / "out"))["samples"]) == 2


def test_wrong_parameters_are_refused(
    prefect: Callable[..., Any], client: SyncPrefectClient, tmp_path: Path, starts: Path
) -> None:
    parameters = campaign(tmp_path, starts)
    wrong = {**parameters, "learning": {"n_generations": -1}}
    refused = prefect("deployment", "run", "online-learning/local", "--params", json.dumps(wrong))
    assert refused.returncode == 1
    assert "learning.n_generations" in refused.stdout
    assert "less than the minimum of 0" in refused.stdout

    # What the schema cannot say fails the run before any work, with what to do in its state.
    walkers = [{**parameters["walkers"][0], "start": str(tmp_path / "missing.extxyz")}]
    missing = {**parameters, "walkers": walkers}
    call = ("deployment", "run", "online-learning/local", "--params", json.dumps(missing), "--watch")
    failed = prefect(*call, "--flow-run-name", "my-copper")
    assert failed.returncode == 1
    run = run_of(failed.stdout, client)
    assert run.name == "my-copper"
    state = run.state
    assert state.name == "Failed"
    assert state.message.startswith("walkers[0].start: file")
    assert "missing.extxyz does not exist" in state.message
    assert not (tmp_path / "run").exists()


def retry(run: FlowRun, client: SyncPrefectClient) -> None:
    """Do what the button Retry of the UI does, and wait until the run is completed."""
    client.set_flow_run_state(run.id, AwaitingRetry(), force=True)
    wait_until(lambda: client.read_flow_run(run.id).state.is_final())
    states = [(state.name, state.timestamp.isoformat(), state.message) for state in client.read_flow_run_states(run.id)]
    assert states[-1][0] == "Completed", states[-4:]


# The one in the middle of the first generation, the other with a complete one behind it.
@pytest.mark.parametrize(("end", "n_complete"), [pytest.param("Cancelled", 0, marks=pytest.mark.long), ("Crashed", 1)])
def test_a_campaign_that_was_ended_leaves_no_process_and_a_retry_continues_it(
    end: str, n_complete: int, prefect: Callable[..., Any], client: SyncPrefectClient, tmp_path: Path, starts: Path
) -> None:
    log, directory = tmp_path / "launches.log", RunDirectory(tmp_path / "run")
    parameters = json.dumps(campaign(tmp_path, starts, delay_s=1.0))
    run = run_of(prefect("deployment", "run", "online-learning/local", "--params", parameters).stdout, client)
    wait_until(lambda: len(launches(log, "end")) >= 3 and directory.n_complete() >= n_complete)
    lease = json.loads(directory.lease.read_text())
    processes = [psutil.Process(lease["pid"]), *psutil.Process(lease["pid"]).children(recursive=True)]

    if end == "Cancelled":
        client.set_flow_run_state(run.id, Cancelling())  # as the button of the UI does, and sooner than the command
    else:
        processes[0].kill()
    wait_until(lambda: client.read_flow_run(run.id).state.name == end)
    wait_until(lambda: not any(process.is_running() for process in processes))
    finished = stored(log)
    assert directory.n_complete() == n_complete

    # Prefect's worker reports an end a second time, seconds after the first, and would end what was retried between.
    wait_until(lambda: has_left_worker(run.id))
    retry(run, client)
    assert directory.n_complete() == 2
    begun = Counter(launches(log))
    assert all(begun[structure] == 1 for structure in finished)
    assert sum(begun.values()) - len(begun) <= 2  # what the two workers were at when they were ended
