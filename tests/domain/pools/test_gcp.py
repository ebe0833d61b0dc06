"""Requests for instances of Compute Engine, each checked against Google's description of an instance."""

import asyncio
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from distributed import Security
from simulated_compute import SimulatedCompute, complaints, simulated_compute

from surveyor.errors import InputError, PoolFailed
from surveyor.pools.clouds import spot_notice
from surveyor.pools.clouds.marks import owner
from surveyor.pools.clouds.ssh_door import Door
from surveyor.pools.gcp.instances import GoogleInstances, sweep
from surveyor.pools.gcp.site import GCPSite
from surveyor.pools.machines import NoCapacity, QueueSilent, Refused
from surveyor.pools.site_machines import machines_of
from surveyor.pools.ssh.tunnels import Tunnels

PLAIN = {
    "project": "p-1",
    "zones": ["europe-west4-a", "europe-west4-b"],
    "machine_types": ["g2-standard-8", "n1-standard-8"],
    "machine_image": "projects/p-1/global/images/family/surveyor",
}
FULL = {"code": "ZONE_RESOURCE_POOL_EXHAUSTED", "message": "The zone does not have enough resources available."}


@pytest.fixture
def compute(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[SimulatedCompute]:
    with simulated_compute() as simulated:
        for name, value in simulated.environment(tmp_path).items():
            monkeypatch.setenv(name, value)
        yield simulated
        assert simulated.complaints == []


def instances(folder: Path, **fields: Any) -> GoogleInstances:
    security = Security(tls_ca_file="/pool/ca.pem", tls_worker_cert="/pool/ca.pem", tls_worker_key="/pool/k.pem")
    site = GCPSite.model_validate(PLAIN | fields)
    return GoogleInstances("gcp/gpu", site, folder, "tls://127.0.0.1:8786", security, "/pool/check.py /pool/v.json")


def test_an_instance_is_deleted_by_google_itself_and_is_marked(compute: SimulatedCompute, tmp_path: Path) -> None:
    fields = {"accelerator": "nvidia-tesla-t4", "n_accelerators": 2, "disk_GB": 80, "lifetime_minutes": 90}
    of_network = {"subnetwork": "regions/europe-west4/subnetworks/s", "service_account": "a@p-1.iam"}
    pool = instances(tmp_path, labels=["project=water"], **fields, **of_network)
    job = asyncio.run(pool.submit("Pool_gpu-1"))
    (body,) = compute.bodies
    assert job == f"europe-west4-a/{body['name']}"
    assert body["scheduling"]["instanceTerminationAction"] == "DELETE"
    assert body["scheduling"]["maxRunDuration"] == {"seconds": "5400"}
    assert body["scheduling"]["provisioningModel"] == "STANDARD"
    assert body["disks"][0]["autoDelete"]
    assert body["labels"] == {"project": "water", "surveyor-pool": "gcp_gpu", "surveyor-folder": pool.identity}
    marks = {each["key"]: each["value"] for each in body["metadata"]["items"]}
    assert marks["surveyor-owner"] == owner()
    script = marks["startup-script"]
    assert "systemd-run --on-active=5400 poweroff" in script.splitlines()[1]
    assert "PRIVATE KEY" not in script


def test_what_google_does_not_know_is_noticed() -> None:
    """The check of all other tests here finds something."""
    body = {"scheduling": {"provisioningModel": "CHEAP", "maxRunTime": 3}, "labels": {"a": 1}, "disks": {}}
    assert sorted(each.partition(":")[0] for each in complaints(body, {"$ref": "Instance"})) == [
        "Instance.disks",
        "Instance.labels.a",
        "Instance.scheduling.maxRunTime",
        "Instance.scheduling.provisioningModel",
    ]


def test_instances_of_a_folder_are_found_by_whoever_created_them_and_deleted(
    compute: SimulatedCompute, tmp_path: Path
) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    pool, other = instances(tmp_path / "a"), instances(tmp_path / "b")
    mine, _ = asyncio.run(pool.submit("gpu-1")), asyncio.run(other.submit("gpu-1"))
    again = instances(tmp_path / "a")
    entries = asyncio.run(again.look([]))
    assert {job: (entry.state, entry.name) for job, entry in entries.items()} == {mine: ("running", "gpu-1")}
    compute.serial = "boot\nno driver\n"
    assert again.output(mine).endswith("boot\nno driver")
    compute.instances[("europe-west4-a", mine.partition("/")[2])]["status"] = "TERMINATED"
    assert asyncio.run(again.look([]))[mine].is_hopeless
    asyncio.run(again.cancel([mine, mine]))
    assert asyncio.run(again.look([])) == {}
    assert len(compute.instances) == 1


def test_an_instance_that_cannot_be_deleted_keeps_no_other_alive(compute: SimulatedCompute, tmp_path: Path) -> None:
    pool = instances(tmp_path)
    jobs = [asyncio.run(pool.submit(f"gpu-{number}")) for number in range(3)]
    compute.protected.add(jobs[1].partition("/")[2])
    with pytest.raises(QueueSilent, match="protected against deletion"):
        asyncio.run(pool.cancel(jobs))
    assert [*asyncio.run(pool.look([]))] == [jobs[1]]


def test_a_spot_instance_that_is_gone_was_taken_away_or_not(compute: SimulatedCompute, tmp_path: Path) -> None:
    pool = instances(tmp_path, spot=True)
    taken, ended, _ = jobs = [asyncio.run(pool.submit(f"gpu-{number}")) for number in (1, 2, 3)]
    compute.preempt(taken)
    del compute.instances["europe-west4-a", ended.partition("/")[2]]
    compute.may_list_operations = False
    assert [*asyncio.run(pool.look(jobs))] == jobs[2:]
    compute.may_list_operations = True
    entries = asyncio.run(pool.look(jobs))
    assert sorted(entries) == sorted([taken, jobs[2]])
    assert (entries[taken].state, entries[taken].name) == ("ending", "gpu-1")
    assert entries[taken].taken_at == pytest.approx(time.time(), abs=60)
    assert entries[jobs[2]].taken_at is None
    asyncio.run(pool.cancel([taken]))
    assert [*asyncio.run(pool.look(jobs))] == jobs[2:]


def test_where_a_zone_is_full_the_next_is_asked_and_then_the_next_type(
    compute: SimulatedCompute, tmp_path: Path
) -> None:
    compute.failures = {"europe-west4-a": {"errors": [FULL]}}
    pool = instances(tmp_path)
    assert asyncio.run(pool.submit("gpu-1")).startswith("europe-west4-b/")
    compute.failures["europe-west4-b"] = {"errors": [FULL]}
    with pytest.raises(NoCapacity, match="does not have enough resources"):
        asyncio.run(pool.submit("gpu-2"))
    asked = [each["machineType"] for each in compute.bodies[2:]]
    assert asked == [f"zones/{zone}/machineTypes/{kind}" for kind in PLAIN["machine_types"] for zone in PLAIN["zones"]]
    assert len({*compute.request_ids}) == len(compute.request_ids)


FEW = {"code": "QUOTA_EXCEEDED", "message": "Quota 'NVIDIA_L4_GPUS' exceeded.  Limit: 1.0 in region europe-west4."}
OOPS = {"code": "INTERNAL_ERROR", "message": "Internal error. Please try again."}
NO_ADDRESS = {"code": "IP_SPACE_EXHAUSTED", "message": "IP space of 's' is exhausted."}


@pytest.mark.parametrize(
    ("error", "entry", "zone"),
    [
        (FULL, (True, False, "ending"), "europe-west4-b"),
        (NO_ADDRESS, (True, False, "ending"), "europe-west4-b"),
        (OOPS, (False, False, "pending"), "europe-west4-a"),
        (FEW, (False, True, "pending"), "europe-west4-a"),
    ],
)
def test_a_refusal_that_comes_late_is_heard_and_says_where_to_ask_next(
    compute: SimulatedCompute, tmp_path: Path, error: dict[str, str], entry: tuple[bool, bool, str], zone: str
) -> None:
    compute.failures, compute.n_slow = {"europe-west4-a": {"errors": [error]}}, 2
    pool = instances(tmp_path)
    job = asyncio.run(pool.submit("gpu-1"))
    assert asyncio.run(pool.look([job]))[job].state == "pending"  # although there is no instance
    for _ in range(2):
        found = asyncio.run(pool.look([job]))[job]
        assert (found.is_refused, found.is_certain, found.state) == entry
        assert error["message"] in found.reason
    assert ("Have the quota NVIDIA_L4_GPUS raised" in found.reason) == (error is FEW)
    assert asyncio.run(pool.look([])) == {}
    compute.failures.clear()
    assert asyncio.run(pool.submit("gpu-2")).startswith(f"{zone}/")


def test_where_all_zones_have_said_late_that_they_are_full_none_is_asked_for_a_while(
    compute: SimulatedCompute, tmp_path: Path
) -> None:
    compute.failures, compute.n_slow = {zone: {"errors": [FULL]} for zone in PLAIN["zones"]}, 1
    pool = instances(tmp_path, machine_types=["g2-standard-8"])
    asyncio.run(pool.look([asyncio.run(pool.submit("gpu-1"))]))
    with pytest.raises(NoCapacity, match="does not have enough resources"):
        asyncio.run(pool.submit("gpu-2"))
    assert [each["machineType"].split("/")[1] for each in compute.bodies] == PLAIN["zones"]


@pytest.mark.parametrize(
    ("status", "error", "kind", "words"),
    [
        (
            403,
            {"message": "Quota 'GPUS_ALL_REGIONS' exceeded. Limit: 0.0."},
            Refused,
            "GPUS_ALL_REGIONS raised",
        ),
        (
            403,
            {"message": "Required 'compute.instances.create' permission for 'projects/p-1'"},
            Refused,
            "Give the credentials the permission compute.instances.create",
        ),
        (400, {"message": "Invalid value for field"}, Refused, "Invalid value for field"),
        (403, {"errors": [{"reason": "rateLimitExceeded", "message": "slow"}]}, QueueSilent, "slow"),
        (503, {"message": "backend"}, QueueSilent, "backend"),
        (
            404,
            {"message": "The resource 'projects/p-1/zones/z/machineTypes/g2-standard-8' was not found"},
            Refused,
            "no zone of the pool offers",
        ),
    ],
)
def test_what_a_refusal_means(
    compute: SimulatedCompute, tmp_path: Path, status: int, error: dict[str, Any], kind: type[Exception], words: str
) -> None:
    compute.status = status, error
    with pytest.raises(kind, match=words):
        asyncio.run(instances(tmp_path).submit("gpu-1"))


def test_a_spot_instance_is_asked_for_until_one_must_stay(compute: SimulatedCompute, tmp_path: Path) -> None:
    pool = instances(tmp_path, spot=True)
    asyncio.run(pool.submit("gpu-1"))
    asyncio.run(pool.submit("gpu-2", firm=True))
    assert [each["scheduling"]["provisioningModel"] for each in compute.bodies] == ["SPOT", "STANDARD"]
    marks = {each["key"]: each["value"] for each in compute.bodies[0]["metadata"]["items"]}
    assert "gcp=" in marks["startup-script"]


@pytest.mark.ssh
@pytest.mark.parametrize(("proxy_command", "address"), [(None, "192.0.2.2"), ("ssh -W %h:%p bastion", "10.0.0.2")])
def test_an_instance_that_is_reached_by_ssh_has_a_door_once_it_has_shown_its_keys(
    compute: SimulatedCompute, tmp_path: Path, proxy_command: str | None, address: str
) -> None:
    key = tmp_path / "key"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", key], check=True)
    fields = {"connection": "ssh", "ssh_user": "ada", "ssh_key_file": key, "proxy_command": proxy_command}
    pool = instances(tmp_path, **fields)
    assert isinstance(machines_of("gcp/gpu", pool.site, tmp_path), Tunnels)
    job = asyncio.run(pool.submit("gpu-1"))
    (body,) = compute.bodies
    (script,) = (each["value"] for each in body["metadata"]["items"] if each["key"] == "startup-script")
    assert " ".join((tmp_path / "key.pub").read_text().split()[:2]) in script
    compute.serial = "booting\n"
    assert pool.door(job) is None
    compute.serial = "startup-script: surveyor-host-key ssh-ed25519 AAAA end\n"
    assert pool.door(job) == Door(address, ("ssh-ed25519 AAAA",))
    assert pool.site.carries_folder


def test_several_workers_share_an_instance_without_gpus() -> None:
    fields = {"machine_types": ["c4a-standard-8", "n2-standard-8", "g1-small"], "workers_per_job": 2}
    assert GCPSite.model_validate(PLAIN | fields).most_workers == 8


def test_the_notice_of_google_is_heard(compute: SimulatedCompute) -> None:
    assert spot_notice.announced_by_google() is None
    compute.notices.add("")
    taken_at = spot_notice.announced_by_google()
    assert taken_at is not None
    assert 20 < taken_at - time.time() <= 30


def test_a_sweep_deletes_what_has_expired_or_stopped_and_lists_the_rest(
    compute: SimulatedCompute, tmp_path: Path
) -> None:
    pool = instances(tmp_path)
    jobs = [asyncio.run(pool.submit(f"gpu-{number}")) for number in range(3)]
    first, second = (compute.instances[tuple(job.split("/"))] for job in jobs[:2])  # type: ignore[index]
    first["status"] = "TERMINATED"
    for each in second["metadata"]["items"]:
        if each["key"] == "surveyor-expires":
            each["value"] = "2020-01-01T00:00:00+00:00"
    found: dict[str, bool] = {}
    compute.protected.add(jobs[0].partition("/")[2])
    with pytest.raises(PoolFailed, match="protected against deletion"):
        found.update((each.id, each.was_ended) for each in sweep("gcp/gpu", pool.site))
    assert found == {jobs[0]: False, jobs[1]: True, jobs[2]: False}
    compute.protected.clear()
    found = {each.id: each.was_ended for each in sweep("gcp/gpu", pool.site)}
    assert found == {jobs[0]: True, jobs[2]: False}
    assert [each.was_ended for each in sweep("gcp/gpu", pool.site, also_alive=True)] == [True]
    assert compute.instances == {}
    compute.status = 403, {"message": "Required 'compute.instances.list' permission for 'projects/p-1'"}
    with pytest.raises(PoolFailed, match=r"compute\.instances\.list"):
        list(sweep("gcp/gpu", pool.site))


def test_the_first_look_deletes_what_other_pools_of_this_name_have_left_stopped_and_no_others(
    compute: SimulatedCompute, tmp_path: Path
) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    pool = instances(tmp_path / "a")
    stopped, working, of_others = jobs = [asyncio.run(pool.submit(f"gpu-{number}")) for number in range(3)]
    by_job = {job: compute.instances[tuple(job.split("/"))] for job in jobs}  # type: ignore[index]
    by_job[stopped]["status"] = by_job[of_others]["status"] = "TERMINATED"
    (of_owner,) = (each for each in by_job[of_others]["metadata"]["items"] if each["key"] == "surveyor-owner")
    of_owner["value"] = "ada@elsewhere"
    other = instances(tmp_path / "b")
    assert asyncio.run(other.look([])) == {}
    assert {f"{zone}/{name}" for zone, name in compute.instances} == {working, of_others}
    compute.protected.add(of_others.partition("/")[2])
    of_owner["value"] = owner()
    assert asyncio.run(instances(tmp_path / "b").look([])) == {}  # what stays is no reason not to work


def test_without_credentials_it_says_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(tmp_path / "none.json"))
    with pytest.raises(InputError, match=r"no credentials.*none\.json"):
        instances(tmp_path)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"zones": ["europe-west4"]}, "zones"),
        ({"budget": 3.0}, "price_per_hour: found none"),
        ({"labels": ["surveyor-pool=x"]}, "expected none that begins with surveyor-"),
        ({"machine_image": "ubuntu"}, "machine_image"),
        ({"machine_types": ["c3-standard-8", "g2-standard-8"], "workers_per_job": 2}, "has GPUs.*g2-standard-8"),
        ({"machine_types": ["a3-highgpu-1g"], "workers_per_job": 2}, "has GPUs.*a3-highgpu-1g"),
        (
            {"machine_types": ["n1-standard-8"], "accelerator": "nvidia-tesla-t4", "workers_per_job": 2},
            "workers_per_job: found 2, expected 1.*nvidia-tesla-t4",
        ),
    ],
)
def test_wrong_settings_are_refused(fields: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        GCPSite.model_validate(PLAIN | fields)
