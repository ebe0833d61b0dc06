"""The deployment `slurm` on a real SLURM, by the commands that its README.md gives."""

import difflib
import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any
from uuid import UUID

import psutil
import pytest
from prefect.client.orchestration import SyncPrefectClient
from prefect_events import has_left_worker
from processes import PATIENCE_S, processes_that_know, wait_until
from slurm import SlurmCluster

from surveyor.lease import hold_lease
from surveyor.run_directory import RunDirectory
from surveyor.testing.references import launches
from surveyor.works.campaign import CAMPAIGN

DEPLOYMENTS = Path(__file__).parents[2] / "deployments"
FOLDER = DEPLOYMENTS / "slurm"
WORKER = "surveyor-worker"


class Site:
    """The deployment on a cluster, with its worker in a job."""

    def __init__(self, cluster: SlurmCluster, environment: dict[str, str], folder: Path) -> None:
        self.cluster = cluster
        self.environment = {**environment, **cluster.environment}
        self.environment["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), environment["PATH"]])
        self.folder = folder

    def call(self, *command: str, cwd: Path = FOLDER) -> str:
        done = subprocess.run(
            command, env=self.environment, cwd=cwd, capture_output=True, text=True, check=False, timeout=PATIENCE_S
        )
        assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
        return done.stdout

    def set_up(self) -> None:
        self.call("python", "pools.py")
        self.call("prefect", "work-pool", "create", "slurm", "--type", "process")
        self.call("prefect", "deploy", "--all")
        self.call("prefect", "work-queue", "set-concurrency-limit", "campaigns", "1", "--pool", "slurm")
        self.start_worker()

    def start_worker(self) -> None:
        script = (FOLDER / "worker.sh").read_text().replace("##SBATCH --partition=NAME", "#SBATCH --partition=cpu")
        (self.folder / "worker.sh").write_text(script)
        self.call("sbatch", "worker.sh", cwd=self.folder)

    def run(self, parameters: dict[str, Any]) -> UUID:
        words = self.call(
            "prefect", "deployment", "run", "online-learning/slurm", "--params", json.dumps(parameters)
        ).split()
        return UUID(words[words.index("UUID:") + 1])

    def wait_for(self, condition: Callable[[], bool]) -> None:
        wait_until(condition, self._log)

    def _log(self) -> str:
        return "\n".join(path.read_text()[-5000:] for path in sorted(self.folder.glob("*.log")))

    def jobs(self) -> list[str]:
        """The jobs but that of the worker."""
        return [job.name for job in self.cluster.queue() if job.name != WORKER]


@pytest.fixture(scope="module")
def site(
    slurm_cluster: SlurmCluster, environment: dict[str, str], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Site]:
    site = Site(slurm_cluster, environment, tmp_path_factory.mktemp("site"))
    try:
        site.set_up()
        yield site
    finally:
        slurm_cluster.reset()


def campaign(folder: Path, starts: Path, seconds: float = 0.1, labelling: str = "local") -> dict[str, Any]:
    sleeping = {"log": str(folder / "launches.log"), "delay_s": seconds}
    return {
        "run_directory": str(folder / "run"),
        "walkers": [{"start": str(starts)}],
        "reference": {"emt": {"rehearsal": sleeping}},
        "model": {"pair": {}},
        "bootstrap": {"n_structures": 8},
        "learning": {"n_generations": 0},
        "pools": {"labelling": labelling},
    }


def state_of(run: UUID, client: SyncPrefectClient) -> str:
    return str(client.read_flow_run(run).state_name)


def test_the_campaign_of_a_cluster_differs_from_that_of_a_laptop_in_ten_lines_at_most() -> None:
    files = DEPLOYMENTS / "demo" / "cp2k.yaml", FOLDER / "campaign.yaml"
    changes = difflib.ndiff(*(file.read_text().splitlines() for file in files))
    assert len([line for line in changes if line.startswith("+ ")]) <= 10

    there, here = (CAMPAIGN.load(file) for file in files)
    differing = {name for name in type(here).model_fields if getattr(here, name) != getattr(there, name)}
    assert differing == {"run_directory", "pools", "codes"}


@pytest.mark.long
@pytest.mark.slurm
def test_campaigns_wait_for_their_turn(site: Site, client: SyncPrefectClient, tmp_path: Path, starts: Path) -> None:
    runs = []
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
        runs.append(site.run(campaign(tmp_path / name, starts, seconds=1)))
    site.wait_for(lambda: all(state_of(run, client) == "Completed" for run in runs))

    first, second = (client.read_flow_run(run) for run in runs)
    assert second.start_time >= first.end_time or first.start_time >= second.end_time


@pytest.mark.long
@pytest.mark.slurm
def test_a_second_run_on_a_run_directory_fails_and_names_the_first(
    site: Site, client: SyncPrefectClient, tmp_path: Path, starts: Path
) -> None:
    with hold_lease(tmp_path / "run" / "lease"):
        run = site.run(campaign(tmp_path, starts))
        site.wait_for(lambda: state_of(run, client) == "Failed")
    state = client.read_flow_run(run).state
    assert f"is in use by process {os.getpid()} on {socket.gethostname()}" in str(state.message)


@pytest.mark.long
@pytest.mark.slurm
@pytest.mark.slow
def test_cancel_ends_the_jobs_of_a_campaign_and_a_retry_continues_it(
    site: Site, client: SyncPrefectClient, tmp_path: Path, starts: Path
) -> None:
    log, directory = tmp_path / "launches.log", RunDirectory(tmp_path / "run")
    run = site.run(campaign(tmp_path, starts, seconds=4, labelling="slurm/label"))
    site.wait_for(lambda: len(launches(log, "end")) >= 2 and hold_labels(tmp_path))
    assert site.jobs()
    finished = launches(log, "end")

    def is_cancelled() -> bool:
        hold_labels(tmp_path)  # on a busy machine all would end before Prefect's worker hears of it
        return state_of(run, client) == "Cancelled"

    site.call("prefect", "flow-run", "cancel", str(run))
    site.wait_for(is_cancelled)
    site.wait_for(lambda: not site.jobs())
    site.wait_for(lambda: not processes_that_know(tmp_path))
    # `scancel` wakes what is held before it ends it: a program may end in time, and its worker before it stores.
    assert len(launches(log, "end")) < 1 + 8  # one is of the isolated atom
    assert not directory.lease.exists()
    assert not directory.n_complete()

    # Prefect's worker reports an end a second time, seconds after the first, and would end what was retried between.
    site.wait_for(lambda: has_left_worker(run))
    site.call("prefect", "flow-run", "retry", str(run))
    site.wait_for(lambda: state_of(run, client) == "Completed")
    assert directory.n_complete() == 1
    ended = launches(log, "end")
    assert ended[: len(finished)] == finished
    assert not {*finished} & {*ended[len(finished) :]}
    assert len({*ended}) == 1 + 8
    site.wait_for(lambda: not site.jobs())


@pytest.mark.long
@pytest.mark.slurm
def test_a_worker_whose_walltime_ends_hands_its_campaigns_over_to_the_next(
    site: Site, client: SyncPrefectClient, tmp_path: Path, starts: Path
) -> None:
    log = tmp_path / "launches.log"
    run = site.run(campaign(tmp_path, starts, seconds=4, labelling="slurm/label"))
    site.wait_for(lambda: len(launches(log, "end")) >= 2)
    (before,) = (job.id for job in site.cluster.queue() if job.name == WORKER)

    site.call("scancel", "--batch", "--signal=USR1", str(before))
    site.wait_for(lambda: state_of(run, client) == "Completed")
    (after,) = (job.id for job in site.cluster.queue() if job.name == WORKER)
    assert after != before
    states = [state.name for state in client.read_flow_run_states(run)]
    assert states.count("Running") == 2
    assert "Crashed" in states
    assert len(launches(log, "end")) == len(set(launches(log, "end"))) == 1 + 8


@pytest.mark.long
@pytest.mark.slurm
def test_a_worker_that_is_stopped_ends_its_campaigns_in_order(
    site: Site, client: SyncPrefectClient, tmp_path: Path, starts: Path
) -> None:
    run = site.run(campaign(tmp_path, starts, seconds=4, labelling="slurm/label"))
    site.wait_for(lambda: len(launches(tmp_path / "launches.log")) >= 2)

    site.call("scancel", "--batch", "--signal=TERM", "--name", WORKER)
    site.wait_for(lambda: not site.cluster.queue())
    try:
        assert not (tmp_path / "run" / "lease").exists()
        assert state_of(run, client) == "Crashed"
        site.wait_for(lambda: not processes_that_know(tmp_path))
    finally:
        site.start_worker()


def hold_labels(folder: Path) -> bool:
    """Stop the programs of a campaign's labels where they are, and say whether there is one."""
    programs = [process for process in processes_that_know(folder) if process.name() == "sleep"]
    for program in programs:
        with suppress(psutil.NoSuchProcess):
            program.suspend()
    return bool(programs)
