"""Pools on simulated clouds: instances that come and go, what happens when anything dies, and that none is left.

What all clouds have in common is played on EC2, and for the most part once more on Compute Engine.
"""

import asyncio
import os
import signal
import socket
import ssl
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from cloud_scene import ORPHAN_S, Scene
from counted_work import names, work, work_until
from distributed import Security
from metal import SECRET, processes_of
from object_stores import S3
from processes import PATIENCE_S, wait_until
from remote_work import learn
from simulated_cloud import Fault, SimulatedCloud, simulated_cloud
from simulated_google import ZONES, SimulatedGoogle, simulated_google

from surveyor.doctor.one_pool import examine_pool
from surveyor.errors import PoolFailed
from surveyor.pools import watch
from surveyor.pools.clouds import instance_watch
from surveyor.pools.gcp.instances import sweep
from surveyor.pools.site_machines import machines_of
from surveyor.pools.submission import SubmitOptions
from surveyor.pools.workspace.workspace import Border, Workspace
from surveyor.storage.object_storage import storage_at

pytestmark = [pytest.mark.slow]


EC2Scene = Scene[SimulatedCloud]
AnyScene = EC2Scene | Scene[SimulatedGoogle]
FULL = {"code": "ZONE_RESOURCE_POOL_EXHAUSTED", "message": "The zone does not have enough resources available."}

on_each_cloud = pytest.mark.parametrize("rented", ["amazon", "google"], indirect=True)
on_amazon_and_at_length_on_google = pytest.mark.parametrize(
    "rented", ["amazon", pytest.param("google", marks=pytest.mark.long)], indirect=True
)


@pytest.fixture(scope="module")
def amazon() -> Iterator[SimulatedCloud]:
    with simulated_cloud() as cloud, pytest.MonkeyPatch.context() as environment:
        for name, value in cloud.environment.items():
            environment.setenv(name, value)
        environment.delenv("AWS_PROFILE", raising=False)
        yield cloud
        cloud.faults.clear()
        cloud.wait_for_the_end(PATIENCE_S)


@pytest.fixture(scope="module")
def google(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SimulatedGoogle]:
    with (
        simulated_google(tmp_path_factory.mktemp("credentials")) as cloud,
        pytest.MonkeyPatch.context() as environment,
    ):
        for name, value in cloud.environment.items():
            environment.setenv(name, value)
        yield cloud
        cloud.wait_for_the_end(PATIENCE_S)
        assert cloud.compute.complaints == []


@pytest.fixture
def scene(amazon: SimulatedCloud, tmp_path: Path) -> Iterator[EC2Scene]:
    """A pool on EC2."""
    scene = Scene(amazon, tmp_path)
    try:
        yield scene
    finally:
        amazon.faults.clear()
        scene.close()


@pytest.fixture
def rented(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[AnyScene]:
    """A pool on the cloud for which a test asks."""
    cloud = request.getfixturevalue(request.param)
    scene = Scene(cloud, tmp_path)
    try:
        yield scene
    finally:
        if isinstance(cloud, SimulatedCloud):
            cloud.faults.clear()
        else:
            cloud.compute.failures.clear()
        scene.close()


def disturb(cloud: SimulatedCloud | SimulatedGoogle) -> None:
    """Have Amazon's answer to the next request get lost, and the first zone of Google admit late that it is full."""
    if isinstance(cloud, SimulatedCloud):
        cloud.faults.append(Fault("RunInstances", None, times=3))  # as often as the client asks
    else:
        cloud.compute.failures, cloud.compute.n_slow = {ZONES[0]: {"errors": [FULL]}}, 1


@on_each_cloud
def test_instances_come_with_work_are_replaced_when_taken_away_and_leave_without_work(rented: AnyScene) -> None:
    """One that is taken away without a notice, which is no failure; one of which is heard late; and no secret."""
    scene, end = rented, rented.path / "end"
    pool = scene.open_pool(price_per_hour=3600.0, spot=True)
    future = pool.submit_with(SubmitOptions("a"), work_until, scene.log, "a", end)
    wait_until(lambda: names(scene.log, "begin") == ["a"], scene.said)
    (first,) = scene.instances()
    assert scene.cloud.file(first, "guard").read_text() == "--on-active=43200 poweroff\n"
    disturb(scene.cloud)
    n_requests = scene.cloud.n_requested()
    scene.cloud.take_away(first)
    wait_until(lambda: names(scene.log, "begin") == ["a", "a"], scene.said)
    end.touch()
    assert future.result(PATIENCE_S)
    # An instance of which nobody knew has worked, maybe before Amazon's client had asked for the last time.
    assert n_requests < scene.cloud.n_requested() <= n_requests + 3
    state = scene.folder.read_state() or {}
    assert state["spent"] > 1.0
    assert "gave no worker" not in scene.folder.log.read_text()
    pool.shutdown()
    scene.wait_for_the_end_of_the_pool()
    scene.cloud.wait_for_the_end(PATIENCE_S)
    written = [path.read_text(errors="replace") for path in scene.path.rglob("*") if path.is_file()]
    written += [path.read_text(errors="replace") for path in scene.cloud.folder.rglob("*") if path.is_file()]
    assert [text for text in written if SECRET in text] == []
    assert [text for text in written if "PRIVATE KEY" in text] == [(scene.folder.path / "key.pem").read_text()]


def test_doctor_starts_one_instance_looks_around_ends_it_and_says_what_it_cost(scene: EC2Scene) -> None:
    fields = {"price_per_hour": 3600.0, "instance_types": ["p4d.24xlarge", "g5.xlarge"]}
    results = {each.check: each for each in examine_pool("ec2/test", scene.site(**fields), scene.path)}
    assert {*results} == {"instance types", "worker", "run directory", "GPUs", "clock", "cost"}
    bad = {"GPUs"} if "lists none" in results["GPUs"].found else set()  # the types have some
    assert {name for name, each in results.items() if each.severity != "good"} == bad
    kinds = "p4d.24xlarge has 96 cores, 1237 GB, 8 GPUs; g5.xlarge has 4 cores, 17 GB, 1 GPU"
    assert results["instance types"].found == kinds
    assert float(results["cost"].found.partition(",")[0]) > 1.0
    assert scene.cloud.alive() == []
    assert [*scene.path.iterdir()] == []
    # What credentials may not do is named.
    scene.cloud.faults.append(Fault("RunInstances", "UnauthorizedOperation", "You are not authorized.", 403))
    scene.cloud.faults.append(Fault("DescribeInstanceTypes", "UnauthorizedOperation", "You are not authorized.", 403))
    types, fault = examine_pool("ec2/test", scene.site(), scene.path)
    assert "the permission ec2:DescribeInstanceTypes" in types.found
    assert (types.severity, fault.severity) == ("remark", "fault")
    assert "the permission ec2:RunInstances" in fault.found


@pytest.mark.long
def test_doctor_looks_at_the_workspace_and_names_what_it_cannot_end(
    scene: EC2Scene, s3: S3, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("AWS_ENDPOINT_URL", "AWS_REGION"):
        monkeypatch.setenv(name, s3.environment[name])
    scene.cloud.faults.append(Fault("TerminateInstances", "UnauthorizedOperation", "You are not authorized.", 403))
    site = scene.site(workspace=f"{s3.new_bucket()}/workspace", idle_minutes=1)
    results = list(examine_pool("ec2/test", site, scene.path, access=s3.access))
    assert [each.where for each in results if each.check == "workspace" and each.severity == "good"] == [
        *("here", "ec2/test")
    ]
    (fault,) = (each for each in results if each.check == "closing")
    instance = scene.cloud.requested("TerminateInstances")[-1]["InstanceId.1"]
    assert f"jobs {instance} of the pool" in fault.found
    assert "the permission ec2:TerminateInstances" in fault.found
    assert fault.remedy.startswith("surveyor pool sweep ec2/test --all")
    scene.wait_for_the_end_of(instance)  # by itself, as its worker has ended


@on_amazon_and_at_length_on_google
def test_when_the_process_of_a_pool_is_killed_its_instance_ends_by_itself_and_another_continues(
    rented: AnyScene,
) -> None:
    scene = rented
    scene.start(scene.open_pool(), "a", 300)
    (first,) = scene.instances()
    os.kill(scene.holder, signal.SIGKILL)
    scene.wait_for_the_end_of(first)
    assert scene.folder.read_holder() is None  # nobody has ended it
    assert scene.cloud.file(first, "off").exists()
    assert scene.open_pool().submit_with(SubmitOptions("a"), work, scene.log, "a", 0).result(PATIENCE_S)
    assert first not in scene.cloud.left()


@pytest.mark.parametrize("may_delete", [True, False])
def test_an_instance_of_google_that_ends_itself_leaves_no_disk_if_it_may_delete_itself(
    google: SimulatedGoogle, tmp_path: Path, *, may_delete: bool
) -> None:
    """Otherwise it is stopped, until a sweep deletes it."""
    scene = Scene(google, tmp_path)
    site = scene.site(prologue=["exit 3"], service_account="a@p-1.iam" if may_delete else None)
    security = Security(tls_ca_file="/pool/ca.pem", tls_worker_cert="/pool/ca.pem", tls_worker_key="/pool/k.pem")
    job = asyncio.run(machines_of("gcp/test", site, tmp_path, "tls://127.0.0.1:8786", security).submit("test-1"))
    wait_until(lambda: google.file(job, "off").exists() and job not in google.alive(), lambda: str(google.left()))
    assert google.left() == ([] if may_delete else [job])
    assert SECRET not in google.file(job, "console").read_text()
    assert [each.was_ended for each in sweep("gcp/test", site)] == ([] if may_delete else [True])
    google.wait_for_the_end(PATIENCE_S)


@on_amazon_and_at_length_on_google
def test_an_instance_whose_scheduler_is_silent_ends_by_itself(rented: AnyScene) -> None:
    """A machine that sleeps or hangs closes no connection. The guard of its prologue ends no instance that works."""
    scene = rented
    scene.start(scene.open_pool(), "a", 300)
    (instance,) = scene.instances()
    (guard,) = (each for each in processes_of(instance) if each.cmdline() == ["sleep", "600"])
    guard.kill()  # as if its time were over
    holder = scene.holder
    os.kill(holder, signal.SIGSTOP)
    try:
        scene.wait_for_the_end_of(instance)
        console = scene.cloud.file(instance, "console").read_text()
        assert f"has not answered for {ORPHAN_S:g} s: this instance ends" in console
    finally:
        os.kill(holder, signal.SIGCONT)


def test_work_of_a_spot_instance_that_is_taken_away_goes_to_one_on_demand_and_is_no_failure(
    scene: EC2Scene, s3: S3
) -> None:
    """It continues there from what it had at the notice, long before a checkpoint is due."""
    for name in ("run", "control"):
        (scene.path / name).mkdir()
    start, control, epochs = scene.path / "start", scene.path / "control", scene.path / "control" / "epochs"
    start.write_text("begun ")
    (control / "wait-2").touch()  # the first attempt comes to no end
    border = Border("ec2/test", s3.storage("workspace"), scene.path / "run", checkpoint_s=3600)
    workspace = Workspace(scene.open_pool(spot=True, on_demand_after=1), border)
    places = border.folder / "training", border.folder / "model"
    options = SubmitOptions("a", outputs=tuple(f"{place}/" for place in places), continues=True)
    future = workspace.submit_with(options, learn, start, *places, control=control, n_epochs=3)
    wait_until(lambda: epochs.exists() and epochs.read_text() == "0\n1\n", scene.said)
    (first,) = scene.instances()
    scene.cloud.announce(first, watch.HURRY_S + 8)
    assert future.result(PATIENCE_S).read_text() == "begun 3"
    workspace.shutdown()
    assert epochs.read_text() == "0\n1\n2\n"
    scene.wait_for_the_end_of(first)
    markets = [each.get("InstanceMarketOptions.MarketType") for each in scene.cloud.requested("RunInstances")[-2:]]
    assert markets == ["spot", None]


@pytest.mark.mount
def test_an_instance_that_does_not_see_the_folder_of_the_pool_fetches_its_certificate_once(
    scene: EC2Scene, s3: S3, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("AWS_ENDPOINT_URL", "AWS_REGION"):
        monkeypatch.setenv(name, s3.environment[name])
    monkeypatch.setattr(scene.cloud, "hidden", scene.path)
    bucket = s3.new_bucket()
    workspace = f"{bucket}/workspace"
    pool = scene.open_pool(workspace=workspace)
    assert pool.submit(os.listdir, scene.path).result(PATIENCE_S) == []
    assert list(storage_at(workspace, s3.access).list("")) == []
    name = bucket.removeprefix("s3://")
    verbs = [verb for verb, path in s3.requests if f"/{name}/" in path and "/credentials/" in path]
    assert verbs == ["PUT", "GET", "DELETE"]
    (instance,) = scene.instances()
    assert "PRIVATE KEY" not in scene.cloud.user_data(instance)


FLOW = """
import sys, time
from pathlib import Path
from counted_work import work
from surveyor.pools.cluster import cluster_pool
from surveyor.pools.pool_folder import PoolFolder
from surveyor.pools.submission import SubmitOptions

folder, log = Path(sys.argv[1]), Path(sys.argv[2])
name, site = PoolFolder(folder).read_site()
cluster_pool(name, site, folder).submit_with(SubmitOptions("a"), work, log, "a", 8)
time.sleep(300)
"""


@on_amazon_and_at_length_on_google
def test_when_the_flow_is_killed_its_work_is_finished_and_the_instance_leaves(rented: AnyScene) -> None:
    scene = rented
    scene.folder.make(scene.pool_name, scene.site())
    flow = subprocess.Popen([sys.executable, "-c", FLOW, str(scene.folder.path), str(scene.log)])
    try:
        wait_until(lambda: names(scene.log, "begin") == ["a"], scene.said)
    finally:
        flow.kill()
        flow.wait()
    (instance,) = scene.instances()
    scene.wait_for_the_end_of_the_pool()
    assert names(scene.log, "end") == ["a"]
    wait_until(lambda: instance not in scene.cloud.left(), scene.said)


def broken_prologue(scene: EC2Scene) -> None:
    with pytest.raises(PoolFailed, match=r"3 jobs in a row gave no worker[\s\S]*no shared folder here"):
        scene.open_pool(prologue=["echo no shared folder here", "exit 3"]).submit(abs, -1).result(PATIENCE_S)


def no_permission(scene: EC2Scene) -> None:
    scene.cloud.faults.append(Fault("RunInstances", "UnauthorizedOperation", "You are not authorized.", 403))
    with pytest.raises(PoolFailed, match=r"nor would another: EC2 refused.*the permission ec2:RunInstances"):
        scene.open_pool().submit(abs, -1).result(PATIENCE_S)


def no_capacity_and_then_a_budget(scene: EC2Scene) -> None:
    full = Fault("RunInstances", "InsufficientInstanceCapacity", "We have none.")
    scene.cloud.faults.append(full)
    pool = scene.open_pool(prologue=["sleep 300"], price_per_hour=3600.0, budget=3.0)
    future = pool.submit(abs, -1)
    wait_until(lambda: "no capacity" in str(pool.waiting), scene.said)
    assert not future.done()
    scene.cloud.faults.clear()
    with pytest.raises(PoolFailed, match=r"it has cost \d.\d\d, and its budget is 3"):
        future.result(PATIENCE_S)
    scene.wait_for_the_end_of_the_pool()
    assert (scene.folder.read_state() or {})["spent"] >= 3.0
    with pytest.raises(PoolFailed, match="its budget is 3"):  # opened again, it has nothing left
        scene.open_pool(price_per_hour=3600.0, budget=3.0).submit(abs, -1).result(PATIENCE_S)


@pytest.mark.parametrize("arrange", [broken_prologue, no_permission, no_capacity_and_then_a_budget])
def test_a_pool_without_a_worker_says_why(scene: EC2Scene, arrange: Callable[[EC2Scene], None]) -> None:
    arrange(scene)


def test_a_scheduler_that_accepts_no_handshake_does_not_answer() -> None:
    context = ssl.create_default_context()
    context.check_hostname = False
    with socket.create_server(("127.0.0.1", 0)) as deaf:
        address = f"tls://127.0.0.1:{deaf.getsockname()[1]}"
        assert not instance_watch.answers(address, context, 0.5)
