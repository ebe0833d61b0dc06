"""`surveyor pool` on a real SLURM, and a campaign's pools beside those that are opened by hand."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from labelling_inputs import copper, counting, written
from processes import PATIENCE_S, wait_until
from slurm import SlurmCluster

from surveyor.blocks.pools import SLURMPool, load_sites
from surveyor.pools.choice import Pools, folder_of, open_pools
from surveyor.run_directory import RunDirectory
from surveyor.testing.references import launches

NAME = "slurm/by-hand"

pytestmark = [pytest.mark.slurm]


@pytest.fixture(scope="module", autouse=True)
def block(prefect_api_url: str) -> None:
    SLURMPool(queue="cpu", memory_GB=0.5, max_jobs=1, interface="lo", idle_minutes=10).save("by-hand", overwrite=True)


@pytest.fixture
def home(tmp_path: Path, slurm_cluster: SlurmCluster) -> Iterator[Path]:
    """A home folder, in which the user's pools are closed at the end."""
    yield tmp_path
    surveyor(tmp_path, "pool", "close", NAME)
    slurm_cluster.reset()


def surveyor(home: Path, *arguments: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "surveyor.flows.command_line", *arguments]
    environment = {**os.environ, "HOME": str(home), "COLUMNS": "200"}
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=PATIENCE_S)


def test_a_pool_is_opened_used_by_a_campaign_listed_and_closed(home: Path, slurm_cluster: SlurmCluster) -> None:
    assert "no pools in" in surveyor(home, "pool", "list").stdout
    opened = surveyor(home, "pool", "open", NAME)
    assert opened.returncode == 0, opened.stderr
    assert f"pool {NAME} is open at tls://" in opened.stdout

    by_hand, campaigns = home / ".surveyor" / "pools", home / "run" / "pools"
    pools = Pools(sampling=NAME, labelling=NAME, training=NAME)
    with open_pools(pools, load_sites(pools.names), campaigns, by_hand) as open_ones:
        assert open_ones.sampling.submit(abs, -1).result(PATIENCE_S) == 1
        listed = surveyor(home, "pool", "list").stdout
        wait_until(lambda: "1 running" in surveyor(home, "pool", "list").stdout, lambda: f"not running: {listed}")
    assert not campaigns.exists()

    # The campaign has ended, and has left alone what it did not open.
    assert folder_of(NAME, by_hand).read_holder() is not None
    closed = surveyor(home, "pool", "close", NAME)
    assert f"pool {NAME} is closed" in closed.stdout
    assert "closed" in surveyor(home, "pool", "list").stdout
    wait_until(lambda: not slurm_cluster.queue(), lambda: f"{slurm_cluster.queue()}")


def test_pools_of_a_campaign_are_listed_and_closed_by_its_run_directory(
    home: Path, slurm_cluster: SlurmCluster
) -> None:
    directory = RunDirectory(home / "run")

    def fail() -> None:
        pools = Pools(labelling=NAME)
        with open_pools(pools, load_sites(pools.names), directory.pools) as opened:
            assert opened.labelling.submit(abs, -1).result(PATIENCE_S) == 1
            raise ValueError("a bug")

    with pytest.raises(ValueError, match="a bug"):
        fail()
    # After a failure the pool is left to finish what it does.
    output = surveyor(home, "pool", "list", "--run-directory", str(directory.path)).stdout
    assert NAME in output
    assert "open" in output
    closed = surveyor(home, "pool", "close", NAME, "--run-directory", str(directory.path))
    assert f"pool {NAME} is closed" in closed.stdout
    wait_until(lambda: not slurm_cluster.queue(), lambda: f"{slurm_cluster.queue()}")


def test_a_dataset_is_labelled_in_jobs_of_its_own_and_on_a_pool_that_is_open_already(
    home: Path, slurm_cluster: SlurmCluster
) -> None:
    structures = written(home / "copper.extxyz", copper(6))

    def label(name: str) -> None:
        parameters = {
            "structures": str(structures),
            "output_directory": name,
            "reference": counting(home / f"{name}.log"),
            "pool": NAME,
            "chunk_size": 2,
            "labels": f"labels-of-{name}",
        }
        (home / f"{name}.yaml").write_text(yaml.safe_dump(parameters))
        done = surveyor(home, "label", str(home / f"{name}.yaml"))
        assert done.returncode == 0, done.stderr
        assert "6 new labels" in done.stdout
        assert len(launches(home / f"{name}.log")) == 6

    label("own")
    # Its pool ends with it, and with the pool its jobs.
    assert "closed" in surveyor(home, "pool", "list", "--run-directory", str(home / "own")).stdout
    wait_until(lambda: not slurm_cluster.queue(), lambda: f"{slurm_cluster.queue()}")
    surveyor(home, "pool", "open", NAME)
    label("by-hand")
    assert [job.partition for job in slurm_cluster.queue()] == ["cpu"]


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (("open", "slurm/missing"), "slurm/missing"),
        (("open", "local"), "expected one on a cluster"),
        (("close", "slurm/missing"), "there is no pool slurm/missing"),
    ],
)
def test_what_cannot_be_opened_or_closed_is_said(home: Path, arguments: tuple[str, ...], complaint: str) -> None:
    done = surveyor(home, "pool", *arguments)
    assert done.returncode == 2
    assert complaint in done.stderr.replace("\n", " ")
