"""Requests for instances, by real HTTP to a simulated EC2; whole pools on it are in test_rented_pools.py."""

import asyncio
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from distributed import Security
from metal import SECRET
from processes import wait_until
from simulated_cloud import Fault, SimulatedCloud, simulated_cloud

from surveyor.errors import InputError, PoolFailed
from surveyor.pools.clouds.ssh_door import Door, host_keys_in
from surveyor.pools.ec2 import instances as ec2
from surveyor.pools.ec2.instances import Instances, sweep
from surveyor.pools.ec2.site import EC2Site
from surveyor.pools.machines import NoCapacity, QueueSilent, Refused
from surveyor.pools.site import Price
from surveyor.pools.site_machines import machines_of
from surveyor.pools.spending import Spending

END_S = 60.0  # so long may the end of an instance take on a machine that is overloaded
PLAIN = {
    "machine_image": "ami-0abc",
    "instance_types": ["g5.xlarge"],
    "subnets": ["subnet-0abc"],
    "security_groups": ["sg-0abc"],
}


@pytest.fixture(scope="module")
def shared_cloud() -> Iterator[SimulatedCloud]:
    """Instances of it do nothing: their interpreter is missing."""
    with simulated_cloud() as cloud:
        yield cloud


@pytest.fixture
def cloud(shared_cloud: SimulatedCloud, monkeypatch: pytest.MonkeyPatch) -> Iterator[SimulatedCloud]:
    for name, value in shared_cloud.environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("AWS_PROFILE", raising=False)
    shared_cloud.requests.clear()
    yield shared_cloud
    shared_cloud.faults.clear()
    if alive := shared_cloud.alive():
        shared_cloud.client.terminate_instances(InstanceIds=alive)


def instances(cloud: SimulatedCloud, folder: Path, **fields: Any) -> Instances:
    site = EC2Site.model_validate(cloud.fields(**{"prologue": ["sleep 60"], **fields}))
    security = Security(tls_ca_file="/pool/ca.pem", tls_worker_cert="/pool/ca.pem", tls_worker_key="/pool/k.pem")
    return Instances("ec2/gpu", site, folder, "tls://127.0.0.1:8786", security, "/pool/check.py /pool/versions.json")


def said_by(cloud: SimulatedCloud, job: str) -> str:
    console = cloud.folder / f"{job}.console"
    return console.read_text() if console.exists() else ""


def test_an_instance_ends_itself_is_marked_and_asks_for_safe_metadata(cloud: SimulatedCloud, tmp_path: Path) -> None:
    fields = {"disk_GB": 80, "lifetime_minutes": 90, "start_minutes": 10, "tags": ["project=water"]}
    pool = instances(cloud, tmp_path, **fields)
    job = asyncio.run(pool.submit("gpu-1"))
    (found,) = (each for each in cloud.instances() if each["InstanceId"] == job)
    assert (found["InstanceType"], found["SubnetId"]) == ("g5.xlarge", cloud.ids["subnets"][0])
    assert [group["GroupId"] for group in found["SecurityGroups"]] == cloud.ids["security_groups"]
    (asked,) = cloud.requested("RunInstances")
    assert asked["InstanceInitiatedShutdownBehavior"] == "terminate"
    assert (asked["MetadataOptions.HttpTokens"], asked["MetadataOptions.HttpPutResponseHopLimit"]) == ("required", "1")
    assert asked["BlockDeviceMapping.1.Ebs.DeleteOnTermination"] == "true"
    assert asked["BlockDeviceMapping.1.Ebs.VolumeSize"] == "80"
    assert len(asked["ClientToken"]) <= 64
    of_volume = cloud.client.describe_volumes(Filters=[{"Name": "attachment.instance-id", "Values": [job]}])["Volumes"]
    for tags in (found["Tags"], of_volume[0]["Tags"]):
        by_key = {tag["Key"]: tag["Value"] for tag in tags}
        assert by_key.keys() == {
            "Name",
            "project",
            *(f"surveyor-{key}" for key in ("pool", "folder", "owner", "expires")),
        }
        assert (by_key["surveyor-pool"], by_key["surveyor-owner"]) == ("ec2/gpu", ec2.owner())
        left = datetime.fromisoformat(by_key["surveyor-expires"]) - datetime.now(UTC)
        assert timedelta(minutes=90) < left < timedelta(minutes=101)


def test_the_first_act_of_an_instance_is_to_set_its_end(cloud: SimulatedCloud, tmp_path: Path) -> None:
    pool = instances(
        cloud,
        tmp_path,
        lifetime_minutes=90,
        workers_per_job=2,
        orphan_minutes=2,
        python="/opt/env/python",
        instance_types=["c5.large"],
    )
    text = cloud.user_data(asyncio.run(pool.submit("gpu-1")))
    lines = text.splitlines()
    assert lines[1].startswith("systemd-run --on-active=5400 poweroff ||")
    assert lines[2] == "trap poweroff EXIT"
    assert lines[3] == "systemctl set-default poweroff.target || exit 1"
    in_order = [
        "sleep 900\n",
        "SURVEYOR_JOB_WALLTIME_S=5400",
        "OMP_NUM_THREADS=$threads",
        "hwloc_base_binding_policy=none",
        "sleep 60",
        "setpriv --reuid=",
        f"tee -a {tmp_path}/jobs/gpu-1.out",
        "/opt/env/python /pool/check.py /pool/versions.json </dev/null || exit 1",
        "/opt/env/python -m surveyor.pools.clouds.instance_watch tls://127.0.0.1:8786 120 - /pool/ca.pem",
        "distributed.cli.dask_worker tls://127.0.0.1:8786 --name gpu-1 --nthreads 1 --nworkers 2 --memory-limit 0",
        "--death-timeout 900",
        "--tls-key /pool/k.pem",
    ]
    positions = [text.index(each) for each in in_order]
    assert positions == sorted(positions)
    assert subprocess.run(["bash", "-n"], input=text, text=True, check=False).returncode == 0
    assert len(text) < 4000


def test_an_instance_that_is_rebooted_ends(cloud: SimulatedCloud, tmp_path: Path) -> None:
    """Its timer and its script are gone then, and a pool that has died does not end it."""
    job = asyncio.run(instances(cloud, tmp_path, prologue=["echo mounting", "sleep 300"]).submit("gpu-1"))
    wait_until(lambda: "mounting" in said_by(cloud, job), lambda: said_by(cloud, job))
    assert job in cloud.alive()
    cloud.reboot(job)
    wait_until(lambda: job not in cloud.alive(), lambda: said_by(cloud, job), END_S)


def test_an_instance_whose_prologue_hangs_ends_without_its_pool(cloud: SimulatedCloud, tmp_path: Path) -> None:
    """Also where the prologue waits for all of its children."""
    prologue = ["sleep 1 &", "wait", "echo mounting", "sleep 300"]
    job = asyncio.run(instances(cloud, tmp_path, prologue=prologue, start_minutes=0.05).submit("gpu-1"))
    wait_until(lambda: job not in cloud.alive(), lambda: said_by(cloud, job), END_S)
    said = ["mounting", "no worker was started within 3 s: this instance ends"]
    assert said_by(cloud, job).splitlines() == said


def test_user_data_that_ec2_would_not_take_is_refused(cloud: SimulatedCloud, tmp_path: Path) -> None:
    with pytest.raises(Refused, match=r"bytes of user data, expected at most 16384"):
        asyncio.run(instances(cloud, tmp_path, prologue=["x" * 17000]).submit("gpu-1"))
    assert cloud.requested("RunInstances") == []


@pytest.mark.parametrize(
    ("types", "workers", "complaint"),
    [
        (["c5.large", "g5.xlarge"], 2, r"found 2, expected 1, as g5.xlarge has 4 cores, 17 GB, 1 GPU and all workers"),
        (["c5.large"], 3, r"found 3, expected at most 2, as c5.large has 2 cores, 4 GB, and each worker"),
        (["c5.large"], 2, None),
    ],
)
def test_workers_that_do_not_fit_into_an_instance_are_refused_before_it_costs_something(
    cloud: SimulatedCloud, tmp_path: Path, types: list[str], workers: int, complaint: str | None
) -> None:
    pool = instances(cloud, tmp_path, instance_types=types, workers_per_job=workers)
    if complaint is None:
        asyncio.run(pool.submit("gpu-1"))
    else:
        with pytest.raises(Refused, match=complaint):
            asyncio.run(pool.submit("gpu-1"))
    assert len(cloud.requested("RunInstances")) == (complaint is None)


def test_where_there_is_no_capacity_the_next_zone_and_the_next_type_are_asked(
    cloud: SimulatedCloud, tmp_path: Path
) -> None:
    pool = instances(cloud, tmp_path, instance_types=["p5.48xlarge", "g5.xlarge"])
    full = Fault("RunInstances", "InsufficientInstanceCapacity", "We do not have sufficient capacity.")
    full.concerns = lambda form: form["InstanceType"] == "p5.48xlarge"
    cloud.faults.append(full)
    job = asyncio.run(pool.submit("gpu-1"))
    asked = [(form["InstanceType"], form["SubnetId"]) for form in cloud.requested("RunInstances")]
    first, second = cloud.ids["subnets"]
    assert asked == [("p5.48xlarge", first), ("p5.48xlarge", second), ("g5.xlarge", first)]
    tokens = [form["ClientToken"] for form in cloud.requested("RunInstances")]
    assert len({*tokens}) == 3
    assert cloud.alive() == [job]


@pytest.mark.parametrize(
    ("code", "status", "message", "kind", "complaint"),
    [
        ("InsufficientInstanceCapacity", 400, "We do not have it.", NoCapacity, r"We do not have it"),
        ("Unsupported", 400, "not supported in your zone", Refused, r"no zone of the pool offers"),
        (
            "VcpuLimitExceeded",
            400,
            "You have requested more vCPU capacity than your current vCPU limit of 0 allows.",
            Refused,
            r"of g5.xlarge \(VcpuLimitExceeded\).*limit of 0.*G and VT instances \(L-DB2E81BA\)",
        ),
        ("VolumeLimitExceeded", 400, "too much", Refused, r"Raise that quota \(VolumeLimitExceeded\)"),
        (
            "RequestResourceCountExceeded",
            400,
            "too much",
            Refused,
            r"Raise that quota \(RequestResourceCountExceeded\)",
        ),
        (
            "MaxSpotInstanceCountExceeded",
            400,
            "too many",
            Refused,
            r"All G and VT Spot Instance Requests \(L-3819A6DF\)",
        ),
        ("SpotMaxPriceTooLow", 400, "Your price is too low.", NoCapacity, r"Your price is too low"),
        ("UnfulfillableCapacity", 400, "We have no spare one.", NoCapacity, r"We have no spare one"),
        ("InsufficientVolumeCapacity", 500, "We have no volume.", NoCapacity, r"We have no volume"),
        ("VolumeTypeNotAvailableInZone", 400, "no io2 here", Refused, r"no zone of the pool offers"),
        (
            "UnauthorizedOperation",
            403,
            "You are not authorized. User: arn:aws:iam::1:user/ada is not authorized to perform: ec2:CreateTags on "
            "resource: x Encoded authorization failure message: c2VjcmV0",
            Refused,
            r"Give the credentials the permission ec2:CreateTags$",
        ),
        ("InvalidSubnetID.NotFound", 400, "no such subnet", Refused, r"InvalidSubnetID.NotFound\): no such subnet"),
        ("RequestLimitExceeded", 503, "slow down", QueueSilent, r"slow down"),
        ("InternalError", 500, "oops", QueueSilent, r"oops"),
    ],
)
def test_a_refusal_says_whether_to_wait_to_ask_elsewhere_or_to_give_up(
    cloud: SimulatedCloud, tmp_path: Path, code: str, status: int, message: str, kind: type[Exception], complaint: str
) -> None:
    cloud.faults.append(Fault("RunInstances", code, message, status))
    with pytest.raises(kind, match=complaint) as failure:
        asyncio.run(instances(cloud, tmp_path).submit("gpu-1"))
    assert type(failure.value) is kind
    assert "c2VjcmV0" not in str(failure.value)
    assert cloud.alive() == []


@pytest.mark.parametrize(
    ("code", "entry", "first"),
    [
        ("Server.InsufficientInstanceCapacity", (True, False), 1),
        ("Client.VolumeLimitExceeded", (False, True), 0),
        ("Client.InvalidSnapshot.NotFound", (False, True), 0),
    ],
)
def test_a_refusal_of_an_instance_that_was_accepted_is_no_failed_job_and_the_next_zone_is_asked(
    cloud: SimulatedCloud, tmp_path: Path, code: str, entry: tuple[bool, bool], first: int
) -> None:
    pool = instances(cloud, tmp_path)
    job = asyncio.run(pool.submit("gpu-1"))
    cloud.take_away(job, code, f"{code}: we are sorry")
    found = asyncio.run(pool.look([job]))[job]
    assert (found.is_refused, found.is_certain, found.name) == (*entry, "gpu-1")
    assert "EC2 refused g5.xlarge after it had accepted it" in found.reason
    assert ("Raise that quota (VolumeLimitExceeded)" in found.reason) == (code == "Client.VolumeLimitExceeded")
    assert asyncio.run(pool.look([])) == {}
    asyncio.run(pool.submit("gpu-2"))
    assert cloud.requested("RunInstances")[-1]["SubnetId"] == cloud.ids["subnets"][first]


def test_a_request_whose_answer_was_lost_starts_no_second_instance(cloud: SimulatedCloud, tmp_path: Path) -> None:
    cloud.faults.append(Fault("RunInstances", None, times=1))
    job = asyncio.run(instances(cloud, tmp_path).submit("gpu-1"))
    assert len(cloud.requested("RunInstances")) == 2
    assert cloud.alive() == [job]


def test_the_instances_of_a_folder_are_found_whoever_started_them_and_no_others(
    cloud: SimulatedCloud, tmp_path: Path
) -> None:
    pool, folder = instances(cloud, tmp_path), tmp_path / "other"
    folder.mkdir()
    job, other = asyncio.run(pool.submit("gpu-1")), asyncio.run(instances(cloud, folder).submit("gpu-1"))
    assert job != other
    again = instances(cloud, tmp_path)
    assert {job: entry.state for job, entry in asyncio.run(again.look([])).items()} == {job: "running"}
    asyncio.run(again.cancel([job, job]))
    asyncio.run(again.cancel([job, "i-0123456789abcdef0"]))
    assert asyncio.run(again.look([job])) == {}
    assert cloud.alive() == [other]


def test_an_instance_that_is_not_shown_yet_is_not_over(cloud: SimulatedCloud, tmp_path: Path) -> None:
    pool = instances(cloud, tmp_path)
    job = asyncio.run(pool.submit("gpu-1"))
    cloud.client.create_tags(Resources=[job], Tags=[{"Key": "surveyor-folder", "Value": "not yet"}])
    assert asyncio.run(pool.look([]))[job].state == "pending"
    asyncio.run(pool.cancel([job]))
    assert asyncio.run(pool.look([])) == {}


def test_an_instance_that_ended_at_once_is_over(cloud: SimulatedCloud, tmp_path: Path) -> None:
    pool = instances(cloud, tmp_path)
    cloud.client.terminate_instances(InstanceIds=[asyncio.run(pool.submit("gpu-1"))])
    assert asyncio.run(pool.look([])) == {}


def test_a_stopped_instance_which_costs_its_disk_is_to_be_ended(cloud: SimulatedCloud, tmp_path: Path) -> None:
    pool = instances(cloud, tmp_path)
    job = asyncio.run(pool.submit("gpu-1"))
    asyncio.run(pool.look([]))
    cloud.client.stop_instances(InstanceIds=[job])
    entry = asyncio.run(pool.look([job]))[job]
    assert (entry.is_hopeless, entry.is_certain, entry.reason) == (True, False, "the instance was stopped")


def test_the_last_lines_of_the_console_are_told(cloud: SimulatedCloud, tmp_path: Path) -> None:
    pool = instances(cloud, tmp_path)
    job = asyncio.run(pool.submit("gpu-1"))
    asyncio.run(pool.cancel([job]))
    assert re.search(r"EC2 says: .*Instance .* printed nothing", pool.output(job))
    (tmp_path / "jobs" / "gpu-1.out").write_text("no CUDA here\n")
    assert pool.output(job).endswith("gpu-1.out):\nno CUDA here")
    cloud.on_console = lambda _: "\n".join(f"line {i}" for i in range(100))
    assert pool.output(job).splitlines()[1:] == [f"line {i}" for i in range(85, 100)]


def test_a_sweep_ends_what_should_have_ended_and_lists_the_rest(cloud: SimulatedCloud, tmp_path: Path) -> None:
    pool = instances(cloud, tmp_path)
    young, old = asyncio.run(pool.submit("gpu-1")), asyncio.run(pool.submit("gpu-2"))
    past = (datetime.now(UTC) - timedelta(hours=1)).isoformat(timespec="seconds")
    cloud.client.create_tags(Resources=[old], Tags=[{"Key": "surveyor-expires", "Value": past}])
    site = EC2Site.model_validate(cloud.fields())
    assert {each.id: each.was_ended for each in sweep("ec2/gpu", site)} == {young: False, old: True}
    assert list(sweep("ec2/other", site, also_alive=True)) == []
    assert cloud.alive() == [young]
    cloud.client.create_tags(Resources=[young], Tags=[{"Key": "surveyor-owner", "Value": "ada@elsewhere"}])
    assert [each.was_ended for each in sweep("ec2/gpu", site, also_alive=True)] == [False]
    cloud.client.create_tags(Resources=[young], Tags=[{"Key": "surveyor-owner", "Value": ec2.owner()}])
    assert [each.was_ended for each in sweep("ec2/gpu", site, also_alive=True)] == [True]
    assert cloud.alive() == []


def test_credentials_that_expire_while_instances_work_end_nothing(cloud: SimulatedCloud, tmp_path: Path) -> None:
    cloud.faults.append(Fault("DescribeInstances", "RequestExpired", "too old"))
    with pytest.raises(Refused, match="too old"):
        asyncio.run(instances(cloud, tmp_path).look([]))
    cloud.faults.clear()
    pool = instances(cloud, tmp_path)
    asyncio.run(pool.look([]))
    cloud.faults.append(Fault("DescribeInstances", "RequestExpired", "too old"))
    with pytest.raises(QueueSilent, match="too old"):
        asyncio.run(pool.look([]))


def test_no_credentials_are_said_at_once(
    cloud: SimulatedCloud, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    with pytest.raises(Refused, match="Unable to locate credentials"):
        asyncio.run(instances(cloud, tmp_path).submit("gpu-1"))


def test_a_permission_to_terminate_that_is_missing_is_no_end_of_the_pool(cloud: SimulatedCloud, tmp_path: Path) -> None:
    pool = instances(cloud, tmp_path)
    job = asyncio.run(pool.submit("gpu-1"))
    cloud.faults.append(Fault("TerminateInstances", "UnauthorizedOperation", "You are not authorized.", 403))
    with pytest.raises(QueueSilent, match="permission ec2:TerminateInstances"):
        asyncio.run(pool.cancel([job]))


def test_an_instance_that_cannot_be_ended_keeps_no_other_alive(cloud: SimulatedCloud, tmp_path: Path) -> None:
    pool = instances(cloud, tmp_path)
    jobs = [asyncio.run(pool.submit(f"gpu-{number}")) for number in range(3)]
    words = "The instance may not be terminated. Modify its 'disableApiTermination' attribute."
    concerned = {"concerns": lambda form: jobs[1] in form.values()}
    cloud.faults.append(Fault("TerminateInstances", "OperationNotPermitted", words, **concerned))
    with pytest.raises(QueueSilent, match="disableApiTermination"):
        asyncio.run(pool.cancel([*jobs, "i-0123456789abcdef0"]))
    assert cloud.alive() == [jobs[1]]


def test_no_request_holds_a_secret(cloud: SimulatedCloud, tmp_path: Path) -> None:
    asyncio.run(instances(cloud, tmp_path).submit("gpu-1"))
    assert SECRET not in json.dumps(cloud.requests)
    assert "PRIVATE KEY" not in json.dumps(cloud.requests)


def test_without_boto3_the_command_that_installs_it_is_said() -> None:
    script = "import sys; sys.modules['boto3'] = None\n"
    script += f"from surveyor.pools.ec2.instances import *; Instances('ec2/gpu', EC2Site(**{PLAIN}), Path())"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert 'pools of the kind ec2 need boto3: pip install "surveyor[aws]"' in done.stderr


def test_an_unknown_profile_is_said(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="profile"):
        Instances("ec2/gpu", EC2Site.model_validate({**PLAIN, "profile": "nobody-has-it"}), tmp_path)


@pytest.mark.parametrize(
    ("fields", "complaint"),
    [
        ({"security_groups": []}, "security_groups"),
        ({"instance_types": ["g5"]}, "instance_types"),
        ({"budget": 5}, "price_per_hour: found none"),
        ({"start_minutes": 800}, "start_minutes: found 800"),
        ({"tags": ["surveyor-pool=mine"]}, "expected none that begins with surveyor-"),
        ({"tags": ["project"]}, "tags"),
        ({"connection": "ssh"}, "ssh_user: found none, expected one, as connection is ssh"),
        ({"connection": "ssh", "ssh_user": "ubuntu"}, "ssh_key_file: found none"),
        ({"connection": "ssh", "ssh_user": "-oX", "ssh_key_file": "/k"}, "ssh_user"),
        (
            {"connection": "ssh", "ssh_user": "ubuntu", "ssh_key_file": "k"},
            "ssh_key_file: found k, expected a full path",
        ),
        (
            {"proxy_command": "ssh -W %h:%p b"},
            "proxy_command: found ssh -W .*, expected none, as connection is private",
        ),
        ({"ssh_user": "ubuntu"}, "ssh_user: found ubuntu, expected none"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(fields: dict[str, Any], complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        EC2Site.model_validate({**PLAIN, **fields})


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a good key, one that others can read, and one with a passphrase."""
    folder = tmp_path_factory.mktemp("keys")
    for name, passphrase in (("good", ""), ("open", ""), ("locked", "secret")):
        command = ["ssh-keygen", "-q", "-t", "ed25519", "-N", passphrase, "-C", "ada@laptop", "-f", folder / name]
        subprocess.run(command, check=True)
    (folder / "open").chmod(0o644)
    return folder


@pytest.mark.ssh
@pytest.mark.parametrize(
    ("name", "complaint"),
    [
        ("none", r"none, expected a private key: No such file or directory; make one: ssh-keygen"),
        ("open", r"open, which others can use \(mode 644\), expected a file of its owner alone: chmod 600"),
        ("locked", r"locked, expected a private key without passphrase; ssh-keygen says: .*passphrase"),
        ("good.pub", r"good.pub, .*(which others can use|ssh-keygen says)"),
    ],
)
def test_a_key_with_which_no_instance_can_be_reached_is_refused_before_anything_is_started(
    cloud: SimulatedCloud, tmp_path: Path, keys: Path, name: str, complaint: str
) -> None:
    site = EC2Site.model_validate(cloud.fields(connection="ssh", ssh_user="ubuntu", ssh_key_file=keys / name))
    with pytest.raises(InputError, match=f"ssh_key_file: found .*{complaint}"):
        machines_of("ec2/gpu", site, tmp_path)
    assert cloud.requests == []


@pytest.mark.ssh
def test_an_instance_that_is_reached_by_ssh_sets_its_end_knows_the_key_and_watches_its_connection(
    cloud: SimulatedCloud, tmp_path: Path, keys: Path
) -> None:
    fields = {"connection": "ssh", "ssh_user": "ubuntu", "ssh_key_file": keys / "good"}
    text = cloud.user_data(asyncio.run(instances(cloud, tmp_path, lifetime_minutes=90, **fields).submit("gpu-1")))
    kind, key, _ = (keys / "good.pub").read_text().split()
    in_order = [
        "#!/bin/bash\nsystemd-run --on-active=5400 poweroff ||",
        "\ntrap poweroff EXIT\nsystemctl set-default poweroff.target ||",
        "chown ubuntu /run/surveyor/leash",
        f"echo '{kind} {key}' >/etc/ssh/surveyor/ubuntu",
        "ClientAliveInterval 15",
        "surveyor-host-key",
        "read -r -t 900 -u 8",
    ]
    positions = [text.index(each) for each in in_order]
    assert positions == sorted(positions)
    assert subprocess.run(["bash", "-n"], input=text, text=True, check=False).returncode == 0
    assert [word for word in ("PRIVATE", "CERTIFICATE", "ada@laptop", str(keys)) if word in text] == []


def test_the_keys_of_an_instance_are_read_from_its_console() -> None:
    console = [
        "[   21.4] cloud-init[900]: surveyor-host-key ssh-ed25519 AAAA+/= end",
        "surveyor-host-key ssh-rsa AAAAB3",  # the rest of the line is not there yet
        "surveyor-host-key ssh-ed25519 AAAA+/= end",
    ]
    assert host_keys_in(console) == ("ssh-ed25519 AAAA+/=",)


@pytest.mark.parametrize(("proxy_command", "address"), [(None, "PublicIpAddress"), ("ssh b", "PrivateIpAddress")])
def test_an_instance_has_a_door_once_it_has_shown_its_keys(
    cloud: SimulatedCloud, tmp_path: Path, keys: Path, proxy_command: str | None, address: str
) -> None:
    fields = {"connection": "ssh", "ssh_user": "ubuntu", "ssh_key_file": keys / "good"}
    pool = instances(cloud, tmp_path, proxy_command=proxy_command, **fields)
    job = asyncio.run(pool.submit("gpu-1"))
    cloud.on_console = lambda _: "booting\n"
    assert pool.door(job) is None
    cloud.on_console = lambda _: "surveyor-host-key ssh-ed25519 AAAA end\n"
    (found,) = (each for each in cloud.instances() if each["InstanceId"] == job)
    assert pool.door(job) == Door(found[address], ("ssh-ed25519 AAAA",))


def test_an_instance_that_boots_unwatched_costs_until_its_worker_should_begin() -> None:
    fields = {**PLAIN, "price_per_hour": 1.0, "orphan_minutes": 5, "start_minutes": 15}
    by_ssh = {"connection": "ssh", "ssh_user": "ubuntu", "ssh_key_file": "/k"}
    prices = [EC2Site.model_validate({**fields, **more}).price for more in ({}, by_ssh)]
    assert [price.unwatched_s for price in prices if price is not None] == [1200, 900]


def test_security_groups_have_no_default() -> None:
    with pytest.raises(ValueError, match="security_groups"):
        EC2Site.model_validate({name: value for name, value in PLAIN.items() if name != "security_groups"})


def test_cost_is_counted_by_the_hour_and_goes_on_with_the_next_process() -> None:
    price = Price(per_hour=2.0, budget=1.0, unwatched_s=300)
    spending = Spending(price, 0.0, counted=0.0)
    spending.count(2, now=600.0)
    assert spending.spent == pytest.approx(2 * 2.0 / 6)
    assert spending.complaint is None
    later = Spending.continued(price, spending.spent, n_left=2, unwatched_s=1e6, now=50.0)
    assert later.spent == pytest.approx(spending.spent + 2 * 2.0 * 300 / 3600)
    later.count(0, now=1e6)
    assert later.complaint is not None
    assert Spending.continued(price, 0.5, n_left=0, unwatched_s=1e6, now=0.0).spent == 0.5


def test_a_time_limit_must_fit_into_what_is_left_of_a_life_after_the_boot() -> None:
    site = EC2Site.model_validate({**PLAIN, "lifetime_minutes": 60, "start_minutes": 15})
    assert (site.connect_s, site.longest_function_s) == (900, 45 * 60 - 30)
    assert issubclass(Refused, PoolFailed)
