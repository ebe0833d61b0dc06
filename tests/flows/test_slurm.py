"""A whole campaign on a real SLURM, with real CP2K and MACE, in which everything is killed once.

Labels, walkers and trainings run in jobs of partitions of their own. CP2K is started by a script that counts: by srun
first, and by mpirun after the campaign's process was killed and started again.
"""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import pytest
import yaml
from prefect_server import post, prefect_environment
from processes import processes_with, wait_until
from slurm import SlurmCluster

from surveyor.blocks.pools import SLURMPool
from surveyor.labels import LabelStore
from surveyor.pools.choice import folder_of
from surveyor.reference.cp2k_input import WAVEFUNCTION
from surveyor.run_directory import RunDirectory

REPOSITORY = Path(__file__).parents[2]
PATIENCE_S = 480.0
MARK = "SURVEYOR_TEST_SLURM"  # inherited by all processes of the campaign
SRUN = "srun -n 2 --overlap --mpi=pmix cp2k.psmp"
MPIRUN = "mpirun -np 2 cp2k.psmp"
N_BOOTSTRAP, N_WALKERS = 5, 3
COARSER = {"CUTOFF 280": "CUTOFF 120", "EPS_SCF 1.0E-6": "EPS_SCF 1.0E-5"}  # a label is to take as long as a kill needs

pytestmark = [
    pytest.mark.slurm,
    pytest.mark.cp2k,
    pytest.mark.mace,
    pytest.mark.slow,
    pytest.mark.timeout(1800),
]

COUNTING = """#!/bin/sh
case "$*" in *--version*|*--check*) exec "$@";; esac
input=$(grep -A4 "&COORD" input.inp | md5sum | cut -c1-12)
echo "begin $input $SLURM_JOB_ID $$" >> {log}
"$@"
status=$?
# A step that is cancelled while it is launched leaves the status 0, but no wavefunction.
[ -e {wavefunction} ] || status="$status, not launched"
echo "end $input $status" >> {log}
exit $status
"""


@dataclass
class Campaign:
    """A campaign on the cluster, run by the command in a process of its own."""

    folder: Path
    api_url: str
    cluster: SlurmCluster
    finished_at_kill: list[tuple[set[str], int]] = field(default_factory=list)
    trainer_began: int | None = None

    def __post_init__(self) -> None:
        demo = REPOSITORY / "deployments/demo/cp2k.yaml"
        shutil.copy(demo.parent / "water.extxyz", self.folder)
        text = (REPOSITORY / "deployments/cp2k/water-demo.inp").read_text()
        for line, coarser in COARSER.items():
            assert line in text
            text = text.replace(line, coarser)
        (self.folder / "water-demo.inp").write_text(text)
        script = self.folder / "count"
        script.write_text(COUNTING.format(log=self.log, wavefunction=WAVEFUNCTION))
        script.chmod(0o755)
        content = yaml.safe_load(demo.read_text())
        content["run_directory"] = "run"
        content["reference"]["cp2k"]["input"] = "water-demo.inp"
        content["walkers"] = [{**content["walkers"][0], "n_walkers": N_WALKERS, "n_steps": 30}]
        content["model"]["mace"] |= {"num_channels": 8, "max_num_epochs": 6}
        content["bootstrap"]["n_structures"] = N_BOOTSTRAP
        content["learning"] |= {"n_generations": 1, "reset_energy_meV_per_atom": 1e6, "reset_forces_meV_per_A": 1e6}
        content["learning"] |= {"discard_energy_meV_per_atom": 1e6, "discard_forces_meV_per_A": 1e6}
        content["pools"] = {"sampling": "slurm/cpu", "labelling": "slurm/label", "training": "slurm/gpu"}
        self.content = content

    @property
    def log(self) -> Path:
        return self.folder / "cp2k.log"

    @property
    def output(self) -> Path:
        return self.folder / "output.txt"

    @property
    def directory(self) -> RunDirectory:
        return RunDirectory(self.folder / "run")

    @property
    def trainer_input(self) -> Path:
        """What is written when a training of the first generation begins, each time it does."""
        return self.directory.generation(1).training / "config.yaml"

    def start(self, launch: str) -> "subprocess.Popen[bytes]":
        self.content["codes"] = {"cp2k": {"command": f"{self.folder / 'count'} {launch}", "timeout_minutes": 3}}
        file = self.folder / "campaign.yaml"
        file.write_text(yaml.safe_dump(self.content))
        environment = {**prefect_environment(self.folder / "prefect", self.api_url), MARK: str(self.folder)}
        command = [sys.executable, "-m", "surveyor.flows.command_line", "run", str(file)]
        with self.output.open("ab") as output:
            return subprocess.Popen(command, env=environment, cwd=self.folder, stdout=output, stderr=output)

    def wait_for(self, condition: Callable[[], bool], what: str) -> None:
        wait_until(condition, lambda: f"no {what}\n{self.output.read_text()[-3000:]}", PATIENCE_S)

    def n_labels(self) -> int:
        return len(list(LabelStore.in_folder(self.folder / "labels").keys()))

    def began(self) -> list[tuple[str, int]]:
        """Structures that CP2K was started for, each with the job."""
        lines = self.log.read_text().splitlines() if self.log.exists() else []
        words = [line.split() for line in lines if line.startswith("begin")]
        return [(structure, int(job)) for _, structure, job, _ in words]

    def ended(self) -> set[str]:
        """Structures for which CP2K has ended in order."""
        lines = self.log.read_text().splitlines() if self.log.exists() else []
        return {line.split()[1] for line in lines if line.startswith("end") and line.endswith(" 0")}

    def wait_for_label_in_computation(self, *others: int) -> int:
        """Wait until CP2K computes, in another job than these, and return the job."""
        found: list[int] = []

        def is_found() -> bool:
            alive = {job.id for job in self.cluster.queue() if job.state == "RUNNING"} - {*others}
            last = {job: structure for structure, job in self.began() if job in alive}
            found[:] = [job for job, structure in last.items() if structure not in self.ended()]
            return bool(found)

        self.wait_for(is_found, "label in computation")
        return found[-1]

    def job_in(self, partition: str) -> int:
        """Wait for a job that runs in a partition, with its worker at work, and return it."""

        def busy() -> list[int]:
            name = f"slurm/{partition}"
            state = folder_of(name, self.directory.pools).read_state() or {}
            ids = [job.id for job in self.cluster.queue() if job.partition == partition and job.state == "RUNNING"]
            return ids if state.get("workers") and state.get("unfinished") else []

        self.wait_for(lambda: bool(busy()), f"work in partition {partition}")
        return busy()[0]

    def processes(self) -> set[psutil.Process]:
        return processes_with({MARK: str(self.folder)})

    def note_kill(self) -> None:
        self.finished_at_kill.append((self.ended(), len(self.began())))


@pytest.fixture(scope="module")
def campaign(
    tmp_path_factory: pytest.TempPathFactory, prefect_api_url: str, slurm_cluster: SlurmCluster
) -> Iterator[Campaign]:
    """The campaign after all that was done to it, at its end."""
    register_pools()
    campaign = Campaign(tmp_path_factory.mktemp("slurm"), prefect_api_url, slurm_cluster)
    try:
        disturb(campaign)
        yield campaign
    finally:
        for process in campaign.processes():
            process.kill()
        slurm_cluster.reset()


def register_pools() -> None:
    common = {"memory_GB": 1, "walltime_minutes": 10, "idle_minutes": 0.2, "interface": "lo"}
    SLURMPool(queue="cpu", max_jobs=1, **common).save("cpu", overwrite=True)
    SLURMPool(queue="label", max_jobs=2, cores_per_job=2, tasks_per_job=2, **common).save("label", overwrite=True)
    SLURMPool(queue="gpu", max_jobs=1, gpus_per_job=1, **common).save("gpu", overwrite=True)


def disturb(campaign: Campaign) -> None:
    """Run a campaign to its end, and on the way kill one thing after the other."""
    cluster = campaign.cluster
    flow = campaign.start(SRUN)

    # Its walltime takes SLURM up to half a minute to notice; meanwhile the other job is cancelled.
    short_lived = campaign.wait_for_label_in_computation()
    cluster.expire(short_lived)
    campaign.note_kill()
    cancelled = campaign.wait_for_label_in_computation(short_lived)
    cluster.cancel(cancelled)
    campaign.note_kill()

    other = campaign.wait_for_label_in_computation(short_lived, cancelled)
    worker, _ = worker_of(cluster, other)
    worker.kill()
    campaign.note_kill()
    campaign.wait_for(lambda: short_lived not in {job.id for job in cluster.queue()}, "end of a job by its walltime")

    # The flow: what computes goes on without it, and is joined, now with another way to start CP2K for what is new.
    campaign.wait_for_label_in_computation()
    flow.kill()
    flow.wait()
    campaign.note_kill()
    flow = campaign.start(MPIRUN)

    campaign.wait_for(lambda: campaign.n_labels() >= N_BOOTSTRAP, "labels of the bootstrap")
    cluster.cancel(campaign.job_in("gpu"))

    campaign.wait_for(lambda: campaign.directory.generation(0).is_complete(), "bootstrap")
    cluster.cancel(campaign.job_in("cpu"))
    campaign.job_in("cpu")
    cluster.node_down("cpu1")
    cluster.node_up("cpu1")

    without_nanny = campaign.wait_for_label_in_computation()
    _, nanny = worker_of(cluster, without_nanny)
    nanny.kill()
    campaign.note_kill()

    campaign.wait_for_label_in_computation(without_nanny)
    holder = folder_of("slurm/label", campaign.directory.pools).read_holder()
    assert holder is not None
    os.kill(int(holder["pid"]), signal.SIGKILL)
    campaign.note_kill()

    campaign.wait_for(campaign.trainer_input.exists, "training of the first generation")
    campaign.trainer_began = campaign.trainer_input.stat().st_mtime_ns
    flow.kill()
    flow.wait()
    flow = campaign.start(MPIRUN)

    assert flow.wait(PATIENCE_S) == 0, campaign.output.read_text()


def worker_of(cluster: SlurmCluster, job: int) -> tuple[psutil.Process, psutil.Process]:
    """The worker that runs CP2K in a job, and its nanny."""
    processes = [psutil.Process(pid) for pid in cluster.pids_of(job)]
    (nanny,) = [each for each in processes if "dask_worker" in " ".join(each.cmdline())]
    (worker,) = [each for each in nanny.children() if "spawn_main" in " ".join(each.cmdline())]
    return worker, nanny


def test_it_ends_with_one_label_for_each_requested_structure(campaign: Campaign) -> None:
    manifest = json.loads(campaign.directory.generation(1).manifest.read_text())
    assert campaign.directory.n_complete() == 2
    assert len(manifest["labels"]) == N_BOOTSTRAP + N_WALKERS
    assert {*manifest["labels"]} == {*LabelStore.in_folder(campaign.folder / "labels").keys()}


def test_no_label_that_was_finished_is_computed_again(campaign: Campaign) -> None:
    for finished, n_begun in campaign.finished_at_kill:
        again = finished & {structure for structure, _ in campaign.began()[n_begun:]}
        assert not again


def test_only_what_was_killed_is_computed_twice(campaign: Campaign) -> None:
    starts = Counter(structure for structure, _ in campaign.began())
    assert len(starts) == N_BOOTSTRAP + N_WALKERS
    # Each kill hit one label, that of the pool's process two, and that of the flow none; in the seconds in which a job
    # ends, its worker may have tried one more.
    assert sum(starts.values()) - len(starts) <= 8


def test_the_training_that_ran_when_the_flow_was_killed_is_joined(campaign: Campaign) -> None:
    assert campaign.trainer_input.stat().st_mtime_ns == campaign.trainer_began


def test_both_ways_to_start_mpi_gave_labels(campaign: Campaign) -> None:
    store = LabelStore.in_folder(campaign.folder / "labels")
    labels = [store.get(key) for key in [*store.keys()]]
    assert all(label is not None and label.provenance["program"] == "CP2K" for label in labels)
    processes = re.findall(r"GLOBAL\| Total number of message passing processes +(\d+)", "\n".join(outputs(campaign)))
    assert {*processes} <= {"2"}


def outputs(campaign: Campaign) -> list[str]:
    """The outputs of the calculations that were interrupted; those that ended well are removed."""
    return [path.read_text(errors="replace") for path in campaign.directory.scratch.glob("*/output.txt")]


def test_retries_are_visible_in_prefect(campaign: Campaign) -> None:
    names = {"label", "sample", "train"}
    retried = set()
    for run in task_runs(campaign.api_url):
        if run["run_count"] > 1:
            retried.add(run["name"].split()[0])
    assert retried >= names, retried


def task_runs(api_url: str) -> list[dict[str, object]]:
    runs: list[dict[str, object]] = []
    while True:
        found = post(api_url, "task_runs/filter", {"limit": 200, "offset": len(runs)})
        runs += found
        if len(found) < 200:
            return runs


def test_nothing_is_left(campaign: Campaign) -> None:
    wait_until(lambda: not campaign.cluster.queue(), lambda: f"in the queue: {campaign.cluster.queue()}")
    wait_until(lambda: not campaign.processes(), lambda: f"processes: {campaign.processes()}")


@pytest.mark.long
def test_the_same_call_again_starts_no_job(campaign: Campaign) -> None:
    n_begun = len(campaign.began())
    assert campaign.start(MPIRUN).wait(PATIENCE_S) == 0
    assert len(campaign.began()) == n_begun
