"""The pods of a pool in Kubernetes: created, looked for, deleted, swept."""

import asyncio
import os
import re
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from distributed import Security

from surveyor.errors import InputError, PoolFailed
from surveyor.pools.clouds.cloud_machines import CloudMachines
from surveyor.pools.clouds.credentials import certificates_in, check_in, files_for_workers
from surveyor.pools.clouds.marks import FOLDER, JOB, OWNER, POOL, Found, digest, owner
from surveyor.pools.kubernetes.client import Kubernetes
from surveyor.pools.kubernetes.manifest import PLACE, manifest, script, secret, sees
from surveyor.pools.kubernetes.site import KubernetesSite
from surveyor.pools.machines import OUTPUT_LINES, QueueSilent
from surveyor.pools.pool_folder import PoolFolder
from surveyor.pools.queues import Entry

OVER = ("Succeeded", "Failed")  # the server keeps them until somebody deletes them
KEPT_S = 60.0  # so long after its end, so that its log can be read
LONGEST_NAME = 54  # before its unique end; a pod's name is its host name, too

# Why a container does not begin, and would not in another pod either.
CERTAIN = {
    "ImagePullBackOff",
    "InvalidImageName",
    "ErrImageNeverPull",
    "CreateContainerConfigError",
    "CreateContainerError",
}
NO_CLAIM = re.compile(r"persistentvolumeclaim \S+ not found")


class Pods(CloudMachines[KubernetesSite]):
    """The pods of one pool.

    Its arguments are those of `CloudMachines`.

    Raises:
        InputError: the client is missing, this process is outside the cluster, or pods do not see the folder.
    """

    def __init__(
        self,
        name: str,
        site: KubernetesSite,
        folder: Path,
        address: str = "",
        security: Security | None = None,
        check: str = "",
    ) -> None:
        super().__init__(name, site, folder, address, security, check)
        self._over: dict[str, float] = {}  # when the end of pods was seen that are still there
        self._without_secret: set[str] = set()  # pods that were asked for, maybe without an answer, and wait for theirs
        self._client = Kubernetes(site)
        if site.workspace is None and not sees(manifest(site, "any", {}, {}, ""), self.folder):
            raise InputError(
                f"pool {name}: its folder {self.folder} lies under none of the volumes that a pod mounts "
                f"({', '.join(site.volume_claims) or 'none'}); give volume_claims of the block the claim of the run "
                "directory with its path in the flow's pod, as CLAIM=PATH, or let files travel through a bucket "
                "(workspace)"
            )

    async def submit(self, name: str, *, firm: bool = False) -> str:
        """Create a pod and return its name.

        Args:
            name: name of the job and of its worker; several workers append -0, -1 and so on.
            firm: of no effect.

        Raises:
            Refused: a quota, a missing permission or a wrong setting.
            QueueSilent: the server does not answer.
        """
        pod = f"{re.sub('[^a-z0-9-]', '-', name.lower())[:LONGEST_NAME]}-{digest(self.identity, self._begun, name)[:8]}"
        labels = {POOL: _label(self.name), FOLDER: self.identity}
        made = manifest(self.site, pod, labels, {OWNER: owner(), JOB: name}, self._script(pod, name))
        await asyncio.to_thread(self._create, pod, made)
        return pod

    def _script(self, pod: str, name: str) -> str:
        if self.site.workspace is None:
            path = self._output(pod)
            path.parent.mkdir(exist_ok=True)
            return script(self.site, name, path, self._address, self._security, self._check)
        check = check_in(PLACE, PoolFolder(self.folder))
        return script(self.site, name, Path(os.devnull), self._address, certificates_in(PLACE, self._security), check)

    def _create(self, pod: str, made: Mapping[str, Any]) -> None:  # Any: nested, as JSON
        if self.site.workspace is not None:
            self._without_secret.add(pod)
        uid = self._client.create(made)
        try:
            self._give_secret(pod, uid, made["metadata"]["labels"])
        except QueueSilent:
            raise  # it gets one as soon as it is seen
        except Exception:
            with suppress(QueueSilent):
                self._client.delete(pod)
            raise

    def _give_secret(self, pod: str, uid: str, labels: Mapping[str, str]) -> None:
        """Create the secret for which a pod waits, if it waits for one."""
        if pod in self._without_secret:
            self._client.create_secret(secret(pod, uid, labels, files_for_workers(PoolFolder(self.folder))))
            self._without_secret.discard(pod)

    async def look(self, jobs: Sequence[str]) -> Mapping[str, Entry]:
        """Return the state of all pods of this pool, whoever created them; those that are over are not shown.

        Raises:
            QueueSilent: the server does not answer.
            Refused: the account may not look.
        """
        found = await asyncio.to_thread(self._client.pods, f"{FOLDER}={self.identity}")
        now = time.monotonic()
        over = [each.metadata.name for each in found if each.status.phase in OVER]
        self._over = {name: self._over.get(name, now) for name in over}
        await self._delete([name for name, seen in self._over.items() if now > seen + KEPT_S])
        alive = [each for each in found if each.status.phase not in OVER]
        for each in alive:
            await asyncio.to_thread(self._give_secret, each.metadata.name, each.metadata.uid, each.metadata.labels)
        names = {each.metadata.name: (each.metadata.annotations or {}).get(JOB, "") for each in alive}
        return {each.metadata.name: replace(entry_of(each), name=names[each.metadata.name]) for each in alive}

    async def cancel(self, jobs: Collection[str]) -> None:
        """Delete pods, and all that are over; those that are gone are passed over.

        Raises:
            QueueSilent: the server does not answer, or refuses; with its words.
        """
        await self._delete([*{*jobs, *self._over}])

    def output(self, job: str) -> str:
        """Return why a pod ended, and the last lines that it printed."""
        try:
            pod = self._client.pod(job)
            reason, lines, whence = _reason(pod), [] if pod is None else self._client.log(job), "its log"
        except (QueueSilent, PoolFailed) as error:
            reason, lines, whence = f"its log cannot be read: {error}. ", [], ""
        path = self._output(job)
        if not lines and path.is_file():
            lines, whence = path.read_text(errors="replace").splitlines(), str(path)
        if not lines:
            return f"{reason}Pod {job} printed nothing"
        return "\n".join([f"{reason}Pod {job} printed last ({whence}):", *lines[-OUTPUT_LINES:]])

    def _output(self, pod: str) -> Path:
        return self.folder / "jobs" / f"{pod}.out"

    async def _delete(self, pods: Sequence[str]) -> None:
        for pod in pods:
            await asyncio.to_thread(self._client.delete, pod)
            self._over.pop(pod, None)


def entry_of(pod: Any) -> Entry:  # Any: the client is untyped
    """Return the state of a pod that is not over.

    One for which there is a node counts as running: it occupies the node while its image is downloaded, and the time
    for its start is limited. A pod that somebody deletes, such as whoever drains its node, has some time left.
    """
    if pod.metadata.deletion_timestamp is not None:
        return Entry("ending", taken_at=pod.metadata.deletion_timestamp.timestamp())
    if pod.status.phase != "Pending":
        return Entry("running")
    scheduled = {each.type: each for each in pod.status.conditions or []}.get("PodScheduled")
    if scheduled is None or scheduled.status != "True":
        words = "" if scheduled is None else _words(scheduled.reason, scheduled.message)
        is_wrong = NO_CLAIM.search(words) is not None
        return Entry("pending", words, is_wrong, is_wrong)
    containers = [*(pod.status.init_container_statuses or []), *(pod.status.container_statuses or [])]
    waiting = [each.state.waiting for each in containers if each.state is not None and each.state.waiting is not None]
    for each in waiting:
        if each.reason in CERTAIN:
            return Entry("pending", _words(each.reason, each.message), is_hopeless=True, is_certain=True)
    return Entry("running", "; ".join(_words(each.reason, each.message) for each in waiting))


def sweep(name: str, site: KubernetesSite, *, also_alive: bool = False) -> Iterator[Found]:
    """Delete the pods of a pool that are over or should be, and yield all that there are; it needs no folder.

    Args:
        name: name of the pool, such as kubernetes/gpu.
        site: gives namespace and context.
        also_alive: also delete the pods that wait or work, whoever created them.

    Raises:
        InputError: the client is missing, or finds no cluster.
        PoolFailed: the server refuses, or does not answer.
    """
    client = Kubernetes(site, is_inside=False)
    try:
        for each in client.pods(f"{POOL}={_label(name)}"):
            expires, phase = _end_of(each), each.status.phase
            was_ended = also_alive or phase in OVER or (expires is not None and expires < datetime.now(UTC))
            if was_ended:
                client.delete(each.metadata.name)
            whose = (each.metadata.annotations or {}).get(OWNER, "unknown")
            yield Found(each.metadata.name, each.spec.containers[0].image, phase, whose, expires, was_ended)
    except QueueSilent as error:
        raise PoolFailed(str(error)) from error


def _end_of(pod: Any) -> datetime | None:  # Any: the client is untyped
    """Return when the cluster ends a pod; None before it began."""
    begun: datetime | None = pod.status.start_time
    lifetime_s = pod.spec.active_deadline_seconds
    return None if begun is None or lifetime_s is None else begun + timedelta(seconds=lifetime_s)


def _reason(pod: Any) -> str:  # Any: the client is untyped
    """Return why a pod ended, in the words of the cluster; empty if it did not, or said nothing."""
    if pod is None:
        return ""
    messages = [_words(pod.status.reason, pod.status.message)]
    for each in pod.status.container_statuses or []:
        ended = each.state.terminated if each.state is not None else None
        if ended is not None:
            messages.append(f"{_words(ended.reason, ended.message)} (exit code {ended.exit_code})")
    words = "; ".join(each for each in messages if each)
    return f"Kubernetes says: {words}. " if words else ""


def _words(reason: str | None, message: str | None) -> str:
    return ": ".join(each for each in (reason, message) if each)


def _label(name: str) -> str:
    """Return the name of a pool as the value of a label, in which there may be no slash."""
    return name.replace("/", ".")
