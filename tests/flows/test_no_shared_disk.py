"""A campaign on workers that do not see its run directory: workers and flow are killed in each stage."""

import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import ase.io
import pytest
import yaml
from ase.build import bulk
from hidden_workers import HiddenWorkers, hidden_workers
from killed_campaign import repeats_in
from object_stores import S3, SECRET
from prefect_server import prefect_environment
from processes import wait_until

from surveyor.blocks.pools import DaskPool
from surveyor.buckets import S3Access
from surveyor.events.kinds import Sampled
from surveyor.events.log import of_kind
from surveyor.models.history import reported_epochs
from surveyor.object_storage import ObjectStorage, storage_at
from surveyor.pools.bucket_files import Manifest
from surveyor.run_directory import RunDirectory

N_BOOTSTRAP, N_STATES, N_EPOCHS = 10, 2, 60
PATIENCE_S = 300

pytestmark = [pytest.mark.slow, pytest.mark.mace, pytest.mark.mount, pytest.mark.timeout(600)]


class Campaign:
    """Copper by EMT and a tiny network, run by the command in a process of its own."""

    def __init__(self, folder: Path, api_url: str, s3: S3) -> None:
        self.folder, self.log, self.output = folder, folder / "launches.log", folder / "output.txt"
        self.directory = RunDirectory(folder / "hidden" / "run")
        self.environment = {**prefect_environment(folder / "prefect", api_url), **s3.environment}
        bucket = s3.new_bucket()
        self.workspace = storage_at(f"{bucket}/workspace", s3.access)
        ase.io.write(folder / "hidden" / "copper.extxyz", bulk("Cu", cubic=True))
        size = {"r_max_A": 4.0, "num_channels": 4, "max_L": 0, "correlation": 1, "num_interactions": 1}
        more = {"max_ell": 1, "num_radial_basis": 4, "radial_MLP": "[8]"}
        network = {**size, "max_num_epochs": N_EPOCHS, "batch_size": 2, "lr": 0.01, "device": "cpu", "options": more}
        campaign = {
            "run_directory": "run",
            "walkers": [{"start": "copper.extxyz", "n_walkers": 2, "n_steps": 1000, "temperature_K": 300}],
            "reference": {"emt": {"rehearsal": {"log": str(self.log), "delay_s": 0.3}}},
            "model": {"mace": network},
            "bootstrap": {"n_structures": N_BOOTSTRAP},
            "learning": {
                "n_generations": 1,
                "n_states": N_STATES,
                "discard_energy_meV_per_atom": 1e6,
                "discard_forces_meV_per_A": 1e6,
            },
            "labels": f"{bucket}/labels",
            "pools": dict.fromkeys(("sampling", "labelling", "training"), "dask/hidden"),
        }
        (folder / "hidden" / "campaign.yaml").write_text(yaml.safe_dump(campaign))

    def start(self) -> "subprocess.Popen[bytes]":
        command = [sys.executable, "-m", "surveyor.flows.command_line", "run", "campaign.yaml"]
        with self.output.open("ab") as output:
            return subprocess.Popen(
                command, env=self.environment, cwd=self.folder / "hidden", stdout=output, stderr=output
            )

    def kill_flow(self) -> None:
        self.flow.kill()
        self.flow.wait()
        self.flow = self.start()

    def wait_for(self, condition: Callable[[], bool]) -> None:
        def is_there() -> bool:
            assert self.flow.poll() is None, self.output.read_text()[-5000:]
            return condition()

        wait_until(is_there, lambda: self.output.read_text()[-5000:], PATIENCE_S)

    def n_begun(self) -> int:
        """Labels that were begun."""
        return self.log.read_text().count("begin") if self.log.exists() else 0

    def checkpoints(self, text: str) -> list[str]:
        """Names of the checkpoints of calls under way that have a file with a text in its path."""
        names = [name for name in self.workspace.list("") if "/checkpoints/" in name]
        contents = [(name, self.workspace.get(name)) for name in names]
        return [
            name for name, content in contents if content and any(text in p for p in Manifest.from_json(content).files)
        ]


@pytest.fixture(scope="module")
def campaign(tmp_path_factory: pytest.TempPathFactory, prefect_api_url: str, s3: S3) -> Iterator[Campaign]:
    folder = tmp_path_factory.mktemp("no-shared-disk")
    with hidden_workers(folder / "hidden", s3.environment) as workers:
        campaign = Campaign(folder, prefect_api_url, s3)
        block = DaskPool(address=workers.address, workspace=str(campaign.workspace), checkpoint_minutes=0.01)
        block.save("hidden", overwrite=True)
        campaign.flow = campaign.start()
        try:
            disturb(campaign, workers)
            yield campaign
        finally:
            campaign.flow.kill()
            campaign.flow.wait()


def disturb(campaign: Campaign, workers: HiddenWorkers) -> None:
    """Kill the worker and the flow in each stage."""
    for text in ("", "state.pt", ".checkpoint.npz"):
        for kill in (workers.kill_worker, campaign.kill_flow):
            if text:
                before = set(campaign.checkpoints(text))
                campaign.wait_for(lambda text=text, before=before: bool(set(campaign.checkpoints(text)) - before))
            else:
                n_begun = campaign.n_begun()
                campaign.wait_for(lambda n_begun=n_begun: campaign.n_begun() > n_begun + 1)
            kill()
            print(kill.__name__, text, time.time())
    assert workers.sees() == []
    assert campaign.flow.wait(PATIENCE_S) == 0, campaign.output.read_text()[-5000:]


def test_it_ends(campaign: Campaign) -> None:
    assert campaign.directory.n_complete() == 2
    print(campaign.output.read_text()[-6000:])
    print(repeats_in(campaign.log.read_text().splitlines()))
    print([e.number for e in reported_epochs(campaign.directory.generation(0).training)])
    print(campaign.directory.events.path.read_text()[-3000:])
    print(list(campaign.workspace.list("")))
