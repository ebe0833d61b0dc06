"""Pools on a machine outside of the network, through a real sshd: results, refusals, and that no worker is left.

The flow and the process of the pool are on a laptop behind a router, of which no packet leaves this machine.
"""

import asyncio
import os
import re
import signal
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import pytest
from counted_work import work
from foreign_connections import PATHS
from natted import ADDRESS, LAPTOP, OUTSIDE, Natted, natted, network_and_bytes, start_a_program
from pool_scene import PoolScene
from pool_secrets import check_secrets
from processes import PATIENCE_S, wait_until

from surveyor.doctor.host_checks import check_hosts
from surveyor.doctor.opened_pools import job_state
from surveyor.doctor.results import CheckResult
from surveyor.errors import PoolFailed, WorkerLost
from surveyor.files import write_json
from surveyor.pools import worker_check
from surveyor.pools.machines import NoCapacity, Refused
from surveyor.pools.pool import Pool
from surveyor.pools.pool_folder import PoolFolder
from surveyor.pools.ssh.hosts import Hosts
from surveyor.pools.ssh.site import SSHSite
from surveyor.pools.submission import SubmitOptions

ORPHAN_S = 15.0  # a machine that is overloaded does not answer at once
NOBODY = "127.0.0.1:9"  # nobody listens there

pytestmark = [pytest.mark.ssh, pytest.mark.slow]


@dataclass(frozen=True)
class Scene(PoolScene):
    """A pool, and what can be done to it."""

    pool_name = "ssh/test"

    net: Natted
    path: Path
    pools: list[Pool] = field(default_factory=list)

    @property
    def holder(self) -> psutil.Process:
        holder = self.folder.read_holder()
        assert holder is not None
        return psutil.Process(holder["pid"])

    def site(self, **fields: Any) -> SSHSite:
        plain = {"idle_minutes": 0.05, "orphan_minutes": ORPHAN_S / 60, "prologue": [f"export PYTHONPATH={PATHS}"]}
        return SSHSite.model_validate(self.net.fields | plain | fields)


@pytest.fixture(scope="module")
def shared_net() -> Iterator[Natted]:
    with natted() as net:
        yield net


@pytest.fixture
def scene(shared_net: Natted, tmp_path: Path) -> Iterator[Scene]:
    scene = Scene(shared_net, tmp_path)
    with shared_net.inside(LAPTOP):
        try:
            yield scene
        finally:
            scene.close()
            shared_net.wait_until_idle(PATIENCE_S)


def test_work_passes_through_a_router_and_no_worker_outlives_its_connection(scene: Scene) -> None:
    """Large results come; the key is nowhere; a connection that is killed; a laptop that sleeps."""
    pool = scene.open_pool()
    network, content = pool.submit(network_and_bytes, 20_000_000).result(PATIENCE_S)
    assert network == scene.net.namespace(OUTSIDE)
    assert len(content) == 20_000_000
    check_secrets(scene.folder)
    pool.submit(start_a_program).result(PATIENCE_S)
    assert "sleep" in {process.name() for process in scene.net.processes()}

    future = scene.start(pool, "a")
    (connection,) = scene.holder.children()
    assert connection.name() == "ssh"
    connection.kill()
    with pytest.raises(WorkerLost):
        future.result(ORPHAN_S)
    scene.net.wait_until_idle(ORPHAN_S)

    future = scene.start(pool, "b")
    with scene.net.asleep():
        scene.net.wait_until_idle(3 * ORPHAN_S + 2)  # a question without an answer takes as long again
        with pytest.raises(WorkerLost):
            future.result(ORPHAN_S)
    assert not list(Path("/tmp").glob("surveyor-worker-*"))


def test_when_the_process_of_a_pool_is_killed_its_worker_ends_and_another_continues(scene: Scene) -> None:
    pool = scene.open_pool(workers_per_job=2)
    scene.start(pool, "a")
    wait_until(lambda: (scene.folder.read_state() or {})["workers"] == 2, scene.said)
    holder = scene.holder
    assert job_state("ssh/test", scene.site(), scene.folder) == f"job pool-1:root@{ADDRESS} is running"
    os.kill(holder.pid, signal.SIGKILL)
    scene.net.wait_until_idle(ORPHAN_S)  # nobody has ended it
    output = scene.folder.path / "jobs" / "pool-1.out"
    wait_until(lambda: "the connection to the pool is closed" in output.read_text(), output.read_text)
    assert scene.open_pool().submit_with(SubmitOptions("a"), work, scene.log, "a", 0).result(PATIENCE_S)


def test_a_machine_with_other_versions_says_so_and_another_one_is_used(scene: Scene) -> None:
    good, other = f"root@{ADDRESS}", f"root@{ADDRESS}:2222"
    late = 'case "$SSH_CONNECTION" in *" 2222") python=/usr/bin/python3;; *) sleep 10;; esac'
    prologue = [*scene.site().prologue, late]
    pool = scene.open_pool(hosts=[other, good], prologue=prologue)
    futures = [pool.submit(abs, -1), pool.submit(abs, -2)]
    assert [future.result(PATIENCE_S) for future in futures] == [1, 2]
    assert f"{other}: versions differ" in scene.folder.log.read_text()
    scene.close()
    with pytest.raises(PoolFailed, match=r"nor would another: [\s\S]*versions differ: /usr/bin/python3 on .* surveyor"):
        scene.open_pool(python="/usr/bin/python3").submit(abs, -1).result(PATIENCE_S)


@pytest.fixture
def hosts(scene: Scene) -> Callable[..., Hosts]:
    """A function that returns the machines of a pool which has no scheduler."""

    def hosts_with(path: Path = scene.folder.path, **fields: Any) -> Hosts:
        folder = PoolFolder(path)
        path.mkdir(exist_ok=True)
        folder.check.write_text(Path(worker_check.__file__).read_text())
        write_json(folder.versions, worker_check.this_side())
        return Hosts("ssh/test", scene.site(**fields), path, "tls://127.0.0.1:9", folder.make_certificates())

    return hosts_with


def submitted(hosts: Hosts) -> str:
    """Submit a job, wait for its end, and return what it printed."""

    async def submit() -> str:
        job = await hosts.submit("job")
        try:
            async with asyncio.timeout(PATIENCE_S):
                while await hosts.look([job]):
                    await asyncio.sleep(0.1)
        finally:
            await hosts.cancel([job])
        return hosts.output(job)

    return asyncio.run(submit())


ENDS = ("cat", "echo no licence", "exit 1")  # the first one takes all of its input


def test_what_a_machine_lacks_is_said(scene: Scene, hosts: Callable[..., Hosts]) -> None:
    assert "there is no interpreter /no/python on" in submitted(hosts(python="/no/python"))
    assert "no licence" in submitted(hosts(prologue=ENDS))
    unclosed = hosts(prologue=["echo 'unclosed"])
    said = submitted(unclosed)
    assert "unexpected EOF" in said
    check_secrets(unclosed.folder)
    unseen = scene.net.unseen / "pool"
    assert f"does not see the folder {unseen}" in submitted(hosts(unseen))
    (scene.net.unseen / "far").mkdir()
    far = Scene(scene.net, scene.net.unseen / "far")
    try:  # with a workspace, it does not have to
        pool = far.open_pool(workspace="s3://nobody/asks-it")
        assert pool.submit(os.path.exists, far.path).result(PATIENCE_S) is False
    finally:
        far.close()


def test_refusals_are_told_apart_and_other_machines_are_used(scene: Scene, hosts: Callable[..., Hosts]) -> None:
    outside, net = f"root@{ADDRESS}", scene.net.folder
    (net / "empty").write_text(f"UserKnownHostsFile {net}/none\nGlobalKnownHostsFile none\n")
    with pytest.raises(Refused, match=rf"host key is known for {ADDRESS}.*accept it by hand: ssh -F .* {ADDRESS}$"):
        submitted(hosts(config_file=net / "empty"))
    with pytest.raises(
        Refused, match=rf"Permission denied \(publickey.*: ssh -F .* -i {net}/stranger -l root {ADDRESS} true$"
    ):
        submitted(hosts(key_file=net / "stranger"))
    with pytest.raises(Refused, match=r"port forwarding failed.*AllowTcpForwarding yes"):
        submitted(hosts(key_file=net / "restricted"))
    with pytest.raises(NoCapacity, match=f"ssh to {NOBODY} says: .*Connection refused"):
        submitted(hosts(hosts=[NOBODY]))
    assert "no licence" in submitted(hosts(hosts=[NOBODY, outside], prologue=ENDS))
    through = f"ssh -F {net}/config -i {net}/user -W %h:%p {outside}"
    assert "no licence" in submitted(hosts(proxy_command=through, prologue=ENDS))


def test_doctor_looks_at_each_machine(scene: Scene) -> None:
    seen, unseen, outside = scene.path, scene.net.unseen / "new", f"root@{ADDRESS}"
    unseen.mkdir(exist_ok=True)
    site = scene.site(hosts=[outside, NOBODY])

    def results(folder: Path, **options: bool) -> list[CheckResult]:
        return list(check_hosts("ssh/test", site, {"run directory": folder}, **{"wants_gpu": False, **options}))

    good, away = results(seen)
    assert good.severity == "good"
    assert re.search(rf"{outside} \(\S+\): the same versions, \d+ cores?, \d+ GPUs?", good.found)
    assert (away.severity, "Connection refused" in away.found) == ("remark", True)
    blind, _ = results(unseen)
    assert (blind.severity, f"does not see what was written here into {unseen.parent}" in blind.found) == (
        "fault",
        True,
    )
    other = scene.site(python="/usr/bin/python3")
    (different,) = check_hosts("ssh/test", other, {}, wants_gpu=False)
    assert (different.severity, "versions differ" in different.found) == ("fault", True)
