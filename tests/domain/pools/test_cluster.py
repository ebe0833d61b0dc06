"""Pools on a real SLURM: jobs that come and go, and what happens when anything dies."""

import os
import re
import signal
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import counted_work
import psutil
import pytest
from counted_work import be_unfit, lines, names, work
from distributed import Client, Security
from processes import wait_until
from slurm import SlurmCluster

from surveyor.errors import AttemptFailed, InputError, PoolFailed, WorkerLost
from surveyor.files import read_json, write_json
from surveyor.pools.cluster import close_cluster_pool, cluster_pool, open_cluster_pool
from surveyor.pools.pool import Pool
from surveyor.pools.pool_folder import PoolFolder
from surveyor.pools.sites import SLURMSite
from surveyor.pools.terms import Terms
from surveyor.testing.pools import check_executor

PATIENCE_S = 90.0
SUPPORT = Path(counted_work.__file__).parent

pytestmark = [pytest.mark.slurm, pytest.mark.slow, pytest.mark.timeout(300)]


def site(**fields: Any) -> SLURMSite:
    return SLURMSite.model_validate(
        {
            "queue": "cpu",
            "memory_GB": 0.5,
            "walltime_minutes": 10,
            "max_jobs": 2,
            "idle_minutes": 0.05,
            "interface": "lo",
            "prologue": [f"export PYTHONPATH={SUPPORT}"],
            **fields,
        }
    )


@pytest.fixture
def folder(tmp_path: Path, slurm_cluster: SlurmCluster) -> Iterator[PoolFolder]:
    """The folder of a pool, which is closed at the end."""
    folder = PoolFolder(tmp_path / "pool")
    try:
        yield folder
    finally:
        close_cluster_pool(folder)
        slurm_cluster.reset()


@pytest.fixture
def open_pool(folder: PoolFolder) -> Iterator[Callable[..., Pool]]:
    """Opens the pool in the folder."""
    pools = []

    def open_one(**fields: Any) -> Pool:
        pools.append(cluster_pool("slurm/test", site(**fields), folder.path))
        return pools[-1]

    yield open_one
    for pool in pools:
        pool.shutdown(wait=False)


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return tmp_path / "work.log"


def start(pool: Pool, log: Path, name: str, seconds: float) -> Future[str]:
    """Submit work and wait until it runs."""
    future = pool.submit_under(Terms(name), work, log, name, seconds)
    wait_until(lambda: name in names(log, "begin"), lambda: f"{name} has not begun", PATIENCE_S)
    return future


def job_of(log: Path, name: str) -> int:
    """The job in which work last began."""
    return int([line.split()[1] for line in lines(log, "begin") if line.split()[0] == name][-1])


def alive(cluster: SlurmCluster) -> list[int]:
    return [job.id for job in cluster.queue() if job.state != "COMPLETING"]


def test_it_is_an_executor_whose_jobs_come_with_work_and_leave_without(
    slurm_cluster: SlurmCluster, open_pool: Callable[..., Pool], folder: PoolFolder, tmp_path: Path
) -> None:
    pool = open_pool()
    pool.open()
    assert slurm_cluster.queue() == []
    exchange = tmp_path / "exchange"
    exchange.mkdir()
    check_executor(pool, exchange)
    assert 1 <= len(alive(slurm_cluster)) <= 2
    wait_until(lambda: not slurm_cluster.queue(), lambda: f"{slurm_cluster.queue()}", PATIENCE_S)
    assert folder.read_holder() is not None  # somebody is attached
    pool.shutdown()
    wait_until(lambda: folder.read_holder() is None, lambda: "nobody uses the pool, and it goes on", PATIENCE_S)


def test_only_the_owner_can_attach(open_pool: Callable[..., Pool], folder: PoolFolder) -> None:
    address = open_pool().address
    assert stat.S_IMODE(folder.path.stat().st_mode) == 0o700
    as_nobody = subprocess.run(
        ["runuser", "-u", "nobody", "--", "cat", str(folder.path / "key.pem")], capture_output=True, check=False
    )
    assert as_nobody.returncode != 0
    stranger = Security.temporary()
    with pytest.raises(OSError, match=r"Timed out|certificate|SSL|handshake"):
        Client(address, security=stranger, timeout=2, set_as_default=False)


def test_work_waits_for_the_queue_and_a_cancelled_pending_job_is_replaced(
    slurm_cluster: SlurmCluster, open_pool: Callable[..., Pool]
) -> None:
    slurm_cluster.hold("cpu")
    future = open_pool(max_jobs=1).submit(abs, -1)
    wait_until(lambda: len(alive(slurm_cluster)) == 1, lambda: f"{slurm_cluster.queue()}")
    (first,) = alive(slurm_cluster)
    slurm_cluster.cancel(first)
    wait_until(lambda: alive(slurm_cluster) not in ([], [first]), lambda: f"{slurm_cluster.queue()}")
    assert not future.done()
    slurm_cluster.release("cpu")
    assert future.result(PATIENCE_S) == 1


def test_a_job_whose_submission_was_never_answered_is_cancelled(
    slurm_cluster: SlurmCluster, open_pool: Callable[..., Pool], folder: PoolFolder, tmp_path: Path
) -> None:
    """Such a job is in the queue, and the pool does not know its number."""
    slurm_cluster.hold("cpu")
    other = slurm_cluster.submit("sleep 60", folder=tmp_path, options=["--partition=cpu"])
    pool = open_pool(max_jobs=1)
    future = pool.submit(abs, -1)
    wait_until(lambda: len(alive(slurm_cluster)) == 2, lambda: f"{slurm_cluster.queue()}")
    stray = slurm_cluster.submit("sleep 60", folder=folder.path, options=["--partition=cpu"])
    wait_until(lambda: stray not in alive(slurm_cluster), lambda: f"{slurm_cluster.queue()}")
    left = slurm_cluster.submit("sleep 60", folder=folder.path, options=["--partition=cpu"])
    close_cluster_pool(folder)
    assert alive(slurm_cluster) == [other]
    assert left != other
    assert isinstance(future.exception(PATIENCE_S), WorkerLost | PoolFailed)


def test_a_cancelled_job_fails_what_it_ran_and_is_replaced(
    slurm_cluster: SlurmCluster, open_pool: Callable[..., Pool], log: Path
) -> None:
    pool = open_pool(max_jobs=1)
    future = start(pool, log, "a", 60)
    slurm_cluster.cancel(job_of(log, "a"))
    with pytest.raises(WorkerLost, match="a worker of pool slurm/test died"):
        future.result(PATIENCE_S)
    assert pool.submit_under(Terms("a"), work, log, "a", 0).result(PATIENCE_S) == str(job_of(log, "a"))
    assert names(log, "begin") == ["a", "a"]


def test_a_controller_that_is_away_costs_neither_what_runs_nor_what_waits(
    slurm_cluster: SlurmCluster, open_pool: Callable[..., Pool], log: Path, folder: PoolFolder
) -> None:
    pool = open_pool(max_jobs=2)
    running = start(pool, log, "a", 10)
    with slurm_cluster.without_controller():
        waiting = pool.submit(work, log, "b", 0)
        wait_until(lambda: "does not answer" in folder.log.read_text(), folder.log.read_text, PATIENCE_S)
        assert running.result(PATIENCE_S) == str(job_of(log, "a"))
    assert waiting.result(PATIENCE_S)
    assert names(log, "begin") == ["a", "b"]


def test_a_flow_in_a_job_does_not_submit_with_the_options_of_that_job(
    open_pool: Callable[..., Pool], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SBATCH_PARTITION", "nowhere")  # it would win over the script
    monkeypatch.setenv("SLURM_JOB_ID", "1")
    assert open_pool(max_jobs=1).submit(abs, -1).result(PATIENCE_S) == 1


def test_closing_a_pool_whose_process_was_killed_cancels_its_jobs(
    slurm_cluster: SlurmCluster, open_pool: Callable[..., Pool], folder: PoolFolder, log: Path
) -> None:
    start(open_pool(max_jobs=1), log, "a", 60)
    holder = folder.read_holder()
    assert holder is not None
    os.kill(int(holder["pid"]), signal.SIGKILL)
    wait_until(lambda: folder.read_holder() is None, lambda: "it lives", PATIENCE_S)
    assert close_cluster_pool(folder) is False
    wait_until(lambda: not slurm_cluster.queue(), lambda: f"{slurm_cluster.queue()}")


def test_a_node_that_goes_down_fails_what_it_ran_and_another_one_goes_on(
    slurm_cluster: SlurmCluster, open_pool: Callable[..., Pool], log: Path
) -> None:
    pool = open_pool(queue="label", max_jobs=1)
    future = start(pool, log, "a", 60)
    (node,) = (job.nodes for job in slurm_cluster.queue())
    slurm_cluster.node_down(node)
    with pytest.raises(WorkerLost):
        future.result(PATIENCE_S)
    assert pool.submit_under(Terms("a"), work, log, "a", 0).result(PATIENCE_S)
    assert len(alive(slurm_cluster)) == 1  # it was not queued again beside the one that replaced it


def test_a_killed_worker_is_replaced_by_its_nanny_and_a_killed_nanny_by_another_job(
    slurm_cluster: SlurmCluster, open_pool: Callable[..., Pool], log: Path
) -> None:
    pool = open_pool(max_jobs=1)
    future = start(pool, log, "a", 60)
    worker = psutil.Process(int(lines(log, "begin")[-1].split()[2]))
    first = job_of(log, "a")
    worker.kill()
    with pytest.raises(WorkerLost):
        future.result(PATIENCE_S)

    future = start(pool, log, "b", 60)
    assert job_of(log, "b") == first
    nanny = psutil.Process(int(lines(log, "begin")[-1].split()[2])).parent()
    assert nanny is not None
    assert "dask_worker" in " ".join(nanny.cmdline())
    nanny.kill()
    with pytest.raises(WorkerLost):
        future.result(PATIENCE_S)
    assert pool.submit(work, log, "c", 0).result(PATIENCE_S) != str(first)
    wait_until(lambda: not slurm_cluster.pids_of(first), lambda: f"{slurm_cluster.pids_of(first)} of job {first} live")


def test_work_that_cannot_end_in_time_goes_to_another_job_unstarted(open_pool: Callable[..., Pool], log: Path) -> None:
    pool = open_pool(max_jobs=1, walltime_minutes=2, idle_minutes=1)
    first = pool.submit(work, log, "a", 22).result(PATIENCE_S)
    second = pool.submit_under(Terms("b", time_limit_s=70), work, log, "b", 0).result(PATIENCE_S)
    assert second != first
    assert names(log, "begin") == ["a", "b"]


def test_a_worker_that_cannot_start_programs_leaves(open_pool: Callable[..., Pool], log: Path) -> None:
    pool = open_pool(max_jobs=1, idle_minutes=1)
    first = pool.submit(work, log, "a", 0).result(PATIENCE_S)
    with pytest.raises(AttemptFailed, match="no srun here"):
        pool.submit(be_unfit).result(PATIENCE_S)
    assert pool.submit(work, log, "b", 0).result(PATIENCE_S) != first


def test_when_the_process_of_the_pool_is_killed_its_jobs_are_cancelled_before_others_begin(
    slurm_cluster: SlurmCluster, open_pool: Callable[..., Pool], folder: PoolFolder, log: Path
) -> None:
    pool = open_pool(max_jobs=1)
    future = start(pool, log, "a", 30)
    first, holder = job_of(log, "a"), folder.read_holder()
    assert holder is not None
    os.kill(int(holder["pid"]), signal.SIGKILL)
    with pytest.raises(WorkerLost, match="the connection to pool slurm/test was lost"):
        future.result(PATIENCE_S)
    assert pool.submit_under(Terms("a"), work, log, "a", 0).result(PATIENCE_S) != str(first)
    assert names(log, "begin") == ["a", "a"]
    assert names(log, "end") == ["a"]
    assert first not in alive(slurm_cluster)


JOINING = """
import sys
from pathlib import Path
from counted_work import work
from surveyor.pools.cluster import cluster_pool
from surveyor.pools.sites import SLURMSite
from surveyor.pools.terms import Terms

log, site = Path(sys.argv[2]), SLURMSite.model_validate_json(sys.argv[3])
pool = cluster_pool("slurm/test", site, Path(sys.argv[1]))
futures = [pool.submit_under(Terms(f"w{i}"), work, log, f"w{i}", 6) for i in range(4)]
print(*(future.result() for future in futures))
pool.shutdown()
"""


def test_what_a_killed_flow_has_submitted_is_finished_and_joined(folder: PoolFolder, log: Path) -> None:
    """Two jobs, four functions: two run and two wait when their submitter is killed."""
    arguments = [str(folder.path), str(log), site().model_dump_json()]
    environment = {**os.environ, "PYTHONPATH": str(SUPPORT)}
    command = [sys.executable, "-c", JOINING, *arguments]
    with subprocess.Popen(command, env=environment) as flow:
        wait_until(lambda: len(names(log, "begin")) == 2, lambda: "two should run", PATIENCE_S)
        flow.kill()
    wait_until(lambda: len(names(log, "begin")) > 2, lambda: "nobody went on without the flow", PATIENCE_S)
    subprocess.run(command, env=environment, check=True, timeout=PATIENCE_S)
    joined = names(log, "begin")
    # What was over before the flow came back is done again, as here nothing keeps it; what ran was joined.
    assert sorted({*joined}) == ["w0", "w1", "w2", "w3"]
    assert len(joined) == 4 + len(["w0", "w1"])


def test_a_failure_before_the_restart_is_no_failure_afterwards(
    open_pool: Callable[..., Pool], slurm_cluster: SlurmCluster, log: Path, folder: PoolFolder
) -> None:
    first = open_pool(max_jobs=1, idle_minutes=1)
    start(first, log, "a", 60)
    first.shutdown(wait=False)
    slurm_cluster.cancel(job_of(log, "a"))
    wait_until(lambda: (folder.read_state() or {}).get("unfinished") == 0, lambda: "it did not fail", PATIENCE_S)
    assert open_pool().submit_under(Terms("a"), work, log, "a", 0).result(PATIENCE_S)


def test_two_who_open_one_pool_share_it(folder: PoolFolder) -> None:
    with ThreadPoolExecutor(2) as threads:
        addresses = list(threads.map(lambda _: open_cluster_pool("slurm/test", site(), folder), range(2)))
    assert len({*addresses}) == 1


def test_a_pool_whose_folder_another_process_took_leaves_it_and_ends(
    slurm_cluster: SlurmCluster, open_pool: Callable[..., Pool], folder: PoolFolder, log: Path
) -> None:
    start(open_pool(), log, "a", 60)
    holder, address = folder.read_holder(), folder.address.read_text()
    assert holder is not None
    taken = {"host": "another", "pid": 1, "started": 0.0, "token": "of another"}
    write_json(folder.lease, taken)
    psutil.Process(int(holder["pid"])).wait(PATIENCE_S)
    wait_until(lambda: not slurm_cluster.queue(), lambda: f"{slurm_cluster.queue()}")
    assert (read_json(folder.lease), folder.address.read_text()) == (taken, address)
    folder.lease.unlink()


def test_a_pool_ends_with_its_jobs_on_sigterm(
    slurm_cluster: SlurmCluster, open_pool: Callable[..., Pool], folder: PoolFolder, log: Path
) -> None:
    start(open_pool(), log, "a", 60)
    holder = folder.read_holder()
    assert holder is not None
    os.kill(int(holder["pid"]), signal.SIGTERM)
    wait_until(lambda: folder.read_holder() is None, lambda: "it goes on", PATIENCE_S)
    wait_until(lambda: not slurm_cluster.queue(), lambda: f"{slurm_cluster.queue()}")
    assert close_cluster_pool(folder) is False


FAULTS = {
    "unknown partition": ({"queue": "nowhere"}, r"sbatch refused a job:[\s\S]*invalid partition specified: nowhere"),
    "job ends at once": (
        {"prologue": ["echo no module cp2k here", "exit 3"]},
        r"it was over before its worker connected[\s\S]*no module cp2k here",
    ),
    "other versions": (
        {"python": "/usr/bin/python3"},
        r"versions differ: /usr/bin/python3 on [\s\S]* has [\s\S]*surveyor none \(there \d",
    ),
    "no such interpreter": ({"python": "/opt/nowhere/python"}, r"/opt/nowhere/python: No such file"),
    "walltime too long": (
        {"queue": "short", "walltime_minutes": 120},
        r"PartitionTimeLimit|time limit",
    ),
}


@pytest.fixture(scope="module")
def faults(slurm_cluster: SlurmCluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """What is said of each fault; they are waited for side by side."""
    slurm_cluster.run(["scontrol", "create", "PartitionName=short", "Nodes=cpu1", "MaxTime=5"])
    parent = tmp_path_factory.mktemp("faults")

    def complaint(name: str) -> str:
        pool = cluster_pool(f"slurm/{name}", site(**FAULTS[name][0]), parent / name.replace(" ", "-"))
        try:
            with pytest.raises(PoolFailed) as failure:
                pool.submit(abs, -1).result(PATIENCE_S)
            return str(failure.value)
        finally:
            pool.shutdown(wait=False)

    with ThreadPoolExecutor(len(FAULTS)) as threads:
        yield dict(zip(FAULTS, threads.map(complaint, FAULTS), strict=True))
    slurm_cluster.reset()
    slurm_cluster.run(["scontrol", "delete", "PartitionName=short"])


@pytest.mark.parametrize("name", FAULTS)
def test_after_a_few_jobs_without_worker_the_pool_fails_with_what_was_said(faults: dict[str, str], name: str) -> None:
    assert "3 jobs in a row gave no worker" in faults[name]
    assert re.search(FAULTS[name][1], faults[name]), faults[name]


def test_a_folder_that_cannot_stand_in_a_job_script_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"my runs.*choose another run directory"):
        cluster_pool("slurm/test", site(), tmp_path / "my runs").open()


def test_a_missing_sbatch_is_said(
    open_pool: Callable[..., Pool], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(PoolFailed, match=r"sbatch refused a job:\n.*No such file or directory: 'sbatch'"):
        open_pool().submit(abs, -1).result(PATIENCE_S)
