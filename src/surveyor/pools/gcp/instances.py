"""The instances of a pool in Google Compute Engine: created, looked for, deleted, swept."""

import asyncio
import logging
import re
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import NAMESPACE_URL, uuid5

from distributed import Security

from surveyor.errors import PoolFailed
from surveyor.pools.clouds.cloud_machines import CloudMachines, for_each
from surveyor.pools.clouds.marks import EXPIRES, FOLDER, JOB, OWNER, POOL, Found, digest, owner
from surveyor.pools.clouds.places import Places
from surveyor.pools.clouds.ssh_door import Door, door_data, host_keys_in, public_key_of
from surveyor.pools.clouds.sweeping import swept
from surveyor.pools.clouds.user_data import user_data
from surveyor.pools.gcp.client import Compute
from surveyor.pools.gcp.site import GCPSite
from surveyor.pools.machines import OUTPUT_LINES, NoCapacity, QueueSilent, Refused
from surveyor.pools.queues import Entry

logger = logging.getLogger("surveyor.pools.cluster")
LATE = timedelta(minutes=10)  # between the request for an instance and the begin of its life
LONGEST_NAME = 54  # of an instance, without what tells it from others
LONGEST_LABEL = 63
CREATED_LATE = Entry("pending", "Google still creates the instance")
STOPPED = Entry("pending", "the instance was stopped", is_hopeless=True)  # its worker is gone, and its disk costs
ENTRIES = {
    "PENDING": Entry("pending"),
    "PROVISIONING": Entry("pending"),
    "STAGING": Entry("pending"),
    "RUNNING": Entry("running"),
    "REPAIRING": Entry("running"),
    "PENDING_STOP": Entry("running"),
    "STOPPING": Entry("running"),  # it is deleted once it has stopped
    "SUSPENDING": STOPPED,
    "SUSPENDED": STOPPED,
    "STOPPED": STOPPED,
    "TERMINATED": STOPPED,
    "DEPROVISIONING": Entry("ending"),
}


class GoogleInstances(CloudMachines[GCPSite]):
    """The instances of one pool.

    Its arguments are those of `CloudMachines`.
    """

    def __init__(
        self,
        name: str,
        site: GCPSite,
        folder: Path,
        address: str = "",
        security: Security | None = None,
        check: str = "",
    ) -> None:
        super().__init__(name, site, folder, address, security, check)
        self._names: dict[str, str] = {}
        self._cancelled: set[str] = set()
        self._has_tidied = False
        self._unfinished: dict[str, str] = {}  # operations that create instances, and go on
        self._refused: dict[str, Entry] = {}  # after they had been accepted
        self._compute = Compute(site)
        self._places = Places(site.machine_types, site.zones)
        self._public_key = None if site.ssh_key_file is None else public_key_of(site.ssh_key_file)

    async def submit(self, name: str, *, firm: bool = False) -> str:
        """Create an instance of the first type that a zone has room for, and return its id, ZONE/NAME.

        Args:
            name: name of the job and of its worker; several workers append -0, -1 and so on.
            firm: create one on demand, whatever the settings say.

        Raises:
            Refused: a quota, a missing permission or a wrong setting.
            NoCapacity: no zone has room for any of the types at present.
            QueueSilent: Google does not answer.
        """
        script = self._script(name)
        (self.folder / "jobs").mkdir(exist_ok=True)

        def start(machine_type: str, zone: str) -> str:
            body = self._body(name, zone, machine_type, script, is_spot=self.site.spot and not firm)
            request_id = str(uuid5(NAMESPACE_URL, f"{body['name']}/{zone}/{machine_type}"))
            operation = self._compute.create(zone, body, request_id)
            job = f"{zone}/{body['name']}"
            self._names[job] = name
            if operation is not None:
                self._unfinished[job] = operation
            return job

        return await self._places.first_with_room(start)

    def _script(self, name: str) -> str:
        """Return the script of an instance."""
        if self._public_key is not None:
            return door_data(self.site, str(self.site.ssh_user), self._public_key)
        return user_data(self.site, name, self.folder, self._address, self._security, self._check)

    async def look(self, jobs: Sequence[str]) -> Mapping[str, Entry]:
        """Return the state of all instances of this pool, whoever created them; those that are gone are not shown.

        Instances that Google has taken away are shown as ending until they are cancelled. The first look also deletes
        the stopped instances that other pools of this name, user and machine have left: they only cost their disks.

        Raises:
            QueueSilent: Google does not answer.
            Refused: the credentials may not look.
        """
        if not self._has_tidied:
            self._has_tidied = True
            await asyncio.to_thread(self._delete_stopped)
        found = await asyncio.to_thread(lambda: [*self._compute.instances(FOLDER, self.identity)])
        late = await asyncio.to_thread(self._created_late, jobs)
        entries = late | {_id(each): _entry(each) for each in found if _id(each) not in self._refused}
        gone = {*jobs} - entries.keys() - self._cancelled if self.site.spot else set()
        return entries | await asyncio.to_thread(self._taken, gone)

    def _delete_stopped(self) -> None:
        try:
            for each in self._compute.instances(POOL, _label(self.name)):
                if ENTRIES.get(each["status"]) is STOPPED and _metadata(each).get(OWNER) == owner():
                    self._compute.delete(*_id(each).split("/"))
        except (QueueSilent, PoolFailed) as error:
            logger.warning("pool %s: a stopped instance stays for now: %s", self.name, error)

    def _created_late(self, jobs: Collection[str]) -> dict[str, Entry]:
        """Return the entries of the instances that Google still creates, and of those that it has refused since."""
        for job, operation in [*self._unfinished.items()]:
            is_done, failure = self._creation(job, operation)
            if is_done:
                del self._unfinished[job]
            if failure is not None:
                self._refused[job] = self._places.refused(job, failure)
        self._refused = {job: entry for job, entry in self._refused.items() if job in jobs}
        return dict.fromkeys(self._unfinished, CREATED_LATE) | self._refused

    def _creation(self, job: str, operation: str) -> tuple[bool, Exception | None]:
        try:
            return self._compute.creation(job.partition("/")[0], operation)
        except QueueSilent:
            return False, None
        except Refused:  # without the permission, it only shows whether there is an instance
            return True, None

    def _taken(self, gone: Collection[str]) -> dict[str, Entry]:
        """Return the entries of those instances that are gone because Google has taken them away."""
        zones = {job.partition("/")[0] for job in gone}
        try:
            taken = {f"{zone}/{name}" for zone in zones for name in self._compute.preempted(zone)}
        except Refused:  # without the permission, only a notice that was heard tells
            return {}
        entry = Entry("ending", "Google has taken the instance away", taken_at=time.time())
        return {job: replace(entry, name=self._names.get(job, "")) for job in taken.intersection(gone)}

    async def cancel(self, jobs: Collection[str]) -> None:
        """Delete instances; those that are gone are passed over.

        Raises:
            QueueSilent: Google does not answer, or refuses to delete one; the others are deleted.
        """
        await for_each(jobs, self._delete)

    def _delete(self, job: str) -> None:
        zone, _, name = job.partition("/")
        self._compute.delete(zone, name)
        self._cancelled.add(job)
        self._refused.pop(job, None)

    def door(self, job: str) -> Door | None:
        """Return where a running instance is reached by ssh; None as long as it has not shown its keys.

        Its address is the public one, unless a proxy command leads into its network.

        Raises:
            QueueSilent: Google does not answer.
            Refused: the credentials may not ask.
        """
        zone, _, name = job.partition("/")
        keys = host_keys_in(_lines(self._compute.console(zone, name)))
        found = [each for each in self._compute.instances(FOLDER, self.identity) if _id(each) == job] if keys else []
        if not found:
            return None
        (interface,) = found[0]["networkInterfaces"]
        public = interface.get("accessConfigs", [{}])[0].get("natIP") if self.site.proxy_command is None else None
        return Door(str(public or interface["networkIP"]), keys)

    def output(self, job: str) -> str:
        """Return the last lines of the serial port of an instance or, if that is empty, of its worker."""
        path = self.folder / "jobs" / f"{self._names.get(job, job)}.out"
        zone, _, name = job.partition("/")
        try:
            lines, whence = _lines(self._compute.console(zone, name)), "its serial port"
        except (QueueSilent, PoolFailed, NoCapacity):
            lines, whence = [], ""
        if not lines and path.is_file():
            lines, whence = _lines(path.read_text(errors="replace")), str(path)
        if not lines:
            return f"Instance {job} printed nothing on its serial port"
        return "\n".join([f"Instance {job} printed last ({whence}):", *lines[-OUTPUT_LINES:]])

    def _body(self, job: str, zone: str, machine_type: str, script: str, *, is_spot: bool) -> dict[str, Any]:
        """Return the description of an instance, as Google takes it."""
        site = self.site
        name = re.sub("[^a-z0-9-]", "-", job.lower())[:LONGEST_NAME].strip("-")
        expires = datetime.now(UTC) + timedelta(seconds=site.walltime_s) + LATE
        marks = {OWNER: owner(), EXPIRES: expires.isoformat(timespec="seconds"), JOB: job, "startup-script": script}
        disk = {"sourceImage": site.machine_image}
        interface: dict[str, Any] = {"network": site.network}  # Any: nested
        if site.connection == "ssh" and site.proxy_command is None:
            interface["accessConfigs"] = [{"type": "ONE_TO_ONE_NAT", "name": "External NAT"}]
        body: dict[str, Any] = {  # Any: nested
            "name": f"s-{name}-{digest(self.identity, self._begun, job)[:6]}",
            "machineType": f"zones/{zone}/machineTypes/{machine_type}",
            "labels": dict(each.split("=", 1) for each in site.labels)
            | {POOL: _label(self.name), FOLDER: self.identity},
            "metadata": {"items": [{"key": key, "value": value} for key, value in marks.items()]},
            "scheduling": self._scheduling(is_spot=is_spot),
            "disks": [
                {
                    "boot": True,
                    "autoDelete": True,
                    "initializeParams": disk | ({"diskSizeGb": str(site.disk_GB)} if site.disk_GB else {}),
                }
            ],
            "networkInterfaces": [interface | ({"subnetwork": site.subnetwork} if site.subnetwork else {})],
        }
        if site.accelerator is not None:
            kind = f"zones/{zone}/acceleratorTypes/{site.accelerator}"
            body["guestAccelerators"] = [{"acceleratorType": kind, "acceleratorCount": site.n_accelerators}]
        if site.service_account is not None:
            scopes = ["https://www.googleapis.com/auth/cloud-platform"]
            body["serviceAccounts"] = [{"email": site.service_account, "scopes": scopes}]
        return body

    def _scheduling(self, *, is_spot: bool) -> dict[str, Any]:
        """Return when an instance ends whatever happens: Google itself deletes it at the end of its life."""
        return {
            "provisioningModel": "SPOT" if is_spot else "STANDARD",
            "instanceTerminationAction": "DELETE",
            "maxRunDuration": {"seconds": str(self.site.walltime_s)},
            "onHostMaintenance": "TERMINATE",  # instances with GPUs cannot move
            "automaticRestart": False,
        }


def sweep(name: str, site: GCPSite, *, also_alive: bool = False) -> Iterator[Found]:
    """Delete the instances of a pool that should have ended, and yield all that there are; it needs no folder.

    Args:
        name: name of the pool, such as gcp/gpu.
        site: gives project and credentials.
        also_alive: also delete the instances of this user and machine that may still work.

    Raises:
        PoolFailed: Google does not answer, or refuses to delete an instance; the others are deleted and yielded before.
    """
    compute = Compute(site)

    def machines() -> Iterator[tuple[Found, bool]]:
        for each in compute.instances(POOL, _label(name)):
            marks, state = _metadata(each), str(each["status"])
            expires, whose = _time(marks.get(EXPIRES, "")), marks.get(OWNER, "unknown")
            is_over = expires is None or expires < datetime.now(UTC) or ENTRIES.get(state) is STOPPED
            found = Found(_id(each), each["machineType"].rpartition("/")[2], state, whose, expires, False)
            yield found, is_over or (also_alive and whose == owner())

    def end(instance: str) -> None:
        zone, _, called = instance.partition("/")
        compute.delete(zone, called)

    return swept(machines(), end)


def _entry(instance: Mapping[str, Any]) -> Entry:  # Any: as Google gives it
    return replace(ENTRIES.get(instance["status"], Entry("running")), name=_metadata(instance).get(JOB, ""))


def _id(instance: Mapping[str, Any]) -> str:  # Any: as Google gives it
    return f"{instance['zone'].rpartition('/')[2]}/{instance['name']}"


def _metadata(instance: Mapping[str, Any]) -> dict[str, str]:  # Any: as Google gives it
    return {each["key"]: str(each.get("value", "")) for each in instance.get("metadata", {}).get("items", [])}


def _label(name: str) -> str:
    """Return the name of a pool as the value of a label, in which there may be no slash."""
    return re.sub("[^a-z0-9_-]", "_", name.lower())[:LONGEST_LABEL]


def _time(text: str) -> datetime | None:
    try:
        return datetime.fromisoformat(text)
    except ValueError:
        return None


def _lines(text: str) -> list[str]:
    return [line for line in text.splitlines() if line.strip()]
