"""Pools on a simulated EC2 whose instances are reached by ssh alone: real sshd, router, laptop that falls asleep."""

import asyncio
import os
import re
import signal
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import psutil
import pytest
from cloud_scene import ORPHAN_S, Scene
from counted_work import names, work
from foreign_connections import PATHS
from metal import boot
from natted import ADDRESS, LAPTOP, OUTSIDE, ROUTER, Natted, network_and_bytes, settings_of_sshd
from pool_secrets import check_secrets
from processes import PATIENCE_S, wait_until
from simulated_cloud import SimulatedCloud
from simulated_compute import simulated_compute
from tunnelled_cloud import METADATA, tunnelled_cloud

from surveyor.doctor.one_pool import examine_pool
from surveyor.errors import PoolFailed, WorkerLost
from surveyor.pools import watch
from surveyor.pools.cluster import close_cluster_pool, cluster_pool
from surveyor.pools.gcp.site import GCPSite
from surveyor.pools.pool_folder import PoolFolder
from surveyor.pools.site_machines import machines_of
from surveyor.pools.submission import SubmitOptions

HOST_KEY = re.compile(r"(surveyor-host-key ssh-ed25519) \S+ ")

EC2Scene = Scene[SimulatedCloud]

pytestmark = [pytest.mark.ssh, pytest.mark.slow]


@pytest.fixture(scope="module")
def world() -> Iterator[tuple[Natted, SimulatedCloud]]:
    with tunnelled_cloud() as (net, cloud), pytest.MonkeyPatch.context() as environment:
        for name, value in cloud.environment.items():
            environment.setenv(name, value)
        environment.delenv("AWS_PROFILE", raising=False)
        yield net, cloud
        cloud.wait_for_the_end(PATIENCE_S)
        net.wait_until_idle(PATIENCE_S)


@pytest.fixture
def net(world: tuple[Natted, SimulatedCloud]) -> Natted:
    return world[0]


@pytest.fixture
def scene(world: tuple[Natted, SimulatedCloud], tmp_path: Path) -> Iterator[EC2Scene]:
    net, cloud = world
    fields = {"connection": "ssh", "ssh_user": "root", "ssh_key_file": net.folder / "user", "interface": None}
    scene = Scene(cloud, tmp_path, fields | {"prologue": [f"export PYTHONPATH={PATHS}", METADATA]})
    with net.inside(LAPTOP):
        try:
            yield scene
        finally:
            scene.close()


@contextmanager
def stopped(scene: EC2Scene) -> Iterator[None]:
    """Stop the process of a pool with all its children, as when their machine sleeps."""
    holder = psutil.Process(scene.holder)
    family = [holder, *holder.children(recursive=True)]
    with ExitStack() as ends:
        for process in family:
            process.suspend()
            ends.callback(process.resume)
        yield


@pytest.mark.long
def test_an_instance_is_reached_through_a_router_and_none_outlives_its_pool(
    scene: EC2Scene, net: Natted, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Secrets; an instance that Amazon wants back; a laptop that sleeps; a pool that is killed.

    The instances see a folder of the work, where it is counted, but not that of the pool.
    """
    scene.folder.path.mkdir()
    monkeypatch.setattr(scene.cloud, "boot", ("env", f"SIMULATED_HIDDEN={scene.folder.path}", *scene.cloud.boot))
    # The first instance is to stay until it is taken away, however long the steps before that take.
    pool = scene.open_pool(spot=True, on_demand_after=1, workspace="s3://nobody/asks-it", idle_minutes=1)
    network, content = pool.submit(network_and_bytes, 5_000_000).result(PATIENCE_S)
    assert (network, len(content)) == (net.namespace(OUTSIDE), 5_000_000)
    check_secrets(scene.folder)
    alive = {f"clientaliveinterval {int(ORPHAN_S / 4)}", "clientalivecountmax 3"}
    assert alive <= pool.submit(settings_of_sshd).result(PATIENCE_S)
    (first,) = scene.instances()
    script = scene.cloud.user_data(first)
    assert script.startswith("#!/bin/bash\nsystemd-run --on-active=43200 poweroff ||")
    assert "PRIVATE" not in script
    assert "BEGIN CERTIFICATE" not in script

    moved = scene.start(pool, "a", 300)
    scene.cloud.announce(first, watch.HURRY_S + 4)
    wait_until(lambda: names(scene.log, "begin") == ["a", "a"], scene.said)
    (second,) = (each for each in scene.instances() if each != first)  # with another host key at the same address

    with net.asleep(), stopped(scene):
        scene.wait_for_the_end_of(second)
        net.wait_until_idle(PATIENCE_S)
    assert (scene.cloud.folder / f"{second}.off").exists()
    with pytest.raises(WorkerLost):
        moved.result(PATIENCE_S)

    scene.start(pool, "b", 300)
    (third,) = scene.instances()
    os.kill(scene.holder, signal.SIGKILL)
    scene.wait_for_the_end_of(third)
    assert (scene.cloud.folder / f"{third}.off").exists()
    assert (
        scene.open_pool(workspace="s3://nobody/asks-it")
        .submit_with(SubmitOptions("b"), work, scene.log, "b", 0)
        .result(PATIENCE_S)
    )
    check_secrets(scene.folder)


def test_doctor_starts_an_instance_and_what_answers_in_its_place_gets_nothing(
    scene: EC2Scene, net: Natted, monkeypatch: pytest.MonkeyPatch
) -> None:
    fields = {"price_per_hour": 3600.0, "instance_types": ["c5.large"]}
    results = {each.check: each for each in examine_pool("ec2/test", scene.site(**fields), scene.path)}
    assert {*results} == {"instance types", "worker", "run directory", "GPUs", "clock", "cost"}
    assert {each.severity for each in results.values()} == {"good"}
    assert scene.cloud.alive() == []

    other = (net.folder / "stranger.pub").read_text().split()[1]
    monkeypatch.setattr(scene.cloud, "on_console", lambda text: HOST_KEY.sub(rf"\1 {other} ", text))
    message = r"nor would another: [\s\S]*not the one that its console shows[\s\S]*Host key verification failed"
    with pytest.raises(PoolFailed, match=message):
        scene.open_pool().submit(abs, -1).result(PATIENCE_S)
    assert list(scene.folder.path.glob("jobs/*.out")) != []
    assert [path for path in scene.folder.path.glob("jobs/*.out") if "Start" in path.read_text()] == []


def test_an_instance_with_other_versions_says_so_and_is_ended(scene: EC2Scene) -> None:
    with pytest.raises(PoolFailed, match=r"nor would another: [\s\S]*versions differ: /usr/bin/python3 on"):
        scene.open_pool(python="/usr/bin/python3").submit(abs, -1).result(PATIENCE_S)
    scene.cloud.wait_for_the_end(PATIENCE_S)


def test_an_instance_to_which_nobody_connects_ends_by_itself(scene: EC2Scene) -> None:
    """As when the laptop falls asleep while it boots."""
    machines = machines_of("ec2/test", scene.site(start_minutes=0.05), scene.path)
    instance = asyncio.run(machines.submit("test-1"))
    scene.wait_for_the_end_of(instance)
    console = (scene.cloud.folder / f"{instance}.console").read_text()
    assert "no worker was started within 3 s: this instance ends" in console


def test_a_user_whom_the_image_lacks_is_made_and_can_log_in(scene: EC2Scene, net: Natted) -> None:
    """By the key alone, also where sshd refuses locked accounts; and on the instance alone."""
    machines = machines_of("ec2/test", scene.site(ssh_user="ada-of-surveyor"), scene.path)
    instance = asyncio.run(machines.submit("test-1"))
    any_host = ("-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null", "-o", "BatchMode=yes")
    there = ("-i", str(net.folder / "user"), "-l", "ada-of-surveyor", ADDRESS)
    look = "id -un; pwd; stat -c %U /run/surveyor/leash"

    def seen() -> list[str]:
        return subprocess.run(["ssh", *any_host, *there, look], capture_output=True, text=True).stdout.split()

    console = (scene.cloud.folder / f"{instance}.console").read_text
    expected = ["ada-of-surveyor", "/home/ada-of-surveyor", "ada-of-surveyor"]
    wait_until(lambda: seen() == expected, console)
    asyncio.run(machines.cancel([instance]))
    scene.wait_for_the_end_of(instance)
    assert "ada-of-surveyor" not in Path("/etc/passwd").read_text()


def test_an_instance_of_google_is_reached_in_the_same_way_and_ends_by_itself(
    world: tuple[Natted, SimulatedCloud], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    net, cloud = world
    with net.inside(LAPTOP), simulated_compute() as compute:
        started: dict[str, subprocess.Popen[bytes]] = {}
        compute.boot = lambda name, script: started.update({name: boot(cloud, name, script)})
        compute.on_console = lambda name: (cloud.folder / f"{name}.console").read_text()
        compute.address = ADDRESS
        for name, value in compute.environment(tmp_path).items():
            monkeypatch.setenv(name, value)
        of_google = {"project": "p-1", "zones": ["europe-west4-a"], "machine_types": ["g2-standard-8"]}
        by_ssh = {"connection": "ssh", "ssh_user": "root", "ssh_key_file": net.folder / "user"}
        more = {
            "machine_image": "projects/p-1/global/images/i",
            "prologue": [f"export PYTHONPATH={PATHS}"],
        }
        folder = PoolFolder(tmp_path / "pool")
        pool = cluster_pool("gcp/test", GCPSite.model_validate({**of_google, **by_ssh, **more}), folder.path)
        try:
            assert pool.submit(network_and_bytes, 1).result(PATIENCE_S)[0] == net.namespace(OUTSIDE)
        finally:
            pool.shutdown()
            close_cluster_pool(folder)
        assert compute.instances == {}
        assert compute.complaints == []
        (process,) = started.values()
        process.wait(PATIENCE_S)


@contextmanager
def beside(net: Natted) -> Iterator[None]:
    """Be in the network of the instances, and a member of their security group."""
    rule = ("INPUT", "-s", "203.0.113.1", "-j", "ACCEPT")
    net.run(OUTSIDE, "iptables", "-I", *rule)
    with net.inside(ROUTER):
        yield
    net.run(OUTSIDE, "iptables", "-D", *rule)


def test_an_instance_beside_ends_by_itself_when_no_packet_of_its_pool_arrives(
    world: tuple[Natted, SimulatedCloud], tmp_path: Path
) -> None:
    net, cloud = world
    scene, drop = Scene(cloud, tmp_path, {"interface": "o1"}), ("INPUT", "-i", "o1", "-j", "DROP")
    with beside(net):
        try:
            scene.start(scene.open_pool(), "a", 300)
            (instance,) = scene.instances()
            net.run(ROUTER, "iptables", "-I", *drop)
            with stopped(scene):
                scene.wait_for_the_end_of(instance)
        finally:
            net.run(ROUTER, "iptables", "-F", "INPUT")
            scene.close()
    console = (cloud.folder / f"{instance}.console").read_text()
    assert f"has not answered for {ORPHAN_S:g} s: this instance ends" in console
