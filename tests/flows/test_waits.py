"""Stages of a campaign begin as their own pools are there, and what is waited for is said, on a real SLURM."""

import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import ase.io
import httpx
import pytest
import yaml
from ase.build import bulk
from prefect_server import ANSWER_S, post, prefect_environment
from processes import PATIENCE_S, processes_with, wait_until
from slurm import SlurmCluster

from surveyor.blocks.pools import SLURMPool
from surveyor.labels import LabelStore
from surveyor.run_directory import RunDirectory

N_BOOTSTRAP, N_WALKERS = 6, 2
MARK = "SURVEYOR_TEST_WAITS"
WAITS = "waiting for a job of slurm/waits-gpu (PENDING"

pytestmark = [pytest.mark.slurm, pytest.mark.slow]


class Campaign:
    """A campaign whose stages have partitions of their own, run by the command in a process of its own."""

    def __init__(self, folder: Path, api_url: str) -> None:
        self.folder, self.api_url = folder, api_url
        self.output, self.directory = folder / "output.txt", RunDirectory(folder / "run")
        self.environment = {**prefect_environment(folder / "prefect", api_url), MARK: str(folder)}
        ase.io.write(folder / "copper.extxyz", bulk("Cu", cubic=True))

    def command(self, *arguments: str) -> list[str]:
        return [sys.executable, "-m", "surveyor.flows.command_line", *arguments]

    def start(self, n_generations: int) -> "subprocess.Popen[bytes]":
        loose = {"discard_energy_meV_per_atom": 1e6, "discard_forces_meV_per_A": 1e6}
        content = {
            "run_directory": "run",
            "walkers": [{"start": "copper.extxyz", "n_walkers": N_WALKERS, "n_steps": 20, "temperature_K": 600}],
            "reference": {"emt": {}},
            "model": {"pair": {}},
            "bootstrap": {"n_structures": N_BOOTSTRAP},
            "learning": {"n_generations": n_generations, **loose},
            "pools": {"sampling": "slurm/waits-cpu", "labelling": "slurm/waits-cpu", "training": "slurm/waits-gpu"},
        }
        (self.folder / "campaign.yaml").write_text(yaml.safe_dump(content))
        with self.output.open("ab") as output:
            return subprocess.Popen(
                self.command("run", "campaign.yaml"),
                env=self.environment,
                cwd=self.folder,
                stdout=output,
                stderr=output,
            )

    def status(self) -> str:
        done = subprocess.run(
            self.command("status", "run"),
            env=self.environment,
            cwd=self.folder,
            capture_output=True,
            text=True,
            check=True,
        )
        return done.stdout

    def messages(self) -> list[str]:
        """The messages of the states of its newest run in which that was running, the newest state last."""
        body = {"flow_runs": {"name": {"any_": ["campaign run"]}}, "sort": "START_TIME_DESC"}
        runs = post(self.api_url, "flow_runs/filter", body)
        ours = [run for run in runs if run["parameters"]["run_directory"] == str(self.directory.path)]
        assert all(run["run_count"] == 1 for run in ours)
        states = httpx.get(
            f"{self.api_url}/flow_run_states/", params={"flow_run_id": ours[0]["id"]}, trust_env=False, timeout=ANSWER_S
        )
        in_order = sorted(states.raise_for_status().json(), key=lambda state: str(state["timestamp"]))
        return [str(state["message"] or "") for state in in_order if state["type"] == "RUNNING"]

    def n_labels(self) -> int:
        return len(list(LabelStore.in_folder(self.folder / "labels").keys()))

    def wait_for(self, condition: Callable[[], bool], what: str) -> None:
        wait_until(condition, lambda: f"no {what}\n{self.output.read_text()[-3000:]}")

    def wait_until_it_waits(self) -> None:
        self.wait_for(lambda: self.output.exists() and WAITS in self.output.read_text(), "word of the wait")
        self.wait_for(lambda: self.messages()[-1].startswith(WAITS), "message in the state of the run")
        assert WAITS in self.status()


@pytest.fixture
def campaign(tmp_path: Path, prefect_api_url: str, slurm_cluster: SlurmCluster) -> Iterator[Campaign]:
    common = {"memory_GB": 1, "walltime_minutes": 10, "idle_minutes": 0.2, "interface": "lo", "max_jobs": 1}
    for partition in ("cpu", "gpu"):
        SLURMPool(queue=partition, **common).save(f"waits-{partition}", overwrite=True)
    campaign = Campaign(tmp_path, prefect_api_url)
    try:
        yield campaign
    finally:
        for process in processes_with({MARK: str(tmp_path)}):
            with suppress(ProcessLookupError):
                process.kill()
        slurm_cluster.reset()


def test_labels_and_walkers_wait_for_no_job_that_trains(campaign: Campaign, slurm_cluster: SlurmCluster) -> None:
    slurm_cluster.hold("gpu")
    flow = campaign.start(n_generations=0)
    campaign.wait_for(lambda: campaign.n_labels() == 1 + N_BOOTSTRAP, "labels of the bootstrap")
    campaign.wait_until_it_waits()
    assert not campaign.directory.generation(0).model.exists()

    slurm_cluster.release("gpu")
    assert flow.wait(PATIENCE_S) == 0, campaign.output.read_text()
    assert "no longer waiting, after" in campaign.output.read_text()
    assert campaign.messages()[-1] == ""
    assert "waiting" not in campaign.status()

    # On a restart the model is there, and so is all that walkers and labels need.
    slurm_cluster.hold("gpu")
    campaign.output.unlink()
    flow = campaign.start(n_generations=1)
    campaign.wait_for(lambda: campaign.n_labels() == 1 + N_BOOTSTRAP + N_WALKERS, "labels of the walkers")
    campaign.wait_until_it_waits()
    assert not campaign.directory.generation(1).model.exists()

    slurm_cluster.release("gpu")
    assert flow.wait(PATIENCE_S) == 0, campaign.output.read_text()
    assert campaign.directory.n_complete() == 2
