"""The pods of a pool in Kubernetes: created, looked for, deleted, swept."""

import asyncio
import logging
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
from surveyor.pools.clouds.cloud_machines import CloudMachines, for_each
from surveyor.pools.clouds.credentials import certificates_in, check_in, files_for_workers
from surveyor.pools.clouds.marks import FOLDER, JOB, OWNER, POOL, Found, digest, owner
from surveyor.pools.clouds.sweeping import swept
from surveyor.pools.kubernetes.client import Kubernetes
from surveyor.pools.kubernetes.manifest import PLACE, manifest, script, secret, sees
from surveyor.pools.kubernetes.site import KubernetesSite
from surveyor.pools.kubernetes.states import OVER, deleted, end_of, entry_of
from surveyor.pools.machines import OUTPUT_LINES, QueueSilent, Refused
from surveyor.pools.pool_folder import PoolFolder
from surveyor.pools.queues import Entry

logger = logging.getLogger("surveyor.pools.cluster")

KEPT_S = 60.0  # so long after its end, so that its log can be read
LONGEST_NAME = 54  # before its unique end; a pod's name is its host name, too


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
        self._known: set[str] = set()  # pods that this process has created or found, and not deleted
        self._deleted: set[str] = set()
        self._let_go: set[str] = set()  # pods that were to be deleted
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
            firm: let it run on a node that is not taken away, where the block says which nodes may be.

        Raises:
            Refused: a quota, a missing permission or a wrong setting.
            QueueSilent: the server does not answer.
        """
        pod = f"{re.sub('[^a-z0-9-]', '-', name.lower())[:LONGEST_NAME]}-{digest(self.identity, self._begun, name)[:8]}"
        labels = {POOL: _label(self.name), FOLDER: self.identity}
        made = manifest(self.site, pod, labels, {OWNER: owner(), JOB: name}, self._script(pod, name), firm=firm)
        await asyncio.to_thread(self._create, pod, made)
        self._known.add(pod)
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

        Pods that were taken away are shown as ending until they are cancelled, also those that are gone.

        Raises:
            QueueSilent: the server does not answer.
            Refused: the account may not look.
        """
        found = {
            pod.metadata.name: pod for pod in await asyncio.to_thread(self._client.pods, f"{FOLDER}={self.identity}")
        }
        now = time.monotonic()
        self._over = {name: self._over.get(name, now) for name, pod in found.items() if pod.status.phase in OVER}
        gone = self._known & {*jobs} - found.keys()
        self._known = (gone | found.keys()) - self._deleted
        await self._clear([name for name, seen in self._over.items() if now > seen + KEPT_S])
        entries = {name: replace(entry, name=_job_of(pod)) for name, pod in found.items() if (entry := entry_of(pod))}
        for name in self._without_secret & found.keys() - self._over.keys():
            if (complaint := await asyncio.to_thread(self._late_secret, found[name])) and name in entries:
                entries[name] = replace(entries[name], reason=complaint, is_hopeless=True, is_certain=True)
        shown = {name: entry for name, entry in entries.items() if name not in self._over.keys() & self._let_go}
        return {**shown, **{name: deleted() for name in gone}}

    def _late_secret(self, pod: Any) -> str:  # Any: the client is untyped
        """Create the secret for which a pod waits; return why the server refuses it, or nothing."""
        try:
            self._give_secret(pod.metadata.name, pod.metadata.uid, pod.metadata.labels)
        except Refused as error:
            return str(error)
        except QueueSilent as error:  # it is tried again
            logger.warning("pool %s: pod %s has not got its certificate: %s", self.name, pod.metadata.name, error)
        return ""

    async def cancel(self, jobs: Collection[str]) -> None:
        """Delete pods, and all that are over; those that are gone are passed over.

        A pod that is over costs nothing, so nothing fails if it cannot be deleted.

        Raises:
            QueueSilent: the server does not answer, or refuses to delete one; the others are deleted.
        """
        self._let_go |= {*jobs}
        await self._clear([*self._over])
        await self._delete([*{*jobs} - self._over.keys()])

    def output(self, job: str) -> str:
        """Return why a pod ended, and the last lines that it printed."""
        try:
            pod = self._client.pod(job)
            reason, lines, whence = end_of(pod), [] if pod is None else self._client.log(job), "its log"
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

    async def _clear(self, pods: Sequence[str]) -> None:
        """Delete pods that are over, as far as that is possible."""
        try:
            await self._delete(pods)
        except QueueSilent as error:
            logger.warning("pool %s: a pod that is over stays for now: %s", self.name, error)
            self._over |= dict.fromkeys(self._over.keys() & {*pods}, time.monotonic())

    async def _delete(self, pods: Sequence[str]) -> None:
        def delete(pod: str) -> None:
            self._client.delete(pod)
            self._over.pop(pod, None)
            self._known.discard(pod)
            self._deleted.add(pod)

        await for_each(pods, delete)


def sweep(name: str, site: KubernetesSite, *, also_alive: bool = False) -> Iterator[Found]:
    """Delete the pods of a pool that are over or should be, and yield all that there are; it needs no folder.

    Args:
        name: name of the pool, such as kubernetes/gpu.
        site: gives namespace and context.
        also_alive: also delete the pods that wait or work, whoever created them.

    Raises:
        InputError: the client is missing, or finds no cluster.
        PoolFailed: the server does not answer, or refuses to delete a pod; the others are deleted and yielded before.
    """
    client = Kubernetes(site, is_inside=False)

    def machines() -> Iterator[tuple[Found, bool]]:
        for each in client.pods(f"{POOL}={_label(name)}"):
            expires, phase = _end_of(each), each.status.phase
            whose = (each.metadata.annotations or {}).get(OWNER, "unknown")
            found = Found(each.metadata.name, each.spec.containers[0].image, phase, whose, expires, False)
            yield found, also_alive or phase in OVER or (expires is not None and expires < datetime.now(UTC))

    return swept(machines(), client.delete)


def _end_of(pod: Any) -> datetime | None:  # Any: the client is untyped
    """Return when the cluster ends a pod; None before it began."""
    begun: datetime | None = pod.status.start_time
    lifetime_s = pod.spec.active_deadline_seconds
    return None if begun is None or lifetime_s is None else begun + timedelta(seconds=lifetime_s)


def _job_of(pod: Any) -> str:  # Any: the client is untyped
    return str((pod.metadata.annotations or {}).get(JOB, ""))


def _label(name: str) -> str:
    """Return the name of a pool as the value of a label, in which there may be no slash."""
    return name.replace("/", ".")
