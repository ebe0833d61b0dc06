"""Each fault is there for real, and is found with the line that fixes it."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from importlib import metadata
from pathlib import Path
from typing import Any

import ase.io
import pytest
import yaml
from ase import Atoms
from ase.build import bulk
from object_stores import S3, Fault
from prefect_server import ended_at_last
from processes import wait_until
from slurm import SlurmCluster

import surveyor
from surveyor.doctor.one_pool import examine_pool
from surveyor.doctor.preflight import check_overlap, examine
from surveyor.doctor.probe import Question, WorkerView
from surveyor.doctor.results import CheckResult, Subject
from surveyor.doctor.worker_checks import AskedForCampaign, check_cores, check_gpus, wants_gpu
from surveyor.lease import hold_lease
from surveyor.pools.choice import plain_site
from surveyor.pools.sites import LocalSite, SchedulerSite, Site, SLURMSite
from surveyor.storage.buckets import client_of
from surveyor.storage.object_storage import storage_at
from surveyor.works.campaign import CAMPAIGN

CP2K_INPUT = """
&FORCE_EVAL
  &DFT
    BASIS_SET_FILE_NAME GTH_BASIS_SETS
    POTENTIAL_FILE_NAME GTH_POTENTIALS
    &SCF
      MAX_SCF 40
    &END
    &XC
      &XC_FUNCTIONAL PBE
      &END
    &END
  &END
  &SUBSYS
    &KIND H
      BASIS_SET SZV-GTH
      POTENTIAL GTH-PBE-q1
    &END
  &END
&END
"""
CONTENT = {
    "run_directory": "runs/one",
    "walkers": [{"start": "copper.extxyz"}],
    "reference": {"emt": {}},
    "model": {"pair": {}},
}
CP2K = {"reference": {"cp2k": {"input": "hydrogen.inp"}}}
needs_cp2k = pytest.mark.cp2k

Examine = Callable[..., list[CheckResult]]


@pytest.fixture
def examine_campaign(tmp_path: Path) -> Examine:
    """Looks at a campaign in the test's folder; what is given replaces fields of a good campaign file."""
    ase.io.write(tmp_path / "copper.extxyz", bulk("Cu", cubic=True))
    ase.io.write(tmp_path / "hydrogen.extxyz", Atoms("H2", [[0, 0, 0], [0, 0, 0.74]]))
    (tmp_path / "hydrogen.inp").write_text(CP2K_INPUT)

    def look(sites: dict[str, Site] | None = None, wait_s: float = 60.0, **changes: Any) -> list[CheckResult]:
        start = "hydrogen.extxyz" if "reference" in changes else "copper.extxyz"
        content = CONTENT | {"walkers": [{"start": start, "n_walkers": 2}]}
        file = tmp_path / "campaign.yaml"
        file.write_text(yaml.safe_dump(content | changes))
        parameters = CAMPAIGN.load(file)
        plain = {name: site for name in parameters.pools.names if (site := plain_site(name)) is not None}
        return list(examine(Subject(file, parameters, plain | (sites or {}), wait_s=wait_s)))

    return look


def all_on(name: str) -> dict[str, str]:
    return {"sampling": name, "labelling": name, "training": name}


def faults(findings: Sequence[CheckResult]) -> list[CheckResult]:
    return [finding for finding in findings if finding.severity == "fault"]


def the_fault(findings: Sequence[CheckResult]) -> CheckResult:
    (found,) = faults(findings)
    return found


def found(findings: Sequence[CheckResult], check: str, severity: str = "good") -> str:
    (finding,) = [each for each in findings if each.check == check and each.severity == severity]
    return finding.found


@contextmanager
def dask_pool(folder: Path, python: Sequence[str | Path] = (sys.executable,)) -> Iterator[SchedulerSite]:
    """Run a Dask scheduler with one worker.

    Args:
        folder: for their logs.
        python: starts the worker's interpreter.
    """
    file = folder / "scheduler.json"
    scheduler = [sys.executable, "-m", "distributed.cli.dask_scheduler", "--host", "127.0.0.1", "--port", "0"]
    options = ["--no-dashboard", "--scheduler-file", str(file)]
    worker = [*map(str, python), "-m", "distributed.cli.dask_worker", "--scheduler-file", str(file), "--no-nanny"]
    log = folder / "worker.log"
    with ExitStack() as stack:
        stack.enter_context(
            ended_at_last([*scheduler, *options], log=folder / "scheduler.log", environment=dict(os.environ))
        )
        wait_until(file.exists, (folder / "scheduler.log").read_text)
        process = ended_at_last([*worker, "--nthreads", "1", "--no-dashboard"], log=log, environment=dict(os.environ))
        stack.enter_context(process)
        wait_until(lambda: "Starting established connection" in log.read_text(), log.read_text)
        yield SchedulerSite(address=yaml.safe_load(file.read_text())["address"])


def under_mount(options: str, source: Path | str, target: Path) -> list[str]:
    """Return what starts Python where something else is mounted on a folder, for it alone."""
    mount = f'mount {options} {source} {target} && exec {sys.executable} "$@"'
    return ["unshare", "--mount", "sh", "-c", mount, "sh"]


def can_mount() -> bool:
    return os.geteuid() == 0 and shutil.which("unshare") is not None


needs_mounts = pytest.mark.skipif(not can_mount(), reason="needs root, to mount what the worker alone sees")


def test_nothing_is_found_in_a_good_campaign_and_nothing_is_left_of_the_search(
    examine_campaign: Examine, tmp_path: Path
) -> None:
    log = tmp_path / "launches.log"
    counting = {"log": str(log)}
    findings = examine_campaign(reference={"emt": {"rehearsal": counting}}, walkers=[{"start": "copper.extxyz"}])
    assert faults(findings) == []
    assert "level of theory EMT" in found(findings, "reference")
    assert f"surveyor {metadata.version('surveyor')}" in found(findings, "worker")
    assert not log.exists()
    assert not (tmp_path / "runs").exists()


def test_a_campaign_on_disk_stays_as_it_is(examine_campaign: Examine, tmp_path: Path) -> None:
    examine_campaign()
    with CAMPAIGN.open(CAMPAIGN.load(tmp_path / "campaign.yaml")) as campaign:
        directory = campaign.directory
    before = {path: path.stat().st_mtime_ns for path in directory.path.rglob("*")}
    findings = examine_campaign()
    assert faults(findings) == []
    assert "continues after 0 complete generations" in found(findings, "continuation")
    assert {path: path.stat().st_mtime_ns for path in directory.path.rglob("*")} == before


def test_other_parameters_than_those_on_disk(examine_campaign: Examine, tmp_path: Path) -> None:
    examine_campaign()
    with CAMPAIGN.open(CAMPAIGN.load(tmp_path / "campaign.yaml")):
        pass
    fault = the_fault(examine_campaign(learning={"seed": 7}))
    assert "learning.seed: 0 there, 7 here" in fault.found
    assert fault.remedy.startswith(f"run_directory: {tmp_path / 'runs/one-2'}")


def test_a_missing_start_file_and_all_else_is_looked_at(examine_campaign: Examine, tmp_path: Path) -> None:
    findings = examine_campaign(walkers=[{"start": "nowhere.extxyz"}])
    fault = the_fault(findings)
    assert f"file {tmp_path / 'nowhere.extxyz'} does not exist" in fault.found
    assert fault.remedy.startswith(f"edit {tmp_path / 'campaign.yaml'}")
    assert found(findings, "worker")


def test_a_run_directory_in_use(examine_campaign: Examine, tmp_path: Path) -> None:
    with hold_lease(tmp_path / "runs/one/lease"):
        fault = the_fault(examine_campaign())
    assert f"is in use by process {os.getpid()}" in fault.found
    assert fault.remedy.startswith(f"kill {os.getpid()}")


def test_a_label_store_that_is_a_file(examine_campaign: Examine, tmp_path: Path) -> None:
    (tmp_path / "labels").write_text("")
    fault = the_fault(examine_campaign(labels="labels"))
    assert f"{tmp_path / 'labels'} cannot be written" in fault.found
    assert fault.remedy.startswith("labels: FOLDER")


def test_a_program_that_is_not_there(examine_campaign: Examine) -> None:
    fault = the_fault(examine_campaign(**CP2K, codes={"cp2k": {"command": "cp2k.nowhere"}}))
    assert "program 'cp2k.nowhere' was not found" in fault.found
    assert fault.remedy.startswith("codes: {cp2k: {command: /FULL/PATH/cp2k.psmp}}")


@needs_cp2k
def test_program_input_and_data_files_of_cp2k(examine_campaign: Examine, tmp_path: Path) -> None:
    findings = examine_campaign(**CP2K)
    assert faults(findings) == []
    assert found(findings, "reference").startswith("CP2K 20")

    (tmp_path / "data").mkdir()
    fault = the_fault(examine_campaign(**CP2K, codes={"cp2k": {"data_directory": "data"}}))
    assert f"the data file 'GTH_BASIS_SETS' cannot be read in {tmp_path / 'data'}" in fault.found
    assert fault.remedy.startswith("codes: {cp2k: {data_directory: FOLDER}}")


@needs_cp2k
def test_an_input_that_this_cp2k_does_not_take(examine_campaign: Examine, tmp_path: Path) -> None:
    # Known since version 2024.1; Debian's is older.
    text = CP2K_INPUT.replace("MAX_SCF 40", "IGNORE_CONVERGENCE_FAILURE T")
    (tmp_path / "hydrogen.inp").write_text(text)
    fault = the_fault(examine_campaign(**CP2K))
    assert "unknown keyword IGNORE_CONVERGENCE_FAILURE" in fault.found
    assert fault.remedy.startswith(f"edit {tmp_path / 'hydrogen.inp'}")


@pytest.mark.parametrize(
    ("pool", "site", "line"),
    [
        ("local", LocalSite(cores=2), "pools: {labelling: local/NAME}  # a block with cores_per_worker: 6"),
        ("local/laptop", LocalSite(cores=2), "cores_per_worker: 6  # in block local/laptop"),
    ],
)
def test_more_ranks_and_threads_than_cores(pool: str, site: Site, line: str, examine_campaign: Examine) -> None:
    code = {"command": "mpirun -np 3 cp2k.nowhere", "omp_threads": 2}
    findings = examine_campaign({pool: site}, **CP2K, codes={"cp2k": code}, pools={"labelling": pool})
    fault = next(each for each in faults(findings) if each.check == "cores")
    assert fault.found == "3 ranks of 2 threads: 6 cores; a worker has 1"
    assert fault.remedy.startswith(line)


def the_view(**fields: Any) -> WorkerView:
    known = {"time": 0.0, "host": "node7", "python": "python", "versions": {}, "cores": 2, "folders": {}}
    unknown = {"scratch": None, "visible": None, "gpus": (), "torch_gpus": None}
    return WorkerView(**{**known, **unknown, **fields})


@pytest.mark.parametrize(
    ("name", "site", "fields"),
    [
        ("slurm/cpu", SLURMSite(cores_per_job=4), {}),
        ("slurm/two", SLURMSite(cores_per_job=8, workers_per_job=2), {}),
        ("local/laptop", LocalSite(cores=4, cores_per_worker=4), {}),
        ("slurm/gpu", SLURMSite(gpus_per_job=1, cores_per_job=4), {"cores": 4}),
        ("local/gpu", LocalSite(gpus=1, gpus_per_worker=1, cores_per_worker=4), {"cores": 4}),
    ],
)
def test_what_a_block_asks_for_already_is_not_the_advice(
    name: str, site: Site, fields: dict[str, Any], tmp_path: Path
) -> None:
    code = {"command": "mpirun -np 4 cp2k.psmp"}
    campaign = {**CONTENT, **CP2K, "codes": {"cp2k": code}, "pools": all_on(name)}
    (tmp_path / "campaign.yaml").write_text(yaml.safe_dump(campaign))
    parameters = CAMPAIGN.load(tmp_path / "campaign.yaml")
    question = Question("answer", {}, wants_gpu=wants_gpu(parameters, name, site))
    asked = AskedForCampaign(name, site, question, the_view(**fields), 0.0, parameters)
    fault = faults([*check_gpus(asked), *check_cores(asked)])[0]
    if fault.check == "cores":
        assert fault.found == f"4 ranks of 1 thread: 4 cores; block {name} asks for 4, node7 has 2"
    else:
        assert fault.found.startswith(f"block {name} asks for 1; node7: nvidia-smi lists 0")
    for setting in ("cores_per_job", "cores_per_worker", "gpus_per_job", "gpus_per_worker"):
        assert f"{setting}:" not in fault.remedy


def test_a_node_with_fewer_cores_than_the_block_asks_for_is_told_whatever_runs_there(tmp_path: Path) -> None:
    (tmp_path / "campaign.yaml").write_text(yaml.safe_dump({**CONTENT, "pools": all_on("slurm/cpu")}))
    parameters = CAMPAIGN.load(tmp_path / "campaign.yaml")
    site, question = SLURMSite(cores_per_job=4), Question("answer", {})
    asked = AskedForCampaign("slurm/cpu", site, question, the_view(), 0.0, parameters)
    (finding,) = check_cores(asked)
    assert (finding.severity, finding.found) == ("remark", "block slurm/cpu asks for 4, node7 has 2")


def test_a_local_pool_larger_than_the_machine(examine_campaign: Examine) -> None:
    site = LocalSite(cores_per_worker=4096)
    fault = the_fault(examine_campaign({"local/laptop": site}, pools=all_on("local/laptop")))
    assert "cores_per_worker: found 4096, expected at most" in fault.found
    assert fault.remedy.startswith("edit block local/laptop")


def test_no_gpu_where_the_model_wants_one(examine_campaign: Examine) -> None:
    findings = examine_campaign(model={"mace": {"device": "cuda"}})
    (fault,) = [each for each in faults(findings) if each.check == "GPUs"]
    assert "nvidia-smi lists 0" in fault.found
    begin = "pools: {…}  # for sampling and labelling and training, a pool with GPUs; or model: {"
    assert fault.remedy.startswith(begin)


def test_a_walltime_below_the_time_limit_of_a_label(examine_campaign: Examine, monkeypatch) -> None:
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}")  # no sbatch: the pool itself cannot open
    site = SLURMSite(walltime_minutes=30)
    code = {"command": "cp2k.nowhere", "timeout_minutes": 45}
    findings = examine_campaign({"slurm/cpu": site}, **CP2K, codes={"cp2k": code}, pools=all_on("slurm/cpu"))
    walltime, worker = faults(findings)
    assert "a label may take 45 min" in walltime.found
    assert walltime.remedy.startswith("walltime_minutes: 46  # lower the time limit")
    assert "sbatch" in worker.found
    assert worker.remedy.startswith("edit block slurm/cpu")


def test_a_pool_that_would_wait_for_walkers_and_trainings(tmp_path: Path) -> None:
    ase.io.write(tmp_path / "copper.extxyz", bulk("Cu", cubic=True))
    (tmp_path / "campaign.yaml").write_text(yaml.safe_dump(CONTENT | {"pools": {"labelling": "slurm/genoa"}}))
    parameters = CAMPAIGN.load(tmp_path / "campaign.yaml")
    site = SLURMSite(max_jobs=3, cores_per_job=2, workers_per_job=2)
    (found,) = check_overlap(Subject(tmp_path / "campaign.yaml", parameters, {"slurm/genoa": site}))
    assert (found.check, found.where, found.severity) == ("overlap", "slurm/genoa", "remark")
    assert "computes up to 6 labels at once" in found.found
    assert "n_states: 12 and labels_ahead: 24 would keep it busy" in found.found


def test_a_scheduler_that_is_away(examine_campaign: Examine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("surveyor.pools.address.CONNECT_S", 0.5)
    fault = the_fault(examine_campaign(pools={"training": "tcp://127.0.0.1:9"}))
    assert "no Dask scheduler answered at tcp://127.0.0.1:9" in fault.found
    assert fault.remedy.startswith("dask scheduler  # so that it listens at tcp://127.0.0.1:9")


@needs_mounts
def test_folders_that_the_worker_does_not_share(examine_campaign: Examine, tmp_path: Path) -> None:
    for name in ("one", "labels"):
        (tmp_path / "runs" / name).mkdir(parents=True)
    command = under_mount("-t tmpfs", "none", tmp_path / "runs")
    with dask_pool(tmp_path, command) as site:
        findings = examine_campaign(pools=all_on(site.address))
    run_directory, label_store = faults(findings)
    assert run_directory.found.endswith(f"does not see what was written here into {tmp_path / 'runs/one'}")
    assert run_directory.remedy.startswith("run_directory: FOLDER  # on a disk that")
    assert label_store.found.endswith(f"does not see what was written here into {tmp_path / 'runs/labels'}")
    assert label_store.remedy.startswith("labels: FOLDER  # on a disk that")


@needs_mounts
def test_a_label_store_that_the_worker_may_only_read(examine_campaign: Examine, tmp_path: Path) -> None:
    store = tmp_path / "runs" / "labels"
    store.mkdir(parents=True)
    with dask_pool(tmp_path, under_mount("-o bind,ro", store, store)) as site:
        fault = the_fault(examine_campaign(pools=all_on(site.address)))
    assert fault.found.endswith(f"cannot write into {store}: Read-only file system")
    assert fault.remedy.startswith("labels: FOLDER  # that")


@needs_mounts
def test_a_disk_that_is_almost_full(examine_campaign: Examine, tmp_path: Path) -> None:
    store = tmp_path / "labels"
    store.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "none", store], check=True)
    try:
        fault = the_fault(examine_campaign(labels="labels"))
    finally:
        subprocess.run(["umount", store], check=True)
    assert "but only 0.00 GB are free" in fault.found
    assert fault.remedy.startswith("labels: FOLDER  # with more space")


def other_environment(folder: Path) -> Path:
    """Return an interpreter that has all that this one has, but another version of surveyor."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
    (packages,) = folder.glob("lib/python*/site-packages")
    path = [entry for entry in sys.path if entry.endswith("site-packages")]
    # Modules come from here; of the metadata, those that are found first count.
    sources = [str(Path(surveyor.__file__).parents[1])]
    (packages / "real.pth").write_text("\n".join([*path, *sources, "import surveyor"]))
    information = packages / "surveyor-0.0.1.dist-info"
    information.mkdir()
    (information / "METADATA").write_text("Metadata-Version: 2.1\nName: surveyor\nVersion: 0.0.1\n")
    return folder / "bin" / "python"


def test_a_worker_with_another_version_of_surveyor(examine_campaign: Examine, tmp_path: Path) -> None:
    python = other_environment(tmp_path / "other")
    with dask_pool(tmp_path, [python]) as site:
        fault = the_fault(examine_campaign(pools={"training": site.address}))
    version = metadata.version("surveyor")
    assert f"has surveyor 0.0.1 (here {version})" in fault.found
    assert fault.remedy.startswith("pip install ")
    assert f" surveyor=={version} " in fault.remedy


@pytest.mark.slurm
@pytest.mark.slow
def test_jobs_on_a_cluster(examine_campaign: Examine, tmp_path: Path, slurm_cluster: SlurmCluster) -> None:
    site = SLURMSite(queue="cpu", interface="lo", memory_GB=1, walltime_minutes=10, min_jobs=2)
    other = site.model_copy(update={"python": str(other_environment(tmp_path / "other"))})
    wrong = site.model_copy(update={"queue": "nowhere"})
    gpu = site.model_copy(update={"queue": "gpu", "gpus_per_job": 1})
    sites = {"slurm/good": site, "slurm/other": other, "slurm/gpu": gpu}
    pools = {"sampling": "slurm/other", "labelling": "slurm/good", "training": "slurm/gpu"}
    findings = examine_campaign(sites, pools=pools)
    by_pool = {fault.where: fault for fault in faults(findings)}
    assert {*by_pool} == {"slurm/other", "slurm/gpu"}
    assert "has surveyor 0.0.1 (there" in by_pool["slurm/other"].found
    assert by_pool["slurm/other"].remedy.startswith("pip install ")
    assert "nvidia-smi lists 0" in by_pool["slurm/gpu"].found
    assert by_pool["slurm/gpu"].found.startswith("block slurm/gpu asks for 1; ")
    assert by_pool["slurm/gpu"].remedy.startswith("queue: …  # in block slurm/gpu, one whose nodes have GPUs")
    assert "level of theory EMT" in found(findings, "reference")

    fault = the_fault(examine_campaign({"slurm/wrong": wrong}, pools={"training": "slurm/wrong"}))
    assert "sbatch refused a job" in fault.found
    assert fault.remedy.startswith("edit block slurm/wrong  # queue")

    slurm_cluster.hold("cpu")
    try:
        findings = examine_campaign({"slurm/good": site}, wait_s=8, pools={"labelling": "slurm/good"})
    finally:
        slurm_cluster.release("cpu")
    assert faults(findings) == []
    assert "is pending (PartitionDown)" in found(findings, "worker", "remark")
    wait_until(lambda: not slurm_cluster.queue(), lambda: str(slurm_cluster.queue()))
    assert not (tmp_path / "runs").exists()


@pytest.fixture
def ambient_s3(s3: S3, monkeypatch: pytest.MonkeyPatch) -> S3:
    """A service that is reached by what the environment says."""
    for name, value in s3.environment.items():
        monkeypatch.setenv(name, value)
    client_of.cache_clear()
    return s3


def refusing_to(worker: str) -> Fault:
    """Return the fault of a service that lets a worker write nothing."""
    return Fault(status="403 Forbidden", is_refused=lambda method, path: f"from-{worker}" in path and method == "PUT")


def test_workers_are_asked_whether_they_reach_the_bucket(examine_campaign: Examine, ambient_s3: S3) -> None:
    address = f"{ambient_s3.new_bucket()}/labels"
    findings = examine_campaign(labels=address)
    assert faults(findings) == []
    assert [(each.where, each.found) for each in findings if each.check == "label store"] == [
        ("here", f"{address}: writable; of several writers of one object, exactly one wins"),
        ("local", f"{address}: shared and writable"),
    ]
    assert list(storage_at(address).list("")) == []

    with ambient_s3.failing(refusing_to("local")):
        fault = the_fault(examine_campaign(labels=address))
    assert (fault.check, fault.where) == ("label store", "local")
    assert f"cannot use {address}: " in fault.found
    with ambient_s3.failing(Fault(removed=("HTTP_IF_NONE_MATCH",))):
        fault = the_fault(examine_campaign(labels=address, pools=all_on("slurm/not-asked")))
    assert (fault.check, fault.where) == ("label store", "here")
    assert "of two writers of one object, both succeed" in fault.found


def test_one_pool_without_a_campaign_is_asked_whether_it_reaches_its_workspace(ambient_s3: S3, tmp_path: Path) -> None:
    address = f"{ambient_s3.new_bucket()}/workspace"
    with dask_pool(tmp_path) as plain:
        site = plain.model_copy(update={"workspace": address})

        def look() -> list[CheckResult]:
            return list(examine_pool("dask/far", site, tmp_path, wait_s=60.0))

        findings = look()
        assert faults(findings) == []
        assert {each.check for each in findings} == {"workspace", "worker", "GPUs", "clock"}
        assert [(each.where, each.found) for each in findings if each.check == "workspace"] == [
            ("here", f"{address}: writable; of several writers of one object, exactly one wins"),
            ("dask/far", f"{address}: shared and writable"),
        ]
        assert list(storage_at(address).list("")) == []

        with ambient_s3.failing(refusing_to("dask-far")):
            fault = the_fault(look())
        assert (fault.check, fault.where) == ("workspace", "dask/far")
        assert f"cannot use {address}: " in fault.found
    with ambient_s3.failing(Fault(removed=("HTTP_IF_NONE_MATCH",))):
        (fault,) = look()  # nobody listens at the address, which is not asked
    assert (fault.check, fault.where) == ("workspace", "here")
    assert "of two writers of one object, both succeed" in fault.found
