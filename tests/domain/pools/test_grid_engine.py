"""A pool on a real Grid Engine: its job scripts are accepted, and what the queue says of its jobs is understood."""

import asyncio
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from gridengine import PARALLEL_ENVIRONMENT, QUEUE, GridEngine
from processes import PATIENCE_S, wait_until

from surveyor.pools.cluster import close_cluster_pool, cluster_pool
from surveyor.pools.jobs import Jobs, Refused
from surveyor.pools.pool_folder import PoolFolder
from surveyor.pools.sites import SGESite

SITE = SGESite(
    queue=QUEUE,
    parallel_environment=PARALLEL_ENVIRONMENT,
    cores_per_job=2,
    walltime_minutes=10,
    max_jobs=1,
    idle_minutes=0.05,
    interface="lo",
)

pytestmark = [pytest.mark.long, pytest.mark.sge]


@pytest.fixture
def engine(sge: GridEngine, monkeypatch: pytest.MonkeyPatch) -> Iterator[GridEngine]:
    for name, value in sge.environment.items():
        monkeypatch.setenv(name, value)
    yield sge
    sge.reset()


@pytest.fixture
def folder(engine: GridEngine, tmp_path: Path) -> Iterator[PoolFolder]:
    """The folder of a pool, which is closed at the end."""
    folder = PoolFolder(tmp_path / "pool")
    yield folder
    close_cluster_pool(folder)


def test_scripts_run_wait_and_are_cancelled(engine: GridEngine, tmp_path: Path) -> None:
    job = engine.submit('echo "$NSLOTS slots"', folder=tmp_path, options=["-N", "slots", "-pe", "smp", "2"])
    wait_until(lambda: job not in engine.queue(), lambda: f"still there: {engine.queue()}")
    assert (tmp_path / f"slots.o{job}").read_text() == "2 slots\n"
    running = engine.submit("sleep 600", folder=tmp_path)
    wait_until(lambda: engine.queue() == {running: "r"}, lambda: f"not running: {engine.queue()}")
    engine.hold()
    pending = engine.submit("sleep 600", folder=tmp_path)
    assert engine.queue() == {running: "r", pending: "qw"}
    for job in (running, pending):
        engine.cancel(job)
    wait_until(lambda: not engine.queue(), lambda: f"still there: {engine.queue()}")


def test_a_pool_computes_in_a_job_that_comes_with_work_and_leaves_without(
    engine: GridEngine, folder: PoolFolder
) -> None:
    with cluster_pool("sge/test", SITE, folder.path) as pool:
        engine.hold()
        future = pool.submit(os.getenv, "JOB_ID")
        wait_until(lambda: list(engine.queue().values()) == ["qw"], lambda: f"not pending: {engine.queue()}")
        (job,) = engine.queue()
        engine.release()
        assert future.result(PATIENCE_S) == str(job)
        wait_until(lambda: not engine.queue(), lambda: f"without work in the queue: {engine.queue()}")


def test_a_cancelled_job_is_replaced(engine: GridEngine, folder: PoolFolder) -> None:
    with cluster_pool("sge/test", SITE, folder.path) as pool:
        engine.hold()
        future = pool.submit(os.getenv, "JOB_ID")
        wait_until(lambda: len(engine.queue()) == 1, lambda: "no job")
        (first,) = engine.queue()
        engine.cancel(first)
        engine.release()
        assert future.result(PATIENCE_S) not in (None, str(first))


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"queue": "nosuch.q"}, r'unknown queue "nosuch\.q"'),
        ({"parallel_environment": "nosuch"}, 'parallel environment "nosuch" does not exist'),
        ({"resources": "nosuch=1"}, 'unknown resource "nosuch"'),
        ({"account": "nosuch"}, 'project "nosuch" does not exist'),
        ({"directives": ["-nosuch"]}, 'invalid option argument "-nosuch"'),
    ],
)
def test_what_grid_engine_cannot_give_is_refused_for_good_with_its_words(
    engine: GridEngine, tmp_path: Path, fields: dict[str, object], said: str
) -> None:
    jobs = Jobs(SITE.model_copy(update=fields), tmp_path, "tls://127.0.0.1:1")
    with pytest.raises(Refused, match=said):
        asyncio.run(jobs.submit("refused-1"))
