"""The commands that find out before a campaign whether it will run: `surveyor doctor` and `surveyor run --dry-run`."""

import os
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import ase.io
import psutil
import pytest
import yaml
from ase.build import bulk
from object_stores import S3, SECRET, Fault
from processes import wait_until
from slurm import SlurmCluster

from surveyor.blocks.pools import DaskPool, LocalPool, SLURMPool
from surveyor.blocks.storages import S3Storage
from surveyor.flows.doctor import look_at_pool
from surveyor.labels import LabelStore
from surveyor.testing.references import launches

pytestmark = [pytest.mark.slow]

UNREACHABLE = "http://127.0.0.1:9/api"


class CommandLine:
    """The command, with a campaign in a folder whose reference counts its launches."""

    def __init__(self, folder: Path, api_url: str) -> None:
        self.folder, self.api_url = folder, api_url
        self.log = folder / "launches.log"
        ase.io.write(folder / "copper.extxyz", bulk("Cu", cubic=True))

    def write(self, **changes: Any) -> Path:
        counting = {"log": str(self.log)}
        content = {
            "run_directory": "runs/one",
            "walkers": [{"start": "copper.extxyz", "n_walkers": 4, "n_steps": 500}],
            "reference": {"emt": {"rehearsal": counting}},
            "model": {"pair": {}},
            "learning": {"n_generations": 2},
        }
        file = self.folder / "campaign.yaml"
        file.write_text(yaml.safe_dump(content | changes))
        return file

    def start(self, *arguments: str | Path, api_url: str | None = None) -> "subprocess.Popen[str]":
        environment = {**os.environ, "PREFECT_API_URL": api_url or self.api_url}
        command = [sys.executable, "-m", "surveyor.flows.command_line", *map(str, arguments)]
        pipe = subprocess.PIPE
        return subprocess.Popen(
            command, cwd=self.folder, env=environment, stdout=pipe, stderr=subprocess.STDOUT, text=True
        )

    def __call__(self, *arguments: str | Path, api_url: str | None = None) -> tuple[int, str]:
        with self.start(*arguments, api_url=api_url) as process:
            said, _ = process.communicate()
        return process.returncode, said


@pytest.fixture
def command(tmp_path: Path, prefect_api_url: str) -> CommandLine:
    return CommandLine(tmp_path, prefect_api_url)


def test_doctor_finds_nothing_in_a_good_campaign(command: CommandLine) -> None:
    LocalPool(cores=1).save("doctor-test")
    status, said = command("doctor", command.write(pools={"labelling": "local/doctor-test"}))
    assert "0 faults" in said
    assert status == 0
    assert "a pool of kind local" in said
    assert f"{command.api_url}: version" in said
    assert not command.log.exists()
    assert not (command.folder / "runs").exists()


@pytest.mark.usefixtures("prefect_api_url")
def test_doctor_reaches_the_workspace_of_one_pool_as_its_block_says(s3: S3) -> None:
    S3Storage(endpoint=s3.url, region="us-east-1", access_key_id="me", secret_access_key=SECRET).save("doctor-far")
    tls = {"address": "tls://127.0.0.1:9", "storage": "s3/doctor-far"}
    DaskPool(**tls, workspace=f"{s3.new_bucket()}/workspace").save("doctor-far")
    with s3.failing(Fault(removed=("HTTP_IF_NONE_MATCH",))):
        (fault,) = look_at_pool("dask/doctor-far", 60.0, print)
    assert (fault.check, fault.where) == ("workspace", "here")
    assert "of two writers of one object, both succeed" in fault.found


def test_doctor_examines_one_pool_without_a_campaign(command: CommandLine) -> None:
    LocalPool(cores=1).save("doctor-alone")
    status, said = command("doctor", "local/doctor-alone")
    assert "0 faults" in said
    assert status == 0
    for check in ("worker", "run directory", "GPUs", "clock"):
        assert check in said
    assert {path.name for path in command.folder.iterdir()} == {"copper.extxyz"}
    status, said = command("doctor", "local/nowhere")
    assert status == 2
    assert "there is no such block" in said


def test_doctor_goes_on_where_the_server_is_away(command: CommandLine) -> None:
    status, said = command("doctor", command.write(pools={"labelling": "local/doctor-test"}), api_url=UNREACHABLE)
    assert status == 1
    assert f"the Prefect server at {UNREACHABLE} does not answer" in said
    assert "  fix: prefect server start  # start it, or unset PREFECT_API_URL" in said
    assert "not asked, as where it is, is not known" in said
    assert "for sampling, training" in said  # the other pool was asked all the same


def test_doctor_names_blocks_that_are_missing_and_files_that_are_wrong(command: CommandLine) -> None:
    status, said = command("doctor", command.write(pools={"training": "slurm/nowhere"}))
    assert status == 1
    assert "pool slurm/nowhere: there is no such block on the Prefect server" in said
    assert "  fix: surveyor blocks register  # then create it" in said

    status, said = command("doctor", command.write(modle={}))
    assert status == 1
    assert re.search(r"modle \(line \d+, column 1\): Extra inputs are not permitted", said)
    assert f"  fix: edit {command.folder / 'campaign.yaml'}  # did you mean model?" in said


@pytest.mark.slurm
def test_doctor_that_is_stopped_leaves_nothing(command: CommandLine, slurm_cluster: SlurmCluster) -> None:
    for name in ("cpu", "gpu"):
        SLURMPool(queue=name, interface="lo", memory_GB=1).save(f"doctor-{name}")
    slurm_cluster.hold("cpu")
    try:
        # The one waits for its job when the other is still being opened.
        file = command.write(pools={"sampling": "slurm/doctor-cpu", "training": "slurm/doctor-gpu"})
        with command.start("doctor", file) as process:
            wait_until(lambda: slurm_cluster.queue() != [], lambda: "no job was submitted")
            process.terminate()
            process.communicate()
    finally:
        slurm_cluster.release("cpu")
    assert process.returncode == 128 + signal.SIGTERM
    assert not (command.folder / "runs").exists()
    assert slurm_cluster.queue() == []
    assert [each for each in psutil.process_iter(["cmdline"]) if str(command.folder) in str(each.info)] == []


def test_a_dry_run_is_kept_when_it_fails_and_leaves_nothing_but_labels_when_every_stage_has_run(
    command: CommandLine,
) -> None:
    kept = command.folder / "runs" / "one-dry-run"
    failing = {"ase": {"calculator": "hotbit"}}
    status, said = command("run", "--dry-run", command.write(reference=failing, labels="store"))
    assert status == 2, said
    assert f"the dry run failed; its files are in {kept}" in said
    assert "the calculator hotbit needs a package that is not installed here" in said
    assert (kept / "parameters.json").exists()

    status, said = command("run", "--dry-run", command.write(labels="store"))
    assert status == 0, said
    rows = [line.replace("│", "").split() for line in said.splitlines() if line.startswith("│")]
    assert [(number, stage) for number, stage, *_ in rows if stage != "evaluation"] == [
        *(("0", "labelling"), ("0", "training")),
        *(("1", "sampling"), ("1", "labelling"), ("1", "training")),
    ]
    assert {(pool, host) for _, _, pool, host, _ in rows} == {("local", socket.gethostname())}
    assert "the campaign requests at most 58 labels" in said
    assert [*kept.parent.iterdir()] == []
    bought = [*LabelStore.in_folder(command.folder / "store").keys()]
    assert len(bought) == len(launches(command.log)) >= 4


def test_a_dry_run_removes_nothing_that_is_not_of_a_dry_run(command: CommandLine) -> None:
    mine = command.folder / "runs" / "one-dry-run" / "notes.txt"
    mine.parent.mkdir(parents=True)
    mine.write_text("mine")
    status, said = command("run", "--dry-run", command.write())
    assert status == 2, said
    assert f"{mine.parent} is in the way, and not of a dry run" in said
    assert mine.read_text() == "mine"
