"""A Prefect server that goes away at any moment of a run ends none: each request waits for it."""

import json
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import ase.io
import httpx
import pytest
import yaml
from absent_server import AbsentServer
from ase.build import bulk
from labelling_inputs import bad_structures, copper, labelled, written
from prefect.client.orchestration import get_client
from prefect.settings import PREFECT_API_URL, temporary_settings
from prefect_server import free_address, post, prefect_environment
from processes import wait_until

from surveyor.dataset import Dataset
from surveyor.flows import server
from surveyor.flows.server import ServerUnreachable, outlasting_outages
from surveyor.models.choice import ModelParameters, make_model
from surveyor.progress import read_progress
from surveyor.run_directory import RunDirectory

AWAY_S = 5.0  # longer than what a request of a new client outlasts by Prefect alone, which is 4 s at most
PATIENCE_S = 600
LOOSE = {"discard_energy_meV_per_atom": 1e6, "discard_forces_meV_per_A": 1e6}
START = "GET /api/health"  # by which the command looks for a server: a start without one is refused
# What a campaign asks for; the first of a child run is by a client that was never connected.
OF_A_CAMPAIGN = {
    "GET /api/admin/version",
    "POST /api/flows/",
    "POST /api/flow_runs/",
    "PATCH /api/flow_runs/*",
    "POST /api/flow_runs/*/set_state",
    "GET /api/flow_runs/*",
    "POST /api/task_runs/",
    "GET /api/task_runs/*",
    "POST /api/logs/",
    "POST /api/artifacts/",
    "GET /api/events/in",
}

pytestmark = [pytest.mark.slow]


class Command:
    """A command in a process of its own, and the server as it finds it.

    Args:
        name: of the command.
        parameters: of it; paths are in the folder.
        absent: the server.
        folder: for its files.
    """

    def __init__(self, name: str, parameters: Mapping[str, Any], absent: AbsentServer, folder: Path) -> None:
        self.name, self.absent, self.folder = name, absent, folder
        self.output = folder / f"{name}.txt"
        self._parameters = parameters

    @contextmanager
    def running(self) -> Iterator["subprocess.Popen[bytes]"]:
        """Run as long as this lasts."""
        file = self.folder / f"{self.name}.yaml"
        file.write_text(yaml.safe_dump(self._parameters))
        environment = prefect_environment(self.folder / "prefect", self.absent.url)
        command = [sys.executable, "-m", "surveyor.flows.command_line", self.name, str(file)]
        with self.output.open("wb") as output:
            process = subprocess.Popen(command, env=environment, cwd=self.folder, stdout=output, stderr=output)
        try:
            yield process
        finally:
            process.terminate()
            with suppress(subprocess.TimeoutExpired):
                process.wait(15)
            process.kill()
            process.wait()

    def has_said(self, words: str) -> bool:
        """Say whether something was printed."""
        return words in self.output.read_text()


def commands(folder: Path) -> dict[str, dict[str, Any]]:
    """Return small parameters of all commands that run flows, and write the files that they name."""
    frames = labelled(copper(12))
    model = make_model(ModelParameters.model_validate({"pair": {}}))
    model.initialize(Dataset(frames), atomic_energies=None, seed=0).train(
        Dataset(frames[:9]), Dataset(frames[9:]), folder / "training"
    )[0].save(folder / "model")
    ase.io.write(folder / "start.extxyz", bulk("Cu", cubic=True))
    walkers = [{"start": "start.extxyz", "n_walkers": 2, "n_steps": 20, "temperature_K": 600}]
    return {
        "run": {
            "run_directory": "absent-run",
            "walkers": walkers,
            "reference": {"emt": {"rehearsal": {"failing_fraction": 0.3}}},
            "model": {"pair": {}},
            "bootstrap": {"n_structures": 8},
            "learning": {"n_generations": 1, **LOOSE},
        },
        "label": {
            "structures": str(written(folder / "structures.extxyz", [*copper(3), bad_structures()["overlap"]])),
            "output_directory": "absent-label",
            "reference": {"emt": {}},
        },
        "train": {
            "train": str(written(folder / "labelled.extxyz", frames)),
            "output_directory": "absent-train",
            "model": {"pair": {}},
        },
        "sample": {"potential": "model", "output_directory": "absent-sample", "walkers": walkers},
    }


class Leaving:
    """Leaves when something is asked for: for the first time, or each time; what is asked again then is heard.

    Args:
        each_time: it is asked for.
    """

    def __init__(self, *, each_time: bool) -> None:
        self._each_time, self._left_at = each_time, {START}

    def __call__(self, asked: str) -> bool:
        if asked not in self._left_at:
            self._left_at.add(asked)
            return True
        if self._each_time and asked != START:
            self._left_at.remove(asked)
        return False


@pytest.fixture(
    scope="module",
    params=[
        pytest.param(False, id="each kind of request"),
        pytest.param(True, id="each request", marks=[pytest.mark.long, pytest.mark.timeout(3600)]),
    ],
)
def ended(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, prefect_api_url: str
) -> Iterator[dict[str, Command]]:
    """The commands after their ends, each with a server that was away again and again; they ran side by side."""
    folder = tmp_path_factory.mktemp("absent")
    with ExitStack() as stack:
        started = {}
        for name, parameters in commands(folder).items():
            absent = AbsentServer(prefect_api_url, Leaving(each_time=request.param), AWAY_S)
            stack.enter_context(absent.open())
            command = Command(name, parameters, absent, folder)
            started[name] = (command, stack.enter_context(command.running()))
        for command, process in started.values():
            assert process.wait(3600) == 0, command.output.read_text()
        yield {name: command for name, (command, _) in started.items()}


@pytest.mark.parametrize("name", ["run", "label", "train", "sample"])
def test_a_run_outlasts_a_server_that_leaves_at_any_request(
    ended: dict[str, Command], name: str, prefect_api_url: str
) -> None:
    command = ended[name]
    assert "POST /api/flow_runs/*/set_state" in command.absent.left
    main, *children = runs_of(command.folder / f"absent-{name}", prefect_api_url)
    assert main["state_name"] == "Completed"
    # A child run whose creation was not acknowledged is created twice, and one of the two never begins.
    assert {run["state_name"] for run in children} <= {"Completed", "Pending"}
    ended_well = [run["name"] for run in children if run["state_name"] == "Completed"]
    assert ended_well == (["generation 0", "generation 1"] if name == "run" else [])


def test_a_campaign_asks_for_all_that_is_tried(ended: dict[str, Command], prefect_api_url: str) -> None:
    absent, folder = ended["run"].absent, ended["run"].folder / "absent-run"
    assert {*absent.left} >= OF_A_CAMPAIGN
    assert read_progress(RunDirectory(folder)).state == "complete"
    assert "scf_not_converged" in runs_of(folder, prefect_api_url)[0]["tags"]


def runs_of(folder: Path, api_url: str) -> list[dict[str, Any]]:  # Any: whatever JSON holds
    """Return the runs of a folder as the server has them; the first one is that of the command."""

    def read(flow_runs: dict[str, Any]) -> list[dict[str, Any]]:
        body = {"flow_runs": flow_runs, "sort": "START_TIME_ASC"}
        return list(post(api_url, "flow_runs/filter", body))

    (run,) = [run for run in read({"name": {"like_": folder.name}}) if str(folder) in json.dumps(run["parameters"])]
    return [run, *read({"parent_flow_run_id": {"any_": [run["id"]]}})]


@pytest.mark.long  # Prefect waits for minutes at exit
def test_a_run_that_is_told_to_end_does_not_wait(prefect_api_url: str, tmp_path: Path) -> None:
    # A report waits in its thread, and so does the begin of the next generation.
    absent = AbsentServer(prefect_api_url, lambda asked: asked == "POST /api/artifacts/", away_s=3600)
    with absent.open():
        command = Command("run", commands(tmp_path)["run"], absent, tmp_path)
        with command.running() as process:
            wait_until(partial(command.has_said, "does not answer"), command.output.read_text, PATIENCE_S)
            assert absent.left == ["POST /api/artifacts/"]
            process.send_signal(signal.SIGTERM)
            # Prefect itself takes a minute or two at exit, to bring its log to the server; patience would be 30 min.
            assert process.wait(PATIENCE_S) == 143, command.output.read_text()


def test_patience_ends_once_and_comes_back_with_the_server(
    monkeypatch: pytest.MonkeyPatch, prefect_api_url: str
) -> None:
    monkeypatch.setattr(server, "PATIENCE_S", 4.0)  # more than the first attempt of a request takes
    monkeypatch.setattr(server, "LOOK_S", 0.1)

    def ask(url: str) -> None:
        with temporary_settings({PREFECT_API_URL: url}), get_client(sync_client=True) as client:
            client.hello()

    nobody = free_address()
    with outlasting_outages():
        with pytest.raises(ServerUnreachable, match="went away"):
            ask(nobody)
        with pytest.raises(httpx.ConnectError):
            ask(nobody)
        ask(prefect_api_url)
        with pytest.raises(ServerUnreachable, match="went away"):
            ask(nobody)
    with pytest.raises(httpx.ConnectError):
        ask(nobody)
