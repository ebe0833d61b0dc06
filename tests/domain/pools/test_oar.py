"""A pool on a real OAR: its jobs are accepted, and what the queue says of them is understood."""

import asyncio
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from oar import CORES, OAR, QUEUE
from processes import PATIENCE_S, wait_until

from surveyor.errors import PoolFailed, WorkerLost
from surveyor.pools.cluster import close_cluster_pool, cluster_pool
from surveyor.pools.jobs import Jobs, Refused
from surveyor.pools.pool_folder import PoolFolder
from surveyor.pools.sites import OARSite

SITE = OARSite(
    queue=QUEUE,
    account="chem",
    cores_per_job=2,
    walltime_minutes=10,
    max_jobs=1,
    idle_minutes=0.05,
    interface="lo",
    prologue=["# asked now, try again later", 'echo "$OAR_JOB_ID isn\'t over"'],
)

pytestmark = [pytest.mark.long, pytest.mark.oar]


@pytest.fixture
def server(oar_server: OAR, monkeypatch: pytest.MonkeyPatch) -> Iterator[OAR]:
    monkeypatch.setenv("PATH", f"{oar_server.commands}:{os.environ['PATH']}")
    yield oar_server
    oar_server.reset()


@pytest.fixture
def folder(server: OAR, tmp_path: Path) -> Iterator[PoolFolder]:
    """The folder of a pool, which is closed at the end."""
    folder = PoolFolder(tmp_path / "pool")
    yield folder
    close_cluster_pool(folder)


def jobs_of(folder: Path, **fields: object) -> Jobs:
    return Jobs(SITE.model_copy(update=fields), folder, "tls://127.0.0.1:1")


def states(jobs: Jobs, *ids: str) -> dict[str, str]:
    return {job: entry.state for job, entry in asyncio.run(jobs.look(ids)).items()}


def test_a_pool_computes_in_a_job_that_comes_with_work_and_leaves_without(server: OAR, folder: PoolFolder) -> None:
    with cluster_pool("oar/test", SITE, folder.path) as pool:
        server.hold()
        future = pool.submit(os.getenv, "OAR_JOB_ID")
        wait_until(lambda: list(server.queue().values()) == ["Waiting"], lambda: f"not waiting: {server.queue()}")
        (job,) = server.queue()
        output = server.run(["oarstat", "-f", "-j", str(job)])
        for asked in (
            "/network_address=1/core=2,walltime=0:10:0",
            "project = chem",
            f"queue = {QUEUE}",
            "name = pool-1",
        ):
            assert asked in output
        server.release()
        assert future.result(PATIENCE_S) == str(job)
        wait_until(lambda: not server.queue(), lambda: f"without work in the queue: {server.queue()}")
    assert f"{job} isn't over" in Jobs(SITE, folder.path, "").output(str(job))


def test_a_cancelled_job_is_replaced(server: OAR, folder: PoolFolder) -> None:
    with cluster_pool("oar/test", SITE, folder.path) as pool:
        server.hold()
        future = pool.submit(os.getenv, "OAR_JOB_ID")
        wait_until(lambda: len(server.queue()) == 1, lambda: "no job")
        (first,) = server.queue()
        server.run(["oardel", str(first)])
        wait_until(lambda: first not in server.queue(), lambda: f"still there: {server.queue()}")
        server.release()
        assert future.result(PATIENCE_S) not in (None, str(first))


def test_a_job_that_ends_at_its_walltime_takes_its_function_with_it_and_is_replaced(
    server: OAR, folder: PoolFolder, tmp_path: Path
) -> None:
    with cluster_pool("oar/test", SITE, folder.path) as pool:
        future = pool.submit(subprocess.run, ["sh", "-c", "touch began; sleep 600"], cwd=tmp_path)
        wait_until((tmp_path / "began").exists, lambda: f"not begun: {server.queue()}")
        (first,) = server.queue()
        server.expire(first)
        assert isinstance(future.exception(PATIENCE_S), WorkerLost)
        assert pool.submit(os.getenv, "OAR_JOB_ID").result(PATIENCE_S) not in (None, str(first))
    assert "WALLTIME" in server.events(first)


def test_jobs_are_followed_from_their_submission_to_their_end(server: OAR, tmp_path: Path) -> None:
    jobs = jobs_of(tmp_path, cores_per_job=CORES, prologue=["sleep 600"])
    server.hold()
    first, second = (asyncio.run(jobs.submit(f"followed-{number}")) for number in (1, 2))
    unknown = str(10 * int(second))
    assert states(jobs, first, second, unknown) == {first: "pending", second: "pending"}
    server.release()
    wait_until(
        lambda: states(jobs, first, second) == {first: "running", second: "pending"}, lambda: f"{server.queue()}"
    )
    asyncio.run(jobs.cancel([first, second, unknown]))
    wait_until(lambda: states(jobs, first, second, unknown) == {}, lambda: f"{server.queue()}")
    assert f"Job {first} KILLED" in jobs.output(first)


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"queue": "nosuch"}, "The queue nosuch does not exist"),
        ({"cores_per_job": CORES + 1}, "There are not enough resources for your request"),
        ({"resources": "/nodes=1/nosuch=1"}, 'column "nosuch" does not exist'),
        ({"resources": "nosuch"}, "Cannot recognize"),
        ({"directives": ["--nosuch"]}, "Unknown option: nosuch"),
    ],
)
def test_what_oar_cannot_give_is_refused_for_good_with_its_words_alone(
    server: OAR, tmp_path: Path, fields: dict[str, object], said: str
) -> None:
    with pytest.raises(Refused, match=said) as caught:
        asyncio.run(jobs_of(tmp_path, **fields).submit("refused-1"))
    assert "isn't over" not in str(caught.value)


def test_what_an_admission_rule_forbids_is_refused_for_now(server: OAR, tmp_path: Path) -> None:
    with pytest.raises(PoolFailed, match="Only member of the group admin") as caught:
        asyncio.run(jobs_of(tmp_path, queue="admin").submit("refused-1"))
    assert not isinstance(caught.value, Refused)


def test_a_job_that_is_submitted_while_the_server_is_away_is_known_and_runs_later(server: OAR, tmp_path: Path) -> None:
    jobs = jobs_of(tmp_path, prologue=["sleep 600"])
    with server.without_server():
        job = asyncio.run(jobs.submit("early-1"))
        assert states(jobs, job) == {job: "pending"}
    wait_until(lambda: states(jobs, job) == {job: "running"}, lambda: f"{server.queue()}")
