"""A campaign whose process is killed again and again ends like one that nobody disturbed."""

import json
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import ase.io
import psutil
import pytest
import yaml
from ase.build import bulk
from prefect_server import prefect_environment

from surveyor.dataset import KEY, Dataset
from surveyor.labels import LabelStore
from surveyor.run_directory import RunDirectory
from surveyor.testing.references import structure_id

N_KILLS = 20
SETS = ("train", "valid", "test", "failed", "discarded")
MARK = "SURVEYOR_TEST_CAMPAIGN"  # inherited by all processes of a campaign, so that none can hide
DEADLINE_S = 300

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


@dataclass
class SmallCampaign:
    """A campaign with EMT and the pair model, run by the command in a process of its own."""

    folder: Path
    api_url: str
    kills: list[tuple[int, set[str], dict[Path, int]]] = field(default_factory=list)

    def __post_init__(self) -> None:
        ase.io.write(self.folder / "copper.extxyz", bulk("Cu", cubic=True))
        counting = {"log": str(self.log), "delay_s": 0.05}
        loose = {"discard_energy_meV_per_atom": 1e6, "discard_forces_meV_per_A": 1e6}
        campaign = {
            "run_directory": "run",
            "walkers": [{"start": "copper.extxyz", "n_walkers": 6, "n_steps": 60, "temperature_K": 600}],
            "reference": {"emt": {"rehearsal": counting}},
            "model": {"pair": {}},
            "bootstrap": {"n_structures": 12},
            "learning": {"n_generations": 3, "n_states": 8, **loose},
        }
        self.file.write_text(yaml.safe_dump(campaign))

    @property
    def file(self) -> Path:
        return self.folder / "campaign.yaml"

    @property
    def log(self) -> Path:
        return self.folder / "launches.log"

    @property
    def directory(self) -> RunDirectory:
        return RunDirectory(self.folder / "run")

    def start(self) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "surveyor.flows.command_line", "run", str(self.file)]
        environment = {**prefect_environment(self.folder / "prefect", self.api_url), MARK: str(self.folder)}
        with (self.folder / "output.txt").open("ab") as output:
            return subprocess.Popen(command, env=environment, cwd=self.folder, stdout=output, stderr=output)

    def finished_work(self) -> dict[Path, int]:
        """Files that stand for finished work, with the time at which each was written."""
        patterns = (
            "labels/labels/**/*.json",
            "run/generations/*/samples/*-?.npz",
            "run/generations/*/model/model.json",
        )
        paths = [
            path for pattern in (*patterns, "run/generations/*/manifest.json") for path in self.folder.glob(pattern)
        ]
        return {path: path.stat().st_mtime_ns for path in paths if not path.name.startswith(".")}

    def stored_keys(self) -> set[str]:
        return set(LabelStore.in_folder(self.folder / "labels").keys())

    def launches(self) -> list[str]:
        return [line.split()[1] for line in self.log.read_text().splitlines() if line.startswith("begin")]

    def processes(self) -> list[psutil.Process]:
        return [process for process in psutil.process_iter() if _mark_of(process) == str(self.folder)]

    def kill_at(self, n_finished: int) -> None:
        """Run until so many pieces of work are finished, then kill the process of the campaign."""
        process = self.start()
        deadline = time.monotonic() + DEADLINE_S
        while len(self.finished_work()) < n_finished:
            assert process.poll() is None, (self.folder / "output.txt").read_text()
            assert time.monotonic() < deadline, (self.folder / "output.txt").read_text()
            time.sleep(0.02)
        keys, files = self.stored_keys(), self.finished_work()
        n_launches = len(self.launches()) if self.log.exists() else 0
        process.send_signal(signal.SIGKILL)
        process.wait()
        self.kills.append((n_launches, keys, files))

    def wait_for_orphans(self) -> list[psutil.Process]:
        """Give what the dead process has left the time to notice; return what stays."""
        deadline = time.monotonic() + 20
        while self.processes() and time.monotonic() < deadline:
            time.sleep(0.1)
        return self.processes()


def _mark_of(process: psutil.Process) -> str | None:
    try:
        return process.environ().get(MARK)
    except psutil.Error:
        return None


@pytest.fixture(scope="module")
def campaign(tmp_path_factory: pytest.TempPathFactory, prefect_api_url: str) -> Iterator[SmallCampaign]:
    """The campaign after its kills and its end, beside the folder `undisturbed` of one that nobody has killed."""
    campaign = SmallCampaign(tmp_path_factory.mktemp("campaign"), prefect_api_url)
    try:
        run_and_kill(campaign)
        yield campaign
    finally:
        for process in campaign.processes():
            process.kill()


def run_and_kill(campaign: SmallCampaign) -> None:
    assert campaign.start().wait(DEADLINE_S) == 0, (campaign.folder / "output.txt").read_text()
    n_finished = len(campaign.finished_work())
    undisturbed = campaign.folder / "undisturbed"
    undisturbed.mkdir()
    for name in ("run", "labels", "launches.log"):
        shutil.move(campaign.folder / name, undisturbed / name)

    for kill in range(N_KILLS):
        campaign.kill_at(kill * n_finished // N_KILLS)
        assert not campaign.wait_for_orphans()
    assert campaign.start().wait(DEADLINE_S) == 0, (campaign.folder / "output.txt").read_text()


def test_nothing_that_had_finished_is_computed_again(campaign: SmallCampaign) -> None:
    launches = campaign.launches()
    structures = _structures(campaign.directory)
    for n_launches, keys, _ in campaign.kills:
        finished = {structure_id(structures[key]) for key in keys if key in structures}
        # What was launched before the kill but logged after the count is in flight, not finished.
        assert not finished & set(launches[n_launches + 2 :])
    repeated = sum(count - 1 for count in Counter(launches).values())
    assert repeated <= 2 * N_KILLS  # at most what two workers had in flight at each kill


def test_no_finished_file_is_written_again(campaign: SmallCampaign) -> None:
    at_the_end = campaign.finished_work()
    for _, _, files in campaign.kills:
        assert files.items() <= at_the_end.items()


def test_final_datasets_are_those_of_an_undisturbed_run(campaign: SmallCampaign) -> None:
    undisturbed = RunDirectory(campaign.folder / "undisturbed" / "run")
    assert campaign.directory.n_complete() == undisturbed.n_complete() == 4
    for number in range(4):
        here, there = campaign.directory.generation(number), undisturbed.generation(number)
        for name in SETS:
            assert here.set_file(name).read_bytes() == there.set_file(name).read_bytes()
        labels = [json.loads(each.manifest.read_text())["labels"] for each in (here, there)]
        assert labels[0] == labels[1]


def test_every_requested_key_has_one_label(campaign: SmallCampaign) -> None:
    labels = json.loads(campaign.directory.generation(3).manifest.read_text())["labels"]
    assert len(labels) == 12 + 3 * 8
    isolated_atoms = campaign.stored_keys() - set(labels)
    assert set(labels) <= campaign.stored_keys()
    assert len(isolated_atoms) == 1


def test_no_process_is_left_at_the_end(campaign: SmallCampaign) -> None:
    assert not campaign.wait_for_orphans()


def _structures(directory: RunDirectory) -> dict[str, ase.Atoms]:
    newest = directory.generation(directory.n_complete() - 1)
    return {atoms.info[KEY]: atoms for name in SETS for atoms in Dataset.load(newest.set_file(name))}
