"""Work on pools that share no disk: what is refused before it begins, and what `doctor` finds."""

from dataclasses import replace
from pathlib import Path

import ase.io
import pytest
import yaml
from ase.build import bulk
from distributed import LocalCluster
from object_stores import S3

from surveyor.benchmark import BENCHMARK
from surveyor.doctor.preflight import examine
from surveyor.doctor.results import Subject
from surveyor.errors import InputError
from surveyor.pools.choice import Pools, open_pools
from surveyor.pools.gcp.site import GCPSite
from surveyor.pools.site import WorkersSite
from surveyor.pools.sites import SchedulerSite, SLURMSite
from surveyor.run_directory import RunDirectory
from surveyor.works import workspaces
from surveyor.works.campaign import CAMPAIGN, CampaignParameters
from surveyor.works.workspaces import check_workspaces

FAR = "dask/far"


def campaign(folder: Path, labels: str | None = None) -> Path:
    ase.io.write(folder / "copper.extxyz", bulk("Cu", cubic=True))
    content = {
        "run_directory": "run",
        "walkers": [{"start": "copper.extxyz"}],
        "reference": {"emt": {}},
        "model": {"pair": {}},
        "pools": dict.fromkeys(("sampling", "labelling", "training"), FAR),
        **({"labels": labels} if labels else {}),
    }
    (folder / "campaign.yaml").write_text(yaml.safe_dump(content))
    return folder / "campaign.yaml"


def parameters(folder: Path, labels: str | None = None) -> CampaignParameters:
    return CAMPAIGN.load(campaign(folder, labels))


def far(workspace: str, address: str = "tcp://127.0.0.1:9") -> SchedulerSite:
    return SchedulerSite(address=address, workspace=workspace)


def test_labels_in_a_folder_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"labels: found the folder .*, expected a bucket .* pool dask/far has a work"):
        check_workspaces(parameters(tmp_path), {FAR: far("s3://bucket")}, {})


def test_a_bucket_that_is_missing_is_named_with_its_pool(tmp_path: Path, s3: S3) -> None:
    with pytest.raises(InputError, match=r"pool dask/far: workspace: s3://missing .*no such bucket"):
        check_workspaces(parameters(tmp_path, "s3://missing"), {FAR: far("s3://missing")}, {FAR: s3.access})


def test_a_benchmark_refuses_workers_that_do_not_see_its_folder(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"pool dask/far: found workspace s3://bucket, expected none, as a benchmark"):
        BENCHMARK.check_sites(parameters(tmp_path), None, {FAR: far("s3://bucket")})  # type: ignore[arg-type]


GOOGLE = {"project": "p-1", "zones": ["europe-west4-a"], "machine_types": ["g2-standard-8"]}
IMAGE = {"machine_image": "projects/p-1/global/images/i"}


@pytest.mark.parametrize(
    ("site", "advice"),
    [
        (SLURMSite(workspace="s3://bucket"), "surveyor pool open slurm/far$"),
        (GCPSite(**GOOGLE, **IMAGE, workspace="gs://bucket"), "pool open gcp/far; or reach .* connection: ssh"),
    ],
)
def test_jobs_that_have_to_see_the_folder_of_their_pool_are_refused_before_any_work(
    tmp_path: Path, site: WorkersSite, advice: str
) -> None:
    name = f"{site.kind}/far"
    with (
        pytest.raises(InputError, match=rf"Open the pool by hand, .*{advice}"),
        open_pools(Pools(training=name), {name: site}, tmp_path),
    ):
        pass


def test_a_copy_of_a_run_directory_has_another_part_of_the_bucket(tmp_path: Path) -> None:
    here, copy = RunDirectory(tmp_path / "here"), RunDirectory(tmp_path / "copy")
    name = workspaces._identifier(here)
    assert workspaces._identifier(here) == name
    copy.path.mkdir()
    copy.workspace.write_bytes(here.workspace.read_bytes())
    assert workspaces._identifier(copy) != name


def test_doctor_asks_for_the_workspace_instead_of_the_folders(tmp_path: Path, s3: S3) -> None:
    file, workspace = campaign(tmp_path), f"{s3.new_bucket()}/workspace"
    with LocalCluster(
        1, threads_per_worker=1, processes=False, protocol="tcp", dashboard_address="127.0.0.1:0"
    ) as cluster:
        site = far(workspace, cluster.scheduler_address)
        subject = Subject(file, CAMPAIGN.load(file), {FAR: site}, accesses={FAR: s3.access})
        results = {each.check: each for each in examine(subject) if each.where == FAR}
        bad = replace(subject, accesses={FAR: s3.access.model_copy(update={"endpoint": "http://127.0.0.1:9"})})
        (fault,) = [each for each in examine(bad) if each.where == FAR and each.check == "worker"]
    assert results["workspace"].severity == "good"
    assert results["workspace"].found == f"{workspace}: shared and writable"
    assert results["label store"].severity == "fault"
    assert results["reference"].severity == "good"
    assert "run directory" not in results
    assert fault.severity == "fault"
    assert "cannot be used" in fault.found
