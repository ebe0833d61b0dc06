"""A PBS pool whose jobs are submitted, shown and cancelled by Torque's commands, on a real SLURM behind them."""

import asyncio
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from processes import PATIENCE_S, wait_until
from slurm import SlurmCluster
from torque import link_commands

from surveyor.pools.cluster import close_cluster_pool, cluster_pool
from surveyor.pools.jobs import Jobs, Refused
from surveyor.pools.pool_folder import PoolFolder
from surveyor.pools.sites import PBSSite

SITE = PBSSite(
    queue="label", cores_per_job=2, memory_GB=1, walltime_minutes=10, max_jobs=1, idle_minutes=0.05, interface="lo"
)

pytestmark = [pytest.mark.slurm, pytest.mark.torque]


@pytest.fixture
def cluster(slurm_cluster: SlurmCluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[SlurmCluster]:
    link_commands(tmp_path / "torque")
    monkeypatch.setenv("PATH", f"{tmp_path / 'torque'}:{os.environ['PATH']}")
    yield slurm_cluster
    slurm_cluster.reset()


@pytest.fixture
def folder(cluster: SlurmCluster, tmp_path: Path) -> Iterator[PoolFolder]:
    """The folder of a pool, which is closed at the end."""
    folder = PoolFolder(tmp_path / "pool")
    yield folder
    close_cluster_pool(folder)


def test_a_pool_computes_in_a_job_that_comes_with_work_and_leaves_without(
    cluster: SlurmCluster, folder: PoolFolder
) -> None:
    with cluster_pool("pbs/test", SITE, folder.path) as pool:
        cluster.hold("label")
        future = pool.submit(os.getenv, "SLURM_JOB_ID")
        wait_until(lambda: [job.state for job in cluster.queue()] == ["PENDING"], lambda: f"{cluster.queue()}")
        (job,) = cluster.queue()
        cluster.release("label")
        assert future.result(PATIENCE_S) == str(job.id)
        wait_until(lambda: not cluster.queue(), lambda: f"without work in the queue: {cluster.queue()}")


def test_a_job_gets_what_the_site_asks_for(cluster: SlurmCluster, folder: PoolFolder) -> None:
    with cluster_pool("pbs/test", SITE, folder.path) as pool:
        job = pool.submit(os.getenv, "SLURM_JOB_ID").result(PATIENCE_S)
        output = cluster.run(["scontrol", "--oneliner", "show", "job", str(job)])
    for asked in ("Partition=label", "TimeLimit=00:10:00", "NumCPUs=2", "mem=1000M"):
        assert asked in output


def test_a_cancelled_job_is_replaced(cluster: SlurmCluster, folder: PoolFolder) -> None:
    with cluster_pool("pbs/test", SITE, folder.path) as pool:
        cluster.hold("label")
        future = pool.submit(os.getenv, "SLURM_JOB_ID")
        wait_until(lambda: len(cluster.queue()) == 1, lambda: "no job")
        (first,) = cluster.queue()
        cluster.cancel(first.id)
        cluster.release("label")
        assert future.result(PATIENCE_S) not in (None, str(first.id))


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"queue": "nosuch"}, "invalid partition specified: nosuch"),
        ({"memory_GB": 1e6}, "Memory specification can not be satisfied"),
    ],
)
def test_what_the_cluster_cannot_give_is_refused_for_good_with_its_words(
    cluster: SlurmCluster, tmp_path: Path, fields: dict[str, object], said: str
) -> None:
    jobs = Jobs(SITE.model_copy(update=fields), tmp_path, "tls://127.0.0.1:1")
    with pytest.raises(Refused, match=said):
        asyncio.run(jobs.submit("refused-1"))
