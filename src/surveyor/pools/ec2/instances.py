"""The instances of a pool in Amazon EC2: started, looked for, terminated, swept."""

import asyncio
import os
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from distributed import Security

from surveyor.errors import PoolFailed
from surveyor.pools.clouds.cloud_machines import CloudMachines
from surveyor.pools.clouds.credentials import Credentials, certificates_in, check_in
from surveyor.pools.clouds.marks import EXPIRES, FOLDER, OWNER, POOL, Found, digest, owner
from surveyor.pools.clouds.places import Places
from surveyor.pools.clouds.ssh_door import Door, door_data, host_keys_in, public_key_of
from surveyor.pools.clouds.sweeping import swept
from surveyor.pools.clouds.user_data import user_data
from surveyor.pools.ec2.client import EC2, MissingInstance
from surveyor.pools.ec2.refusals import late_refusal
from surveyor.pools.ec2.site import EC2Site
from surveyor.pools.ec2.types import contradiction, kinds_of
from surveyor.pools.machines import OUTPUT_LINES, QueueSilent, Refused
from surveyor.pools.pool_folder import PoolFolder
from surveyor.pools.queues import Entry
from surveyor.storage.buckets import Bucket
from surveyor.storage.object_storage import ObjectStorage
from surveyor.words import number_of

COSTS = ["pending", "running", "stopping", "stopped"]  # states in which an instance or its volumes cost something
SHOWN_S = 60.0  # so long after its start an instance may be missing in the answers of EC2
MOST_BYTES = 16384  # of user data
LATE = timedelta(minutes=10)  # between the request for an instance and the begin of its life
OVER = "terminated"  # EC2 shows it for an hour
TAKEN = {"Server.SpotInstanceTermination", "Server.SpotInstanceShutdown"}  # why it is over
ENTRIES = {
    "pending": Entry("pending"),
    "running": Entry("running"),
    "shutting-down": Entry("ending"),
    # Its worker is gone, and its disk costs. Nobody starts it again.
    "stopping": Entry("pending", "the instance was stopped", is_hopeless=True),
    "stopped": Entry("pending", "the instance was stopped", is_hopeless=True),
}


# One that is taken away is gone, with its volumes; the pool starts another one.
SPOT = {
    "InstanceMarketOptions": {
        "MarketType": "spot",
        "SpotOptions": {"SpotInstanceType": "one-time", "InstanceInterruptionBehavior": "terminate"},
    }
}


def _credentials(site: EC2Site, folder: Path) -> Credentials | None:
    """Return the credentials of a pool whose instances do not see its folder, nor get the certificate by ssh."""
    if site.workspace is None or site.connection == "ssh":
        return None
    return Credentials(ObjectStorage(Bucket.at(site.workspace)), PoolFolder(folder), 60 * site.start_minutes)


class Instances(CloudMachines[EC2Site]):
    """The instances of one pool.

    Its arguments are those of `CloudMachines`.
    """

    def __init__(
        self,
        name: str,
        site: EC2Site,
        folder: Path,
        address: str = "",
        security: Security | None = None,
        check: str = "",
    ) -> None:
        super().__init__(name, site, folder, address, security, check)
        self._young: dict[str, float] = {}  # when instances were started that EC2 may not show yet
        self._names: dict[str, str] = {}
        self._cancelled: set[str] = set()
        self._places = Places(site.instance_types, site.subnets)
        self._ec2 = EC2(site)
        self._credentials = _credentials(site, self.folder)
        self._public_key = None if site.ssh_key_file is None else public_key_of(site.ssh_key_file)
        self._image: Any = None  # Any: as boto3 gives it
        self._fits = site.workers_per_job == 1  # whether it is known that the workers fit into each type

    async def submit(self, name: str, *, firm: bool = False) -> str:
        """Start an instance of the first type that a zone has room for, and return its id.

        Args:
            name: name of the job and of its worker; several workers append -0, -1 and so on.
            firm: start one on demand, whatever the settings say.

        Raises:
            Refused: a quota, a missing permission or a wrong setting.
            NoCapacity: no zone has room for any of the types at present.
            QueueSilent: EC2 does not answer.
        """
        await asyncio.to_thread(self._check_types)
        script = await asyncio.to_thread(self._script, name)
        if len(script.encode()) > MOST_BYTES:
            raise Refused(
                f"found {number_of(len(script.encode()), 'byte')} of user data, expected at most {MOST_BYTES}; put the "
                "prologue into a file of the image or of the shared folder"
            )
        (self.folder / "jobs").mkdir(exist_ok=True)
        market = SPOT if self.site.spot and not firm else {}
        return await self._places.first_with_room(
            lambda instance_type, subnet: self._start(name, script, instance_type, subnet, market)
        )

    def _check_types(self) -> None:
        """Raise `Refused` if several workers do not fit into an instance."""
        if not self._fits:
            if (reason := contradiction(self.site, kinds_of(self.site))) is not None:
                raise Refused(reason)
            self._fits = True

    def _script(self, name: str) -> str:
        """Return the script of an instance.

        Raises:
            QueueSilent: the workspace, through which it gets the certificate, does not answer.
        """
        if self._public_key is not None:
            return door_data(self.site, str(self.site.ssh_user), self._public_key)
        if self._credentials is None:
            return user_data(self.site, name, self.folder, self._address, self._security, self._check)
        try:
            place, before = self._credentials.send(f"{os.getuid()}:{os.getgid()}")
        except OSError as error:
            raise QueueSilent(f"workspace {self.site.workspace}: {error}") from error
        security = certificates_in(place, self._security)
        check = check_in(place, PoolFolder(self.folder))
        return user_data(self.site, name, place, self._address, security, check, before=before)

    async def look(self, jobs: Sequence[str]) -> Mapping[str, Entry]:
        """Return the state of all instances of this pool, whoever started them; those that are over are not shown.

        Instances that Amazon has taken away are shown as ending until they are cancelled.

        Raises:
            QueueSilent: EC2 does not answer.
            Refused: the credentials may not look.
        """
        if self._credentials is not None:
            await asyncio.to_thread(self._credentials.remove_old)
        filters = {"tag:" + FOLDER: [self.identity], "instance-state-name": [*ENTRIES, OVER]}
        found = await asyncio.to_thread(self._ec2.instances, filters)
        known, now = {each["InstanceId"] for each in found}, time.monotonic()
        self._young = {job: begun for job, begun in self._young.items() if job not in known and now < begun + SHOWN_S}
        entries = {each["InstanceId"]: self._entry(each, jobs) for each in found}
        young = {job: Entry("pending", "just started") for job in self._young}
        return {**young, **{job: entry for job, entry in entries.items() if entry is not None}}

    def _entry(self, instance: Mapping[str, Any], jobs: Sequence[str]) -> Entry | None:  # Any: as boto3 gives it
        """Return the state of an instance; None for one that is over."""
        job, state, name = instance["InstanceId"], instance["State"]["Name"], _tags(instance).get("Name", "")
        why = instance.get("StateReason", {})
        if job in jobs and job not in self._cancelled:
            if why.get("Code") in TAKEN:
                return Entry("ending", str(why.get("Message", "")), name=name, taken_at=time.time())
            if state == OVER and (refusal := late_refusal(why, instance["InstanceType"])) is not None:
                return replace(self._places.refused(job, refusal), name=name)
        return None if state == OVER else replace(ENTRIES[state], name=name)

    async def cancel(self, jobs: Collection[str]) -> None:
        """Terminate instances; those that are over are passed over.

        Raises:
            QueueSilent: EC2 does not answer, or refuses; with its words.
        """
        if jobs:
            unknown = await asyncio.to_thread(self._ec2.terminate, list(jobs))
            self._cancelled |= {*jobs}
            self._young = {job: begun for job, begun in self._young.items() if job in unknown or job not in jobs}

    def door(self, job: str) -> Door | None:
        """Return where a running instance is reached by ssh; None as long as it has not shown its keys.

        Its address is the public one, where it has one and no proxy command leads into its network.

        Raises:
            QueueSilent: EC2 does not answer.
            Refused: the credentials may not ask.
        """
        keys = host_keys_in(self._console(job))
        found = self._ec2.instances({"instance-id": [job]}) if keys else []
        if not found:
            return None
        address = found[0].get("PublicIpAddress") if self.site.proxy_command is None else None
        return Door(str(address or found[0]["PrivateIpAddress"]), keys)

    def output(self, job: str) -> str:
        """Return why an instance ended, and the last lines of its console or, if that is empty, of its worker."""
        path = self.folder / "jobs" / f"{self._names.get(job, job)}.out"
        try:
            reason, lines, whence = self._reason(job), self._console(job), "its console"
        except (QueueSilent, PoolFailed) as error:
            reason, lines, whence = f"its console cannot be read: {error}. ", [], ""
        if not lines and path.is_file():
            lines, whence = path.read_text(errors="replace").splitlines(), str(path)
        if not lines:
            return f"{reason}Instance {job} printed nothing on its console"
        return "\n".join([f"{reason}Instance {job} printed last ({whence}):", *lines[-OUTPUT_LINES:]])

    def _start(
        self,
        name: str,
        script: str,
        instance_type: str,
        subnet: str,
        market: Mapping[str, Any],  # Any: nested, as boto3 takes it
    ) -> str:
        request = {**self._request(name), **market} | {
            "UserData": script,
            "InstanceType": instance_type,
            "SubnetId": subnet,
            # A request that is sent again, as its answer was lost, starts no second instance.
            "ClientToken": digest(self.identity, self._begun, name, instance_type, subnet),
        }
        job = str(self._ec2.ask("run_instances", instance_type, **request)["Instances"][0]["InstanceId"])
        self._names[job] = name
        self._young[job] = time.monotonic()
        return job

    def _request(self, name: str) -> dict[str, Any]:  # Any: nested, as boto3 takes it
        site, profile = self.site, self.site.instance_profile
        expires = datetime.now(UTC) + timedelta(seconds=site.walltime_s) + LATE
        pairs = [each.partition("=")[::2] for each in site.tags]
        pairs += [("Name", name), (POOL, self.name), (FOLDER, self.identity), (OWNER, owner())]
        pairs += [(EXPIRES, expires.isoformat(timespec="seconds"))]
        tags = [{"Key": key, "Value": value} for key, value in pairs]
        of_profile = {} if profile is None else {"Arn" if profile.startswith("arn:") else "Name": profile}
        return {
            "ImageId": site.machine_image,
            "MinCount": 1,
            "MaxCount": 1,
            "SecurityGroupIds": list(site.security_groups),
            "InstanceInitiatedShutdownBehavior": "terminate",
            "MetadataOptions": {"HttpEndpoint": "enabled", "HttpTokens": "required", "HttpPutResponseHopLimit": 1},
            "BlockDeviceMappings": self._volumes(),
            "TagSpecifications": [{"ResourceType": each, "Tags": tags} for each in ("instance", "volume")],
            **({"IamInstanceProfile": of_profile} if of_profile else {}),
        }

    def _volumes(self) -> list[dict[str, Any]]:  # Any: nested, as boto3 takes it
        """Return the volumes of the image, all of which end with the instance."""
        if self._image is None:
            images = self._ec2.ask("describe_images", ImageIds=[self.site.machine_image])["Images"]
            if not images:
                raise Refused(f"there is no machine image {self.site.machine_image} in this region")
            self._image = images[0]
        root, volumes = self._image["RootDeviceName"], []
        for each in self._image["BlockDeviceMappings"]:
            if size := each.get("Ebs", {}).get("VolumeSize"):
                if each["DeviceName"] == root and self.site.disk_GB is not None:
                    size = self.site.disk_GB
                ebs = {"DeleteOnTermination": True, "VolumeSize": size}
                volumes.append({"DeviceName": each["DeviceName"], "Ebs": ebs})
        return volumes

    def _reason(self, job: str) -> str:
        try:
            found = self._ec2.instances({"instance-id": [job]})
        except MissingInstance:
            return ""
        reason = found[0].get("StateReason", {}).get("Message") if found else None
        return f"EC2 says: {reason}. " if reason else ""

    def _console(self, job: str) -> list[str]:
        try:
            answer = self._ec2.ask("get_console_output", InstanceId=job, Latest=True)
        except MissingInstance:
            return []
        except PoolFailed:  # instances of older types have only what was printed some time ago
            answer = self._ec2.ask("get_console_output", InstanceId=job)
        return [line for line in str(answer.get("Output") or "").splitlines() if line.strip()]


def sweep(name: str, site: EC2Site, *, also_alive: bool = False) -> Iterator[Found]:
    """Terminate the instances of a pool that should have ended, and yield all that there are; it needs no folder.

    Args:
        name: name of the pool, such as ec2/gpu.
        site: gives region and credentials.
        also_alive: also terminate the instances of this user and machine that may still work.

    Raises:
        PoolFailed: EC2 does not answer, or refuses to end an instance; the others are ended and yielded before.
    """
    ec2 = EC2(site)

    def machines() -> Iterator[tuple[Found, bool]]:
        for each in ec2.instances({"tag:" + POOL: [name], "instance-state-name": COSTS}):
            found = _found_from(each)
            is_expired = found.expires is None or found.expires < datetime.now(UTC)
            yield found, is_expired or (also_alive and found.owner == owner())

    return swept(machines(), lambda instance: ec2.terminate([instance]))


def _found_from(instance: Mapping[str, Any]) -> Found:  # Any: as boto3 gives it
    tags = _tags(instance)
    try:
        expires = datetime.fromisoformat(tags.get(EXPIRES, ""))
    except ValueError:
        expires = None
    state, kind = instance["State"]["Name"], instance["InstanceType"]
    return Found(instance["InstanceId"], kind, state, tags.get(OWNER, "unknown"), expires, False)


def _tags(instance: Mapping[str, Any]) -> dict[str, str]:  # Any: as boto3 gives it
    return {tag["Key"]: tag["Value"] for tag in instance.get("Tags", [])}
