import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from foreign_connections import PATHS
from processes import living, processes_that_know, wait_until
from slurm import SlurmCluster

pytestmark = pytest.mark.slurm

# Each rank of a program says where it is; without a compiler.
MPI_PROGRAM = """\
import ctypes
mpi = ctypes.CDLL("libmpi.so.40", mode=ctypes.RTLD_GLOBAL)
world = ctypes.c_void_p(ctypes.addressof(ctypes.c_char.in_dll(mpi, "ompi_mpi_comm_world")))
rank, size = ctypes.c_int(), ctypes.c_int()
mpi.MPI_Init(None, None)
mpi.MPI_Comm_rank(world, ctypes.byref(rank))
mpi.MPI_Comm_size(world, ctypes.byref(size))
print(f"rank {rank.value} of {size.value}", flush=True)
mpi.MPI_Finalize()
"""


@pytest.fixture
def cluster(slurm_cluster: SlurmCluster) -> Iterator[SlurmCluster]:
    yield slurm_cluster
    slurm_cluster.reset()


@pytest.mark.parametrize(("partition", "cards"), [("cpu", ""), ("label", ""), ("gpu", "0")])
def test_a_job_runs_on_the_partition_that_it_asks_for(
    cluster: SlurmCluster, tmp_path: Path, partition: str, cards: str
) -> None:
    options = ["--partition", partition, *(["--gres=gpu:1"] if cards else [])]
    job = cluster.submit('echo "$SLURMD_NODENAME,$CUDA_VISIBLE_DEVICES"', folder=tmp_path, options=options)
    cluster.wait_for(job, "COMPLETED")
    assert (tmp_path / f"{job}.out").read_text() == f"{partition}1,{cards}\n"
    assert cluster.queue() == []


def test_jobs_wait_while_their_partition_is_held(cluster: SlurmCluster, tmp_path: Path) -> None:
    cluster.hold("label")
    job = cluster.submit("true", folder=tmp_path, options=["--partition=label", "--job-name=a|b"])
    other = cluster.submit("true", folder=tmp_path, options=["--partition=cpu"])
    cluster.wait_for(other, "COMPLETED")
    (pending,) = cluster.queue()
    assert (pending.id, pending.name, pending.partition, pending.state) == (job, "a|b", "label", "PENDING")
    cluster.release("label")
    cluster.wait_for(job, "COMPLETED")


def test_pending_and_running_jobs_can_be_cancelled(cluster: SlurmCluster, tmp_path: Path) -> None:
    running = cluster.submit("sleep 600", folder=tmp_path, options=["--partition=cpu"])
    cluster.wait_for(running, "RUNNING")
    cluster.hold("cpu")
    pending = cluster.submit("sleep 600", folder=tmp_path, options=["--partition=cpu"])
    for job in (pending, running):
        cluster.cancel(job)
        cluster.wait_for(job, "CANCELLED")
    wait_until(lambda: not cluster.pids_of(running), lambda: f"running still: {cluster.pids_of(running)}")


def test_an_unknown_partition_is_refused(cluster: SlurmCluster, tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match="invalid partition specified: nosuch"):
        cluster.submit("true", folder=tmp_path, options=["--partition=nosuch"])


def test_with_a_node_die_all_processes_of_its_jobs_and_no_others(cluster: SlurmCluster, tmp_path: Path) -> None:
    # A shell in a session of its own that nobody is the parent of any more, and one without an environment.
    commands = ["(setsid bash -c 'sleep 600; true' &)", "env -i sleep 600 &", "sleep 600"]
    jobs = [
        cluster.submit(*commands, folder=tmp_path, options=["--partition=label", f"--nodelist={node}"])
        for node in ("label1", "label2")
    ]
    for job in jobs:
        wait_until(lambda job=job: len(cluster.pids_of(job)) == 5, lambda job=job: f"{cluster.pids_of(job)}, not 5")
    before = [cluster.pids_of(job) for job in jobs]
    cluster.node_down("label1")
    assert not living(before[0])
    assert cluster.pids_of(jobs[1]) == before[1]
    again = [(jobs[0], "PENDING"), (jobs[1], "RUNNING")]  # the dead node's job is queued again
    wait_until(lambda: [(job.id, job.state) for job in cluster.queue()] == again, lambda: f"{cluster.queue()}")
    cluster.node_up("label1")
    after = cluster.submit("true", folder=tmp_path, options=["--nodelist=label1", "--partition=label"])
    cluster.wait_for(after, "COMPLETED")


@pytest.mark.parametrize("launcher", ["srun -n 2 --overlap --mpi=pmix", "mpirun -np 2"])
def test_ranks_of_mpi_find_each_other_in_a_job(cluster: SlurmCluster, tmp_path: Path, launcher: str) -> None:
    (tmp_path / "program.py").write_text(MPI_PROGRAM)
    job = cluster.submit(
        f"{launcher} {sys.executable} program.py", folder=tmp_path, options=["--partition=label", "--ntasks=2"]
    )
    cluster.wait_for(job, "COMPLETED")
    # The lines of two ranks may be mixed up.
    said = (tmp_path / f"{job}.out").read_text()
    assert sorted(re.findall(r"rank \d of \d", said)) == ["rank 0 of 2", "rank 1 of 2"], said


def test_a_killed_test_run_leaves_nothing(tmp_path: Path) -> None:
    program = """
from pathlib import Path
from slurm import slurm
with slurm() as cluster:
    job = cluster.submit("setsid sleep 600 & sleep 600", folder=Path.cwd(), options=["--partition=cpu"])
    cluster.wait_for(job, "RUNNING")
    print(cluster.folder, flush=True)
    input()
"""
    with subprocess.Popen(
        [sys.executable, "-c", program],
        env={**os.environ, "PYTHONPATH": PATHS},
        cwd=tmp_path,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as run:
        assert run.stdout is not None
        folder = Path(run.stdout.readline().strip())
        assert processes_that_know(folder)
        run.send_signal(signal.SIGKILL)
    wait_until(lambda: not folder.exists(), lambda: f"{folder} is left")
    assert not processes_that_know(folder)
