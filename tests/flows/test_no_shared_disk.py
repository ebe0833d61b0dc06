"""A campaign on workers that do not see its run directory: the worker and the flow are killed in each stage."""

import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ase.io
import pytest
import yaml
from ase.build import bulk
from hidden_workers import HiddenWorkers, hidden_workers
from killed_campaign import repeats_in
from object_stores import S3, SECRET
from prefect_server import prefect_environment
from processes import PATIENCE_S, wait_until

from surveyor.blocks.pools import DaskPool
from surveyor.events.kinds import Sampled
from surveyor.events.log import of_kind
from surveyor.models.history import reported_epochs
from surveyor.pools.workspace.bucket_files import Manifest
from surveyor.pools.workspace.remote_call import FOLDERS
from surveyor.run_directory import RunDirectory
from surveyor.storage.object_storage import storage_at

N_BOOTSTRAP, N_STATES, N_EPOCHS = 10, 2, 60
TRAINING, WALKING = "training/state.pt", ".checkpoint.npz"  # files that are there meanwhile

SIZE = {"r_max_A": 4.0, "num_channels": 4, "max_L": 0, "correlation": 1, "num_interactions": 1, "device": "cpu"}
MORE = {"max_ell": 1, "num_radial_basis": 4, "radial_MLP": "[8]"}
NETWORK = {"mace": {**SIZE, "max_num_epochs": N_EPOCHS, "batch_size": 2, "lr": 0.01, "options": MORE}}

pytestmark = [pytest.mark.slow, pytest.mark.mount]


@dataclass(frozen=True)
class Size:
    """What a campaign does.

    Attributes:
        model: what it trains.
        n_steps: of a walker; enough for two checkpoints.
        meanwhile: what is there while worker and flow are killed: parts of the paths of files, or none for labels.
    """

    model: dict[str, Any]
    n_steps: int
    meanwhile: tuple[str, ...]


SIZES = {
    "pair": Size({"pair": {}}, 8000, ("", WALKING)),
    "mace": Size(NETWORK, 1000, ("", TRAINING, WALKING)),
}


class Campaign:
    """Copper by EMT, run by the command in a process of its own."""

    def __init__(self, folder: Path, api_url: str, s3: S3, size: Size) -> None:
        self.size = size
        self.folder, self.log, self.output = folder, folder / "launches.log", folder / "output.txt"
        self.directory = RunDirectory(folder / "hidden" / "run")
        self.environment = {**prefect_environment(folder / "prefect", api_url), **s3.environment}
        bucket = s3.new_bucket()
        self.workspace = storage_at(f"{bucket}/workspace", s3.access)
        ase.io.write(folder / "hidden" / "copper.extxyz", bulk("Cu", cubic=True))
        loose = {"discard_energy_meV_per_atom": 1e6, "discard_forces_meV_per_A": 1e6}
        campaign = {
            "run_directory": "run",
            "walkers": [{"start": "copper.extxyz", "n_walkers": 2, "n_steps": size.n_steps}],
            "reference": {"emt": {"rehearsal": {"log": str(self.log), "delay_s": 0.3}}},
            "model": size.model,
            "bootstrap": {"n_structures": N_BOOTSTRAP},
            "learning": {"n_generations": 1, "n_states": N_STATES, **loose},
            "labels": f"{bucket}/labels",
            "pools": dict.fromkeys(("sampling", "labelling", "training"), "dask/hidden"),
        }
        (folder / "hidden" / "campaign.yaml").write_text(yaml.safe_dump(campaign))
        self.flow: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        command = [sys.executable, "-m", "surveyor.flows.command_line", "run", "campaign.yaml"]
        folder = self.folder / "hidden"
        with self.output.open("ab") as output:
            self.flow = subprocess.Popen(command, env=self.environment, cwd=folder, stdout=output, stderr=output)

    def kill_flow(self) -> None:
        """Kill the flow, and start it again."""
        self.end()
        self.start()

    def end(self) -> None:
        if self.flow is not None:
            self.flow.kill()
            self.flow.wait()

    def run(self) -> None:
        """Let it come to its end."""
        assert self.flow is not None
        assert self.flow.wait(PATIENCE_S) == 0, self.said()

    def wait_for(self, condition: Callable[[], bool]) -> None:
        def is_there() -> bool:
            assert self.flow is not None
            assert self.flow.poll() is None, self.said()
            return condition()

        wait_until(is_there, self.said)

    def said(self) -> str:
        return self.output.read_text()[-5000:]

    def n_begun(self) -> int:
        """Number of labels that were begun."""
        return self.log.read_text().count("begin") if self.log.exists() else 0

    def checkpoints(self, text: str) -> set[str]:
        """Checkpoints of calls under way that have a file with a text in its path."""
        names = [name for name in self.workspace.list("") if "/checkpoints/" in name]
        contents = {name: self.workspace.get(name) for name in names}
        files = {name: Manifest.from_json(content).files for name, content in contents.items() if content}
        return {name for name, paths in files.items() if any(text in path for path in paths)}

    def wait_for_progress(self, text: str) -> None:
        """Wait until labels are under way, or a new checkpoint."""
        n_begun, before = self.n_begun(), self.checkpoints(text) if text else set()
        if text:
            self.wait_for(lambda: bool(self.checkpoints(text) - before))
        else:
            self.wait_for(lambda: self.n_begun() > n_begun + 1)


@pytest.fixture(
    scope="module",
    params=[pytest.param("pair"), pytest.param("mace", marks=[pytest.mark.mace, pytest.mark.long])],
)
def campaign(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, prefect_api_url: str, s3: S3
) -> Iterator[Campaign]:
    """The campaign after its kills and its end."""
    folder = tmp_path_factory.mktemp("no-shared-disk")
    with hidden_workers(folder / "hidden", s3.environment) as workers:
        campaign = Campaign(folder, prefect_api_url, s3, SIZES[request.param])
        pool = DaskPool(address=workers.address, workspace=str(campaign.workspace), checkpoint_minutes=0.02)
        pool.save("hidden", overwrite=True)
        try:
            campaign.start()
            disturb(campaign, workers)
            campaign.run()
            yield campaign
        finally:
            campaign.end()


def disturb(campaign: Campaign, workers: HiddenWorkers) -> None:
    """Kill the worker and the flow in each stage."""
    for text in campaign.size.meanwhile:
        campaign.wait_for_progress(text)
        workers.kill_worker()
        campaign.wait_for_progress(text)
        campaign.kill_flow()
    assert workers.sees() == []


def test_it_ends_and_nothing_is_left_in_the_bucket(campaign: Campaign) -> None:
    assert campaign.directory.n_complete() == 2
    assert list(campaign.workspace.list("")) == []


def test_no_label_that_was_finished_is_computed_again(campaign: Campaign) -> None:
    assert not repeats_in(campaign.log.read_text().splitlines()).finished


def test_a_training_does_not_begin_again_from_its_first_epoch(campaign: Campaign) -> None:
    n_epochs = N_EPOCHS if "mace" in campaign.size.model else 1
    numbers = [epoch.number for epoch in reported_epochs(campaign.directory.generation(0).training)]
    assert {*numbers} == {*range(n_epochs)}
    assert numbers.count(0) == 1


def test_each_walker_brings_its_sample_once(campaign: Campaign) -> None:
    sampled = of_kind(campaign.directory.events.in_order(), Sampled)
    computed = Counter(each.name for each in sampled if "found on disk" not in each.message)
    assert len(computed) == N_STATES
    assert {*computed.values()} == {1}


def test_events_and_files_name_places_of_the_flow_and_no_secret(campaign: Campaign) -> None:
    files = [path for path in campaign.directory.path.rglob("*") if path.is_file()]
    contents = {path: path.read_bytes() for path in files}
    assert not [path for path, content in contents.items() if SECRET.encode() in content]
    texts = {path for path in files if path.suffix in {".json", ".jsonl", ".extxyz"}}
    assert not [path for path in texts if FOLDERS.encode() in contents[path] and "training" not in path.parts]
