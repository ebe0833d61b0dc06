"""The deployment `cloud-gpu` by the commands that its README.md gives, on a simulated EC2."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from metal import SECRET
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterId
from prefect_server import ended_at_last
from processes import PATIENCE_S, wait_until
from simulated_cloud import SimulatedCloud, simulated_cloud

from surveyor.blocks.pools import EC2Pool
from surveyor.run_directory import RunDirectory
from surveyor.testing.references import launches
from surveyor.works.campaign import CAMPAIGN

FOLDER = Path(__file__).parents[2] / "deployments" / "cloud-gpu"

pytestmark = [pytest.mark.slow]


@pytest.fixture
def cloud(environment: dict[str, str]) -> Iterator[SimulatedCloud]:
    with simulated_cloud() as cloud:
        yield cloud
        cloud.wait_for_the_end(PATIENCE_S)


def test_a_campaign_runs_on_rented_instances_through_the_worker(
    cloud: SimulatedCloud, environment: dict[str, str], client: SyncPrefectClient, tmp_path: Path, starts: Path
) -> None:
    """When Amazon takes its instance away, no finished label is computed again, and no attempt counts."""
    for_all = {**environment, **cloud.environment}
    for_all["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), environment["PATH"]])

    def call(*command: str) -> str:
        done = subprocess.run(command, env=for_all, cwd=FOLDER, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
        return done.stdout

    EC2Pool(**cloud.fields(max_jobs=1, idle_minutes=0.1, price_per_hour=3.6, spot=True)).save(
        "cloud-test", overwrite=True
    )
    call("prefect", "work-pool", "create", "cloud-gpu", "--type", "process")
    call("prefect", "deploy", "--all")
    log, worker = tmp_path / "launches.log", ["prefect", "worker", "start", "--pool", "cloud-gpu"]
    with ended_at_last([sys.executable, "-m", *worker], log=tmp_path / "worker.log", environment=for_all):
        parameters = json.dumps(campaign(tmp_path, starts, log))
        words = call("prefect", "deployment", "run", "online-learning/cloud-gpu", "--params", parameters).split()
        run = UUID(words[words.index("UUID:") + 1])

        def is_over() -> bool:
            state = client.read_flow_run(run).state
            return state is not None and state.is_final()

        wait_until(lambda: len(launches(log, "end")) >= 2 or is_over(), (tmp_path / "worker.log").read_text)
        finished = launches(log, "end")
        cloud.take_away(*cloud.alive())
        wait_until(is_over, (tmp_path / "worker.log").read_text)
    assert client.read_flow_run(run).state_name == "Completed", (tmp_path / "worker.log").read_text()
    assert RunDirectory(tmp_path / "run").read_manifest(0)["n_labels"] == 4
    ends = launches(log, "end")
    assert len(ends) == len({*ends}) == 4 + 1  # and an isolated atom
    begins = launches(log, "begin")
    assert [begins.count(each) for each in finished] == [1] * len(finished)
    assert 5 <= len(begins) <= 5 + 1  # and the one that was interrupted
    of_run = FlowRunFilter(id=FlowRunFilterId(any_=[run]))
    assert {each.run_count for each in client.read_task_runs(flow_run_filter=of_run)} == {1}
    assert len(cloud.requested("RunInstances")) == 2
    written = [path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()]
    assert not [content for content in written if SECRET.encode() in content]


def campaign(folder: Path, starts: Path, log: Path) -> dict[str, Any]:
    return {
        "run_directory": str(folder / "run"),
        "walkers": [{"start": str(starts)}],
        "reference": {"emt": {"rehearsal": {"log": str(log), "delay_s": 1.0}}},
        "model": {"pair": {}},
        "bootstrap": {"n_structures": 4},
        "learning": {"n_generations": 0},
        "pools": {"labelling": "ec2/cloud-test"},
    }


def test_ten_lines_at_most_make_a_campaign_of_a_laptop_one_in_the_cloud(tmp_path: Path) -> None:
    lines = (FOLDER / "README.md").read_text().partition("```yaml\n")[2].partition("```")[0]
    assert len(lines.splitlines()) <= 10
    shutil.copytree(FOLDER.parent, tmp_path, dirs_exist_ok=True)
    file = tmp_path / "demo" / "cp2k.yaml"
    kept = [line for line in file.read_text().splitlines() if not line.startswith(("run_directory", "labels", "pools"))]
    file.write_text("\n".join([*kept, lines]))
    parameters = CAMPAIGN.load(file)
    assert parameters.pools.names == ["ec2/gpu", "ec2/cpu"]
    assert str(parameters.run_directory) == "/campaigns/water"
