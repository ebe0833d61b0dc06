"""Pools on a real SLURM: jobs that come and go, and what happens when anything dies."""

import os
import re
import signal
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import pytest
from counted_work import be_unfit, lines, names, work
from distributed import Client, Security
from foreign_connections import PATHS
from pool_scene import PoolScene
from processes import PATIENCE_S, wait_until
from slurm import Job, SlurmCluster

from surveyor.errors import AttemptFailed, InputError, PoolFailed, WorkerLost
from surveyor.files import read_json, write_json
from surveyor.pools import cluster
from surveyor.pools.cluster import close_cluster_pool, cluster_pool, open_cluster_pool
from surveyor.pools.keeper import LOOK_S
from surveyor.pools.pool import Pool
from surveyor.pools.pool_folder import PoolFolder
from surveyor.pools.sites import LSFSite, SLURMSite
from surveyor.pools.submission import SubmitOptions
from surveyor.testing.pools import check_executor

SIDE_BY_SIDE = 4

pytestmark = [pytest.mark.slurm, pytest.mark.slow]


def site(**fields: Any) -> SLURMSite:
    return SLURMSite.model_validate(
        {
            "queue": "cpu",
            "memory_GB": 0.5,
            "walltime_minutes": 10,
            "max_jobs": 2,
            "idle_minutes": 0.05,
            "interface": "lo",
            "prologue": [f"export PYTHONPATH={PATHS}"],
            **fields,
        }
    )


@dataclass(frozen=True)
class Scene(PoolScene):
    """A pool on a partition that no other scene uses, and what can be done to it.

    Attributes:
        cluster: where the partition is.
        partition: its name.
        path: folder for what belongs to the scene.
        pools: what was opened.
    """

    pool_name = "slurm/test"

    cluster: SlurmCluster
    partition: str
    path: Path
    pools: list[Pool] = field(default_factory=list)

    def site(self, **fields: Any) -> SLURMSite:
        return site(**{"queue": self.partition, **fields})

    def job_of(self, name: str) -> int:
        """The job in which work last began."""
        return int([line.split()[1] for line in lines(self.log, "begin") if line.split()[0] == name][-1])

    def process_of_work(self) -> psutil.Process:
        """The process in which work last began."""
        return psutil.Process(int(lines(self.log, "begin")[-1].split()[2]))

    def holder(self) -> int:
        """The process of the pool."""
        holder = self.folder.read_holder()
        assert holder is not None
        return int(holder["pid"])

    def queue(self) -> list[Job]:
        return [job for job in self.cluster.queue() if job.partition == self.partition]

    def wait_for_the_end_of_the_jobs(self) -> None:
        wait_until(lambda: not self.queue(), lambda: f"{self.queue()}")

    def alive(self) -> list[int]:
        """The jobs that are not about to leave."""
        return [job.id for job in self.queue() if job.state != "COMPLETING"]

    def wait_for_jobs(self, is_right: Callable[[list[int]], bool]) -> None:
        wait_until(lambda: is_right(self.alive()), lambda: f"{self.queue()}")

    def submit_sleep(self, folder: Path) -> int:
        """Submit a job that is not one of the pool's."""
        return self.cluster.submit("sleep 60", folder=folder, options=[f"--partition={self.partition}"])


def python_environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": PATHS}


SCENES: dict[str, Callable[[Scene], None]] = {}


def side_by_side(play: Callable[[Scene], None]) -> Callable[[Scene], None]:
    """Have a scene played while others are: each takes long, and mostly waits."""
    SCENES[play.__name__] = play
    return play


@side_by_side
def work_that_cannot_end_in_time_goes_to_another_job_unstarted(scene: Scene) -> None:
    pool = scene.open_pool(max_jobs=1, walltime_minutes=2, idle_minutes=1)
    first = pool.submit(work, scene.log, "a", 22).result(PATIENCE_S)
    second = pool.submit_with(SubmitOptions("b", time_limit_s=70), work, scene.log, "b", 0).result(PATIENCE_S)
    assert second != first
    assert names(scene.log, "begin") == ["a", "b"]


@side_by_side
def it_is_an_executor_whose_jobs_come_with_work_and_leave_without(scene: Scene) -> None:
    pool = scene.open_pool()
    pool.open()
    assert scene.queue() == []
    exchange = scene.path / "exchange"
    exchange.mkdir()
    check_executor(pool, exchange)
    assert scene.alive()
    scene.wait_for_the_end_of_the_jobs()
    assert scene.holder()  # somebody is attached
    pool.shutdown()
    scene.wait_for_the_end_of_the_pool()


@side_by_side
def only_the_owner_can_attach(scene: Scene) -> None:
    address = scene.open_pool().address
    assert stat.S_IMODE(scene.folder.path.stat().st_mode) == 0o700
    as_nobody = subprocess.run(
        ["runuser", "-u", "nobody", "--", "cat", str(scene.folder.path / "key.pem")], capture_output=True, check=False
    )
    assert as_nobody.returncode != 0
    stranger = Security.temporary()
    with pytest.raises(OSError, match=r"Timed out|certificate|SSL|handshake"):
        Client(address, security=stranger, timeout=2, set_as_default=False)


@side_by_side
def work_waits_for_the_queue_and_a_cancelled_pending_job_is_replaced(scene: Scene) -> None:
    scene.cluster.hold(scene.partition)
    future = scene.open_pool(max_jobs=1).submit(abs, -1)
    scene.wait_for_jobs(lambda alive: len(alive) == 1)
    (first,) = scene.alive()
    scene.cluster.cancel(first)
    scene.wait_for_jobs(lambda alive: alive not in ([], [first]))
    assert not future.done()
    scene.cluster.release(scene.partition)
    assert future.result(PATIENCE_S) == 1


@side_by_side
def a_job_whose_submission_was_never_answered_is_cancelled(scene: Scene) -> None:
    """Such a job is in the queue, and the pool does not know its number."""
    scene.cluster.hold(scene.partition)
    other = scene.submit_sleep(scene.path)
    future = scene.open_pool(max_jobs=1).submit(abs, -1)
    scene.wait_for_jobs(lambda alive: len(alive) == 2)
    stray = scene.submit_sleep(scene.folder.path)
    scene.wait_for_jobs(lambda alive: stray not in alive)
    left = scene.submit_sleep(scene.folder.path)
    close_cluster_pool(scene.folder)
    assert scene.alive() == [other]
    assert left != other
    assert isinstance(future.exception(PATIENCE_S), WorkerLost | PoolFailed)


@side_by_side
def a_cancelled_job_fails_what_it_ran_and_is_replaced(scene: Scene) -> None:
    pool = scene.open_pool(max_jobs=1)
    future = scene.start(pool, "a", 60)
    scene.cluster.cancel(scene.job_of("a"))
    with pytest.raises(WorkerLost, match="a worker of pool slurm/test died"):
        future.result(PATIENCE_S)
    again = pool.submit_with(SubmitOptions("a"), work, scene.log, "a", 0).result(PATIENCE_S)
    assert again == str(scene.job_of("a"))
    assert names(scene.log, "begin") == ["a", "a"]


@side_by_side
def closing_a_pool_whose_process_was_killed_cancels_its_jobs(scene: Scene) -> None:
    scene.start(scene.open_pool(max_jobs=1), "a", 60)
    os.kill(scene.holder(), signal.SIGKILL)
    scene.wait_for_the_end_of_the_pool()
    assert close_cluster_pool(scene.folder) is False
    scene.wait_for_the_end_of_the_jobs()


@side_by_side
def a_killed_worker_is_replaced_by_its_nanny_and_a_killed_nanny_by_another_job(scene: Scene) -> None:
    pool = scene.open_pool(max_jobs=1)
    future = scene.start(pool, "a", 60)
    first = scene.job_of("a")
    scene.process_of_work().kill()
    with pytest.raises(WorkerLost):
        future.result(PATIENCE_S)

    future = scene.start(pool, "b", 60)
    assert scene.job_of("b") == first
    nanny = scene.process_of_work().parent()
    assert nanny is not None
    assert "dask_worker" in " ".join(nanny.cmdline())
    nanny.kill()
    with pytest.raises(WorkerLost):
        future.result(PATIENCE_S)
    assert pool.submit(work, scene.log, "c", 0).result(PATIENCE_S) != str(first)
    pids_of = scene.cluster.pids_of
    wait_until(lambda: not pids_of(first), lambda: f"{pids_of(first)} of job {first} live")


@side_by_side
def a_worker_that_cannot_start_programs_leaves(scene: Scene) -> None:
    pool = scene.open_pool(max_jobs=1, idle_minutes=1)
    first = pool.submit(work, scene.log, "a", 0).result(PATIENCE_S)
    with pytest.raises(AttemptFailed, match="no srun here"):
        pool.submit(be_unfit).result(PATIENCE_S)
    assert pool.submit(work, scene.log, "b", 0).result(PATIENCE_S) != first


@side_by_side
def when_the_process_of_the_pool_is_killed_its_jobs_are_cancelled_before_others_begin(scene: Scene) -> None:
    pool = scene.open_pool(max_jobs=1)
    future = scene.start(pool, "a", 30)
    first = scene.job_of("a")
    os.kill(scene.holder(), signal.SIGKILL)
    with pytest.raises(WorkerLost, match="the connection to pool slurm/test was lost"):
        future.result(PATIENCE_S)
    assert pool.submit_with(SubmitOptions("a"), work, scene.log, "a", 0).result(PATIENCE_S) != str(first)
    assert names(scene.log, "begin") == ["a", "a"]
    assert names(scene.log, "end") == ["a"]
    assert first not in scene.alive()


JOINING = """
import sys
from pathlib import Path
from counted_work import work
from surveyor.pools.cluster import cluster_pool
from surveyor.pools.sites import LSFSite, SLURMSite
from surveyor.pools.submission import SubmitOptions

log, site = Path(sys.argv[2]), SLURMSite.model_validate_json(sys.argv[3])
pool = cluster_pool("slurm/test", site, Path(sys.argv[1]))
seconds = [6, 6, 18, 18]  # those that wait outlast the start of the second flow
futures = [pool.submit_with(SubmitOptions(f"w{i}"), work, log, f"w{i}", seconds[i]) for i in range(4)]
print(*(future.result() for future in futures))
pool.shutdown()
"""


@side_by_side
def what_a_killed_flow_has_submitted_is_finished_and_joined(scene: Scene) -> None:
    """Two jobs, four functions: two run and two wait when their submitter is killed."""
    arguments = [str(scene.folder.path), str(scene.log), scene.site().model_dump_json()]
    command = [sys.executable, "-c", JOINING, *arguments]
    with subprocess.Popen(command, env=python_environment()) as flow:
        wait_until(lambda: len(names(scene.log, "begin")) == 2, lambda: "two should run")
        flow.kill()
    wait_until(lambda: len(names(scene.log, "begin")) > 2, lambda: "nobody went on without the flow")
    subprocess.run(command, env=python_environment(), check=True, timeout=PATIENCE_S)
    joined = names(scene.log, "begin")
    # What was over before the flow came back is done again, as here nothing keeps it; what ran was joined.
    assert sorted({*joined}) == ["w0", "w1", "w2", "w3"]
    assert len(joined) == 4 + len(["w0", "w1"])


HOLDING = JOINING.replace("range(4)", "range(1)")


@side_by_side
def an_idle_job_stays_with_a_result_that_nobody_has_fetched(scene: Scene) -> None:
    """Its flow stands still, as on a laptop that sleeps."""
    arguments = [str(scene.folder.path), str(scene.log), scene.site(max_jobs=1).model_dump_json()]
    command = [sys.executable, "-c", HOLDING, *arguments]
    with subprocess.Popen(command, env=python_environment()) as flow, ExitStack() as ends:
        ends.callback(flow.kill)
        wait_until(lambda: names(scene.log, "begin") == ["w0"], scene.said)
        flow.send_signal(signal.SIGSTOP)
        wait_until(lambda: "have not been fetched" in scene.folder.log.read_text(), scene.said)
        first = scene.job_of("w0")
        pool = scene.open_pool(max_jobs=1)
        assert scene.start(pool, "b", 3 * LOOK_S).result(PATIENCE_S) == str(first)
        assert scene.alive() == [first]  # no job has come in its place
        flow.send_signal(signal.SIGCONT)
        assert flow.wait(PATIENCE_S) == 0
    scene.wait_for_the_end_of_the_jobs()


@side_by_side
def a_failure_before_the_restart_is_no_failure_afterwards(scene: Scene) -> None:
    first = scene.open_pool(max_jobs=1, idle_minutes=1)
    scene.start(first, "a", 60)
    first.shutdown(wait=False)
    scene.cluster.cancel(scene.job_of("a"))
    read_state = scene.folder.read_state
    wait_until(lambda: (read_state() or {}).get("unfinished") == 0, lambda: "it did not fail")
    assert scene.open_pool().submit_with(SubmitOptions("a"), work, scene.log, "a", 0).result(PATIENCE_S)


@side_by_side
def two_who_open_one_pool_share_it(scene: Scene) -> None:
    with ThreadPoolExecutor(2) as threads:
        addresses = list(threads.map(lambda _: open_cluster_pool("slurm/test", scene.site(), scene.folder), range(2)))
    assert len({*addresses}) == 1


@side_by_side
def a_pool_whose_folder_another_process_took_leaves_it_and_ends(scene: Scene) -> None:
    scene.start(scene.open_pool(), "a", 60)
    address = scene.folder.address.read_text()
    taken = {"host": "another", "pid": 1, "started": 0.0, "token": "of another"}
    process = psutil.Process(scene.holder())
    write_json(scene.folder.lease, taken)
    process.wait(PATIENCE_S)
    scene.wait_for_the_end_of_the_jobs()
    assert (read_json(scene.folder.lease), scene.folder.address.read_text()) == (taken, address)
    scene.folder.lease.unlink()


@side_by_side
def a_pool_ends_with_its_jobs_on_sigterm(scene: Scene) -> None:
    scene.start(scene.open_pool(), "a", 60)
    os.kill(scene.holder(), signal.SIGTERM)
    scene.wait_for_the_end_of_the_pool()
    scene.wait_for_the_end_of_the_jobs()
    assert close_cluster_pool(scene.folder) is False


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
    "more memory than any node has": (
        {"memory_GB": 1000},
        r"sbatch refused a job:[\s\S]*(Memory specification can not be satisfied|node configuration is not available)",
    ),
    "more cores than any node has": ({"cores_per_job": 100}, r"the queue would never start it: PartitionConfig"),
    "no node with such a card": ({"gpus_per_job": 1}, r"sbatch refused a job:[\s\S]*configuration is not available"),
}
MAY_PASS = ("job ends at once", "no such interpreter")  # another node may be better


@pytest.fixture(scope="module")
def played(
    slurm_cluster: SlurmCluster, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[str, Future[str | None]]]:
    """How each scene ends, and what is said of each fault."""
    slurm_cluster.run(["scontrol", "create", "PartitionName=short", "Nodes=cpu1", "MaxTime=5"])
    parent = tmp_path_factory.mktemp("played")

    def play(name: str) -> None:
        slurm_cluster.run(["scontrol", "create", f"PartitionName={name}", "Nodes=cpu1,gpu1"])
        (parent / name).mkdir()
        scene = Scene(slurm_cluster, name, parent / name)
        try:
            SCENES[name](scene)
        finally:
            scene.close()

    def complaint(name: str) -> str:
        pool = cluster_pool(f"slurm/{name}", site(**FAULTS[name][0]), parent / name.replace(" ", "-"))
        try:
            with pytest.raises(PoolFailed) as failure:
                pool.submit(abs, -1).result(PATIENCE_S)
            return str(failure.value)
        finally:
            pool.shutdown(wait=False)

    with ThreadPoolExecutor(SIDE_BY_SIDE) as threads, ThreadPoolExecutor(len(FAULTS)) as patient:
        scenes = {name: threads.submit(play, name) for name in SCENES}
        yield scenes | {name: patient.submit(complaint, name) for name in FAULTS}
    slurm_cluster.reset()


@pytest.mark.parametrize("name", SCENES)
def test_scene(played: dict[str, Future[None]], name: str) -> None:
    played[name].result()


@pytest.mark.parametrize("name", FAULTS)
def test_after_a_few_jobs_without_worker_or_the_first_that_is_refused_for_good_the_pool_fails_with_what_was_said(
    played: dict[str, Future[str]], name: str
) -> None:
    said = played[name].result()
    n_jobs = "3 jobs in a row gave no worker" if name in MAY_PASS else "a job gave no worker, nor would another"
    assert n_jobs in said
    assert re.search(FAULTS[name][1], said), said


@pytest.fixture
def alone(slurm_cluster: SlurmCluster, tmp_path: Path) -> Iterator[Scene]:
    """A scene that changes more than its own partition."""
    scene = Scene(slurm_cluster, "label", tmp_path)
    try:
        yield scene
    finally:
        scene.close()
        slurm_cluster.reset()


def test_a_node_that_goes_down_fails_what_it_ran_and_another_one_goes_on(alone: Scene) -> None:
    pool = alone.open_pool(max_jobs=1)
    future = alone.start(pool, "a", 60)
    (node,) = (job.nodes for job in alone.queue())
    alone.cluster.node_down(node)
    with pytest.raises(WorkerLost):
        future.result(PATIENCE_S)
    assert pool.submit_with(SubmitOptions("a"), work, alone.log, "a", 0).result(PATIENCE_S)
    assert len(alone.alive()) == 1  # it was not queued again beside the one that replaced it


def test_a_flow_in_a_job_does_not_submit_with_the_options_of_that_job(
    alone: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SBATCH_PARTITION", "nowhere")  # it would win over the script
    monkeypatch.setenv("SLURM_JOB_ID", "1")
    assert alone.open_pool(max_jobs=1).submit(abs, -1).result(PATIENCE_S) == 1


def test_a_missing_sbatch_is_said(alone: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(alone.path))
    expected = r"nor would another: sbatch refused a job:\n.*No such file or directory: 'sbatch'"
    with pytest.raises(PoolFailed, match=expected):
        alone.open_pool().submit(abs, -1).result(PATIENCE_S)


def test_a_controller_that_is_away_costs_neither_what_runs_nor_what_waits(alone: Scene) -> None:
    # After this, SLURM thinks for ever that nodes which had jobs are at work; so none that another test lets die.
    pool = alone.open_pool(queue="gpu", max_jobs=2)
    running = alone.start(pool, "a", 10)
    with alone.cluster.without_controller():
        waiting = pool.submit(work, alone.log, "b", 0)
        wait_until(lambda: "does not answer" in alone.folder.log.read_text(), alone.folder.log.read_text)
        assert running.result(PATIENCE_S) == str(alone.job_of("a"))
    assert waiting.result(PATIENCE_S)
    assert names(alone.log, "begin") == ["a", "b"]


@pytest.mark.parametrize("n_killed", [2, 3])
def test_a_process_that_is_killed_while_it_starts_is_started_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, n_killed: int
) -> None:
    start, started, folder = cluster._start, [], PoolFolder(tmp_path / "pool")

    def start_and_kill(where: PoolFolder) -> "subprocess.Popen[bytes]":
        started.append(start(where))
        if len(started) <= n_killed:
            started[-1].kill()
        return started[-1]

    monkeypatch.setattr(cluster, "_start", start_and_kill)
    if n_killed < 3:
        assert open_cluster_pool("killed", site(), folder).startswith("tls://")
        close_cluster_pool(folder)
    else:
        with pytest.raises(PoolFailed, match="pool killed did not start"):
            open_cluster_pool("killed", site(), folder)
    assert len(started) == 3


def test_a_folder_that_cannot_stand_in_a_job_script_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"my runs.*choose another run directory"):
        cluster_pool("slurm/test", site(), tmp_path / "my runs").open()


def test_a_pool_of_a_kind_that_was_never_tried_says_so_when_it_opens(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for kind, site_class in (("lsf", LSFSite), ("slurm", SLURMSite)):
        folder = PoolFolder(tmp_path / kind)
        open_cluster_pool(f"{kind}/test", site_class(queue="cpu", interface="lo"), folder)
        close_cluster_pool(folder)
    (said,) = [record.message for record in caplog.records if "experimental" in record.message]
    assert said.startswith("pool lsf/test: pools of the kind lsf are experimental")
