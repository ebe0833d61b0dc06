"""The scripts that would be submitted, for all schedulers; SLURM's run for real in test_cluster.py."""

import asyncio
import signal
from pathlib import Path
from typing import Any

import pytest
from distributed import Security

from surveyor.errors import PoolFailed
from surveyor.pools.jobs import CERTAIN, PASSING, Jobs, QueueSilent
from surveyor.pools.sites import JOB_QUEUES, JobQueueSite, SLURMSite

COMMON = {
    "cores_per_job": 8,
    "gpus_per_job": 1,
    "memory_GB": 16,
    "walltime_minutes": 90,
    "queue": "long",
    "account": "chem",
    "python": "/opt/env/bin/python",
    "prologue": ["module load cp2k"],
    "interface": "ib0",
    "scratch": Path("/scratch/my jobs"),
}


def script(kind: str, tmp_path: Path, **fields: Any) -> list[str]:
    site = JOB_QUEUES[kind].model_validate({**COMMON, **fields})
    return Jobs(site, tmp_path, "tls://10.0.0.1:8786", None, "check.py").script("genoa-1").splitlines()


def directives(kind: str, prefix: str, tmp_path: Path, **fields: Any) -> list[str]:
    lines = script(kind, tmp_path, **fields)
    return [line.removeprefix(prefix).strip() for line in lines if line.startswith(prefix)]


def test_slurm_directives(tmp_path: Path) -> None:
    found = directives("slurm", "#SBATCH", tmp_path, tasks_per_job=4, directives=["--exclusive"])
    assert {*found} >= {
        "-J genoa-1",
        "-p long",
        "-A chem",
        "-N 1",
        "-n 4",
        "--cpus-per-task=2",
        "--mem=15G",
        "-t 01:30:00",
        "--gres=gpu:1",
        "--no-requeue",
        f"--chdir={tmp_path}",
        "--exclusive",
        f"-o {tmp_path}/jobs/genoa-1-%J.out",
    }
    assert sum(line.startswith("-n") for line in found) == sum("cpus-per-task" in line for line in found) == 1


def test_directives_that_the_cluster_refuses_are_left_out(tmp_path: Path) -> None:
    found = directives("slurm", "#SBATCH", tmp_path, skip_directives=["--mem", "--gres", "-A"])
    assert not [line for line in found if line.startswith(("--mem", "--gres", "-A"))]
    assert "-n 1" in found


def test_pbs_directives(tmp_path: Path) -> None:
    found = directives("pbs", "#PBS", tmp_path, directives=["-W group_list=chem"])
    assert {*found} >= {
        "-N genoa-1",
        "-q long",
        "-A chem",
        "-l select=1:ncpus=8:mpiprocs=8:mem=16000mb:ngpus=1",
        "-l walltime=01:30:00",
        "-r n",
        "-W group_list=chem",
    }
    assert "-l nodes=1:ppn=8" in directives("pbs", "#PBS", tmp_path, resources="nodes=1:ppn=8")


def test_lsf_directives(tmp_path: Path) -> None:
    found = directives("lsf", "#BSUB", tmp_path)
    assert {*found} >= {
        "-J genoa-1",
        "-q long",
        '-P "chem"',
        "-n 8",
        '-R "span[hosts=1]"',
        "-W 01:30",
        "-rn",
        '-gpu "num=1"',
    }


def test_grid_engine_directives(tmp_path: Path) -> None:
    found = directives("sge", "#$", tmp_path, parallel_environment="smp", resources="gpu=1")
    assert {*found} >= {"-N genoa-1", "-q long", "-P chem", "-pe smp 8", "-l gpu=1", "-l h_rt=01:30:00", "-r n"}


def test_oar_directives(tmp_path: Path) -> None:
    found = directives("oar", "#OAR", tmp_path, gpus_per_job=0)
    assert {*found} >= {"-n genoa-1", "-q long", "--project chem", "-l /nodes=1/core=8,walltime=01:30:00"}
    assert "-l /nodes=1/gpu=1,walltime=01:30:00" in directives("oar", "#OAR", tmp_path)
    assert f"-O {tmp_path}/jobs/%jobid%.out" in found


def test_htcondor_description(tmp_path: Path) -> None:
    found = script("htcondor", tmp_path, disk_GB=5, directives=["+Project = chem"])
    assert {*found} >= {
        "MY.DaskWorkerCores = 8",
        "MY.DaskWorkerMemory = 16000000000",
        "MY.DaskWorkerDisk = 5000000000",
        "RequestGpus = 1",
        "accounting_group = chem",
        "periodic_remove = JobStatus == 2 && time() - EnteredCurrentStatus > 5400",
        "+Project = chem",
        "Queue",
    }


@pytest.mark.parametrize("kind", list(JOB_QUEUES))
def test_a_job_checks_its_environment_and_starts_its_workers(kind: str, tmp_path: Path) -> None:
    fields = {"parallel_environment": "smp"} if kind == "sge" else {}
    fields |= {"workers_per_job": 2, "gpus_per_job": 0, "prologue": ["# for CP2K", "module load cp2k"]}
    text = "\n".join(script(kind, tmp_path, **fields))
    in_order = [
        "SURVEYOR_JOB_BEGIN=`date +%s`",
        "SURVEYOR_JOB_WALLTIME_S=5400",
        "OMP_NUM_THREADS=4",
        "hwloc_base_binding_policy=none",
        "module load cp2k",
        "/opt/env/bin/python check.py || exit 1",
        "/opt/env/bin/python -m distributed.cli.dask_worker tls://10.0.0.1:8786 --name genoa-1",
        "--nanny",
        "my jobs",
        "--nthreads 1 --nworkers 2 --memory-limit 0",
        "--interface ib0",
    ]
    positions = [text.index(each) for each in in_order]
    assert positions == sorted(positions)
    # HTCondor expands $(...) itself, and has the prologue in one line, which a comment would end.
    assert "# for CP2K" not in text
    assert "$(date" not in text


def test_certificates_reach_the_workers_by_path_alone(tmp_path: Path) -> None:
    security = Security(
        tls_ca_file="/pool/ca.pem", tls_worker_cert="/pool/c.pem", tls_worker_key="/pool/k.pem", require_encryption=True
    )
    text = Jobs(SLURMSite(), tmp_path, "tls://10.0.0.1:1", security).script("a")
    assert "--tls-ca-file /pool/ca.pem" in text
    assert "--tls-key /pool/k.pem" in text


def test_ctrl_c_still_interrupts_after_a_script_was_written(tmp_path: Path) -> None:
    before = signal.getsignal(signal.SIGINT)
    Jobs(SLURMSite(), tmp_path, "tcp://10.0.0.1:1").script("a")
    assert signal.getsignal(signal.SIGINT) is before


@pytest.mark.parametrize("site", [site() for site in JOB_QUEUES.values()], ids=list(JOB_QUEUES))
def test_a_missing_command_is_said(site: JobQueueSite, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    jobs = Jobs(site, tmp_path, "tcp://10.0.0.1:1")
    with pytest.raises(PoolFailed, match=r"sbatch|qsub|bsub|oarsub|condor_submit"):
        asyncio.run(jobs.submit("a"))
    with pytest.raises(QueueSilent):
        asyncio.run(jobs.look(["1"]))


def test_the_output_of_a_job_is_shown_by_its_last_lines(tmp_path: Path) -> None:
    jobs = Jobs(SLURMSite(), tmp_path, "tcp://10.0.0.1:1")
    assert "printed nothing" in jobs.output("7")
    jobs.outputs.mkdir(exist_ok=True)
    (jobs.outputs / "pool-1-7.out").write_text("\n".join(f"line {i}" for i in range(100)))
    (jobs.outputs / "pool-1-77.out").write_text("another job")
    assert "line 99" in jobs.output("7")
    assert "another job" not in jobs.output("7")
    assert "line 1\n" not in jobs.output("7")


@pytest.mark.parametrize(
    "said",
    [
        "sbatch: error: Batch job submission failed: Unable to contact slurm controller (connect failure)",
        "sbatch: error: Batch job submission failed: Zero Bytes were transmitted or received",
        "slurm_load_jobs error: Socket timed out on send/recv operation",
        'error: unable to send message to qmaster using port 6444 on host "master": got send error; Connection refused',
        "Failed in LSF library call: LSF is down. Please wait ...",
        "ERROR: Can't find address of local schedd",
    ],
)
def test_a_controller_that_is_away_has_refused_nothing(said: str, tmp_path: Path) -> None:
    assert PASSING.search(said)
    assert not PASSING.search("sbatch: error: invalid partition specified: nowhere")


@pytest.mark.parametrize(
    ("said", "is_certain"),
    [
        (
            "sbatch: error: Batch job submission failed: Invalid account or account/partition combination specified",
            True,
        ),
        ("sbatch: error: Batch job submission failed: Invalid qos specification", True),
        (
            "sbatch: error: Batch job submission failed: Requested time limit is invalid (missing or exceeds limit)",
            True,
        ),
        ("qsub: submit error (Unknown queue MSG=cannot locate queue)", True),
        ("qsub: Job violates queue and/or server resource limits", False),
        ("qsub: submit error (Job exceeds queue resource limits MSG=cannot satisfy queue max mem requirement)", True),
        ("long1: No such queue. Job not submitted.", True),
        ('Unable to run job: Job was rejected because job requests unknown queue "long1".', True),
        ('job rejected: the requested parallel environment "nosuch" does not exist', True),
        ('job rejected: the requested project "nosuch" does not exist', True),
        ('Unable to run job: unknown resource "nosuch"', True),
        ('Unable to read script file because of error: invalid option argument "-nosuch"', True),
        ("ERROR : The queue nosuch does not exist", True),
        ("There are not enough resources for your request", True),
        ('Bad resource request (ERROR:  column "gpu" does not exist', True),
        ("/!\\ Cannot recognize -- ,walltime=nonsense -- resource", True),
        ("Unknown option: nosuch", True),
        ("sbatch: unrecognized option '--nosuch'", True),
        ('sbatch: error: unrecognized --cpu-freq argument "x"', True),
        ("sbatch: error: Invalid --mem-per-cpu specification", True),
        ("sbatch: error: invalid --profile=x option", True),
        ('sbatch: error: Invalid numeric value "x" for --cpus-per-task.', True),
        ('sbatch: error: "x" is not a valid node count', True),
        ("[ADMISSION RULE] Only member of the group admin can submit jobs in the admin queue", False),
        ("sbatch: error: QOSMaxSubmitJobPerUserLimit", False),
        ("sbatch: error: Batch job submission failed: Required partition not available (inactive or drain)", False),
        ("sbatch: error: Batch job submission failed: Requested partition configuration not available now", False),
    ],
)
def test_what_a_queue_refuses_now_may_be_taken_later_and_what_it_cannot_give_is_refused_for_good(
    said: str, is_certain: bool
) -> None:
    assert bool(CERTAIN.search(said)) is is_certain


def test_the_folder_of_jobs_is_written_as_the_queue_shows_it(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    jobs = Jobs(SLURMSite(), tmp_path / "link", "tcp://10.0.0.1:1")
    assert f"--chdir={tmp_path}/real" in jobs.script("a")
    assert jobs.folder == tmp_path / "real"
