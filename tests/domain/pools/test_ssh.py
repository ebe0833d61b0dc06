"""Machines reached by ssh: their names, the command, and the meaning of its refusals. The rest is in test_ssh_pools."""

import asyncio
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Collection, Mapping, Sequence
from itertools import pairwise
from pathlib import Path

import pytest
from pydantic import ValidationError

from surveyor.errors import PoolFailed
from surveyor.pools.ec2.site import EC2Site
from surveyor.pools.machines import NoCapacity, Refused
from surveyor.pools.queues import Entry
from surveyor.pools.ssh import watch as ssh_watch
from surveyor.pools.ssh.command import Login, command_of, destination_of, login_of, refusal_of
from surveyor.pools.ssh.hosts import Hosts
from surveyor.pools.ssh.look import MARK, _read
from surveyor.pools.ssh.script import Order
from surveyor.pools.ssh.site import SSHSite
from surveyor.pools.ssh.tunnels import Tunnels
from surveyor.pools.ssh.watch import ENDED
from surveyor.pools.watch import plan


@pytest.mark.parametrize(
    ("host", "arguments"),
    [
        ("gpu1", ["-l", "ada", "--", "gpu1"]),
        ("eve@gpu1.example.org", ["-l", "eve", "--", "gpu1.example.org"]),
        ("203.0.113.7:41022", ["-p", "41022", "-l", "ada", "--", "203.0.113.7"]),
        ("eve@[2001:db8::1]:22", ["-p", "22", "-l", "eve", "--", "2001:db8::1"]),
        ("[fe80::1%eth0]", ["-l", "ada", "--", "fe80::1%eth0"]),
    ],
)
def test_names_of_machines(host: str, arguments: list[str]) -> None:
    assert destination_of(login_of(SSHSite(hosts=[host], user="ada")), host) == arguments


@pytest.mark.parametrize("host", ["-oProxyCommand=evil", "a@-b", "gpu1:0", "gpu 1", "", "a@b@c", "gpu1:22:22"])
def test_what_is_no_machine_is_refused(host: str) -> None:
    with pytest.raises(ValidationError, match="hosts"):
        SSHSite(hosts=[host])


def test_a_machine_is_named_once() -> None:
    with pytest.raises(ValidationError, match="found gpu1 twice"):
        SSHSite(hosts=["gpu1", "gpu2", "gpu1"])


def test_there_are_no_more_jobs_than_machines() -> None:
    site = SSHSite(hosts=["gpu1", "gpu2"], workers_per_job=2)
    assert site.most_workers == 4
    assert plan([], 100, site).n_submit == 2
    assert plan([], 100, SSHSite(hosts=["gpu1", "gpu2"], max_jobs=1)).n_submit == 1


def test_the_command_checks_keys_and_asks_nobody() -> None:
    site = SSHSite(hosts=["gpu1"], key_file=Path("/k"), config_file=Path("/c"), proxy_command="ssh -W %h:%p bastion")
    command = command_of(login_of(site), "gpu1", ["-R", "1:2:3"])
    assert command[:8] == ["ssh", "-T", "-F", "/c", "-i", "/k", "-o", "ProxyCommand=ssh -W %h:%p bastion"]
    options = [value for name, value in pairwise(command) if name == "-o"]
    assert {"StrictHostKeyChecking=yes", "BatchMode=yes", "ForwardAgent=no", "IdentitiesOnly=yes"} <= {*options}
    assert "ServerAliveInterval=15" in options
    assert command[-5:] == ["-R", "1:2:3", "--", "gpu1", "exec bash -s"]


@pytest.mark.skipif(shutil.which("ssh") is None, reason="needs ssh: apt-get install openssh-client")
def test_an_instance_is_known_by_its_id_and_its_own_keys_alone(tmp_path: Path) -> None:
    addressed, known = tmp_path / "told", tmp_path / "known"
    lax = tmp_path / "config"  # of a user who trusts everybody
    lax.write_text("Host *\n StrictHostKeyChecking no\n UserKnownHostsFile /dev/null\n HostName elsewhere\n")
    login = Login("ada", None, lax, f"echo %n %h | tee {addressed}", 15, address="203.0.113.2", known_keys=known)
    command = command_of(login, "i-0abc")
    effective = subprocess.run([command[0], "-G", *command[1:]], check=True, capture_output=True, text=True).stdout
    assert {
        "hostname 203.0.113.2",
        "hostkeyalias i-0abc",
        "stricthostkeychecking true",
        f"userknownhostsfile {known}",
        "globalknownhostsfile none",
    } <= {*effective.splitlines()}
    subprocess.run(command, check=False, capture_output=True, stdin=subprocess.DEVNULL)
    assert addressed.read_text() == "i-0abc 203.0.113.2\n"
    error = refusal_of(login, "i-0abc", "Host key verification failed.")
    assert isinstance(error, Refused)
    assert "ssh to i-0abc (203.0.113.2): its key is not the one that its console shows" in str(error)


@pytest.mark.parametrize(
    ("said", "kind", "words"),
    [
        ("ssh: Could not resolve hostname gpu1: Name or service not known", NoCapacity, "resolve"),
        ("kex_exchange_identification: Connection closed by remote host", NoCapacity, "closed"),
        ("@@@\n@ WARNING: REMOTE HOST IDENTIFICATION HAS CHANGED! @\n@@@", Refused, "compare its fingerprint"),
        ("ada@gpu1: Permission denied (publickey,password).", Refused, "ssh gpu1 true"),
        ("Error: remote port forwarding failed for listen port 0", Refused, "AllowTcpForwarding"),
        ("command-line: line 0: Bad configuration option: x", Refused, "Bad configuration option"),
        ("Something new", PoolFailed, "ssh to gpu1 says: Something new"),
    ],
)
def test_refusals(said: str, kind: type[Exception], words: str) -> None:
    error = refusal_of(login_of(SSHSite(hosts=["gpu1"])), "gpu1", said)
    assert type(error) is kind
    assert words in str(error)


def test_an_order_shows_no_secret_but_to_its_worker() -> None:
    order = Order("job", "tls://127.0.0.1:1", [2], ["tls://127.0.0.1:3"], "CERTIFICATE", "SECRET", 60, 600)
    assert "SECRET" not in repr(order)
    assert json.loads(order.line)["key"] == "SECRET"
    assert order.line.count("\n") == 1


def test_what_a_machine_says_is_read_between_other_lines() -> None:
    lines = ["welcome", f"{MARK}name node 7", f"{MARK}cores 8", f"{MARK}gpu NVIDIA A100", f"{MARK}gpu NVIDIA A100"]
    view = _read("gpu1", lines)
    assert (view.name, view.cores, view.gpus, view.unseen) == ("node 7", 8, ("NVIDIA A100",) * 2, ())


@pytest.mark.skipif(shutil.which("ssh") is None, reason="needs ssh: apt-get install openssh-client")
def test_a_job_of_a_former_process_may_run_until_it_says_its_end_or_has_not_heard_of_that_process_for_long(
    tmp_path: Path,
) -> None:
    hosts, job = Hosts("ssh/lab", SSHSite(hosts=["gpu1"]), tmp_path), "lab-1:gpu1"
    (tmp_path / "jobs").mkdir()
    output, state = tmp_path / "jobs" / "lab-1.out", tmp_path / "state.json"

    def entries() -> Mapping[str, Entry]:
        return asyncio.run(hosts.look([job]))

    state.write_text(json.dumps({"time": time.time()}))
    output.write_text("Registered\n")
    assert entries() == {job: Entry("ending")}
    output.write_text(f"Registered\n{ENDED}\n")
    assert entries() == {}
    output.unlink()
    assert entries() == {job: Entry("ending")}
    state.write_text(json.dumps({"time": time.time() - 60 - 30}))
    assert entries() == {}


class Running:
    """An instance that runs, and has shown no keys."""

    async def submit(self, name: str, *, firm: bool = False) -> str:
        return "i-0abc"

    async def look(self, jobs: Sequence[str]) -> Mapping[str, Entry]:
        return {"i-0abc": Entry("running", name="gpu-1")}

    async def cancel(self, jobs: Collection[str]) -> None:
        pass

    def output(self, job: str) -> str:
        return "nothing"

    def door(self, job: str) -> None:
        return None


@pytest.mark.skipif(shutil.which("ssh") is None, reason="needs ssh: apt-get install openssh-client")
@pytest.mark.parametrize(
    ("address", "jobs", "n_connecting"),
    [("tls://127.0.0.1:9", ["i-0abc"], 1), ("tls://127.0.0.1:9", [], 0), ("", ["i-0abc"], 0)],
)
def test_the_process_of_a_pool_alone_connects_to_its_instances_and_to_no_others(
    tmp_path: Path, address: str, jobs: list[str], n_connecting: int
) -> None:
    site = EC2Site(machine_image="ami-0", instance_types=["a.b"], subnets=["subnet-0"], security_groups=["sg-0"])
    login = Login("ada", None, None, None, 15)

    async def look() -> int:
        await Tunnels(Running(), site, login, tmp_path, address).look(jobs)
        return len(asyncio.all_tasks()) - 1

    assert asyncio.run(look()) == n_connecting


def test_the_workers_of_a_machine_end_when_nobody_wants_them(monkeypatch: pytest.MonkeyPatch) -> None:
    readable, writable = os.pipe()
    with os.fdopen(readable) as leash, subprocess.Popen(["sleep", "60"]) as worker:
        monkeypatch.setattr(sys, "stdin", leash)
        try:
            assert "lifetime of 0 s" in ssh_watch._watch(worker, lambda: True, orphan_s=60, lifetime_s=0.1)
            assert "not answered for 0 s" in ssh_watch._watch(worker, lambda: False, orphan_s=0.1, lifetime_s=60)
            os.close(writable)
            assert "the connection to the pool is closed" in ssh_watch._watch(worker, lambda: True, 60, 60)
        finally:
            worker.kill()
