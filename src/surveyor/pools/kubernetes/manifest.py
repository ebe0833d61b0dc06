"""The manifest of a pod. It holds no secret, as everybody who may look at pods can read it."""

import base64
import os
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from distributed import Security

from surveyor.pools.clouds.instance_watch import WATCHED
from surveyor.pools.clouds.worker_command import python_of, worker_command
from surveyor.pools.kubernetes.site import KubernetesSite
from surveyor.pools.machine import THREADS, UNBOUND

CONTAINER = "worker"
PLACE = Path("/run/surveyor-pool")  # where a pod that does not see the folder of the pool finds what it needs of it

# When the first process of a container ends, all others do. It waits for the prologue and the worker, and hands signals
# on: to the prologue, which ends, or to the watch, which tells the pool, and the pool moves the work before the time of
# the pod is over. A pod whose watch does not begin in time ends, too.
SCRIPT = """\
trap 'sleep 1' EXIT
exec > >(tee -a {output}) 2>&1 </dev/null
export SURVEYOR_JOB_BEGIN=$(date +%s)
export SURVEYOR_JOB_WALLTIME_S={time_s:.0f}
export {watched}=$(mktemp -u)
{exports}
export HOME=$(mktemp -d) USER=${{USER:-surveyor}}
cd "$HOME"
(
{prologue}
{check}
exec {command}
) &
worker=$!
trap 'kill -TERM $worker' TERM
(
sleep {start_s}
[ -e "${watched}" ] || {{ echo "no worker was started within {start_s} s: this pod ends"; kill $worker; }}
) &
wait $worker
status=$?
while kill -0 $worker 2>/dev/null; do wait $worker; status=$?; done
exit $status
"""


def script(site: KubernetesSite, name: str, output: Path, address: str, security: Security, check: str) -> str:
    """Return the script that a pod runs.

    Args:
        site: settings of the pool.
        name: name of the worker; several workers append -0, -1 and so on.
        output: file that keeps what the pod prints.
        address: address of the scheduler.
        security: certificates, by their files.
        check: arguments of the interpreter that compare the versions; empty for no check.
    """
    exports = [f"export {variable}={site.cores // site.workers_per_job}" for variable in THREADS]
    exports += [f"export {variable}={value}" for variable, value in UNBOUND.items() if site.workers_per_job > 1]
    return SCRIPT.format(
        output=shlex.quote(str(output)),
        time_s=site.worker_time_s,
        watched=WATCHED,
        start_s=f"{site.connect_s:g}",
        exports="\n".join(exports),
        prologue="\n".join(site.prologue),
        check=f"{python_of(site)} {check} || exit 1" if check else "",
        command=worker_command(site, name, address, security, hears_notice=True),
    )


def manifest(
    site: KubernetesSite,
    name: str,
    labels: Mapping[str, str],
    annotations: Mapping[str, str],
    script: str,
    *,
    firm: bool = False,
) -> dict[str, Any]:  # Any: nested, as JSON
    """Return the manifest of a pod.

    Its worker runs under the numbers of this process's user and groups: the certificate of the pool lies in the pool's
    folder, on a volume that both mount, where that user alone can read it, and what the worker writes belongs to the
    user. With a workspace, the pod mounts a secret of its own name instead, and waits until the secret is there.

    Args:
        site: settings of the pool.
        name: name of the pod.
        labels: labels by which the pod is found.
        annotations: further marks.
        script: what the pod runs.
        firm: whether it runs on a node that the cloud does not take away.
    """
    made = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "labels": dict(labels), "annotations": dict(annotations)},
        "spec": {
            "restartPolicy": "Never",
            "activeDeadlineSeconds": site.walltime_s,
            "automountServiceAccountToken": site.service_account is not None,
            "enableServiceLinks": False,
            "securityContext": _identity(),
            "containers": [_container(site, script)],
            "volumes": [*_claims(site), *_secret_of(site, name), {"name": "shm", "emptyDir": {"medium": "Memory"}}],
            **_where(site, firm=firm),
        },
    }
    patched: dict[str, Any] = merged(made, site.pod_patch)  # Any: nested, as JSON
    return patched


def secret(pod: str, uid: str, labels: Mapping[str, str], files: Sequence[Path]) -> dict[str, Any]:  # Any: as JSON
    """Return the secret with the files that a pod needs of the folder of its pool; it goes when the pod goes.

    Args:
        pod: name of the pod, and of the secret.
        uid: unique id of the pod.
        labels: labels of the pod.
        files: the files, which must be there.
    """
    owner = {"apiVersion": "v1", "kind": "Pod", "name": pod, "uid": uid}
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": pod, "labels": dict(labels), "ownerReferences": [owner]},
        "data": {path.name: base64.b64encode(path.read_bytes()).decode() for path in files},
    }


def merged(value: Any, patch: Any) -> Any:  # Any: whatever JSON holds
    """Return a value into which a patch is merged: lists of named entries by name; null removes; others replace."""
    if isinstance(value, Mapping) and isinstance(patch, Mapping):
        changed = {key: merged(value.get(key), each) for key, each in patch.items() if each is not None}
        return {key: each for key, each in value.items() if key not in patch} | changed
    if isinstance(patch, Mapping):
        return {key: merged(None, each) for key, each in patch.items() if each is not None}
    if _is_named(value) and _is_named(patch):
        by_name = {each["name"]: each for each in value}
        return list((by_name | {each["name"]: merged(by_name.get(each["name"]), each) for each in patch}).values())
    return patch


def sees(pod: Mapping[str, Any], folder: Path) -> bool:  # Any: nested, as JSON
    """Return whether the worker of a pod mounts something at a folder, or above it."""
    of_worker = [each for each in pod["spec"]["containers"] if each["name"] == CONTAINER]
    mounts = [mount["mountPath"] for each in of_worker for mount in each.get("volumeMounts") or []]
    return any(PurePosixPath(folder).is_relative_to(mount) for mount in mounts)


def _is_named(value: Any) -> bool:  # Any: whatever JSON holds
    return isinstance(value, list) and all(isinstance(each, Mapping) and "name" in each for each in value)


def _identity() -> dict[str, Any]:  # Any: numbers and lists of them
    others = sorted({*os.getgroups()} - {os.getgid()})
    return {
        "runAsUser": os.getuid(),
        "runAsGroup": os.getgid(),
        **({"supplementalGroups": others} if others else {}),
    }


def _container(site: KubernetesSite, script: str) -> dict[str, Any]:  # Any: nested, as JSON
    asked = {"cpu": str(site.cores), "memory": f"{round(site.memory_GB * 1000)}M"}
    if site.gpus:
        asked[site.gpu_resource] = str(site.gpus)
    mounts: list[dict[str, Any]] = [  # Any: texts, and whether it is read-only
        {"name": f"claim-{number}", "mountPath": claim.partition("=")[2]}
        for number, claim in enumerate(site.volume_claims)
    ]
    if site.workspace is not None:
        mounts.append({"name": "pool", "mountPath": str(PLACE), "readOnly": True})
    return {
        "name": CONTAINER,
        "image": site.container,
        # Kubernetes would put values in the place of $(NAME).
        "command": ["/bin/bash", "-c", script.replace("$", "$$")],
        "resources": {"requests": asked, "limits": asked},
        # The ranks of MPI and the loaders of torch exchange data there; containers have 64 MB of it by default.
        "volumeMounts": [*mounts, {"name": "shm", "mountPath": "/dev/shm"}],
    }


def _claims(site: KubernetesSite) -> list[dict[str, Any]]:  # Any: nested, as JSON
    names = [claim.partition("=")[0] for claim in site.volume_claims]
    return [
        {"name": f"claim-{number}", "persistentVolumeClaim": {"claimName": name}} for number, name in enumerate(names)
    ]


def _secret_of(site: KubernetesSite, pod: str) -> list[dict[str, Any]]:  # Any: nested, as JSON
    return [] if site.workspace is None else [{"name": "pool", "secret": {"secretName": pod}}]


def _where(site: KubernetesSite, *, firm: bool) -> dict[str, Any]:  # Any: nested, as JSON
    """Return the node selector, affinity, tolerations, service account and image pull secret of a pod."""
    found: dict[str, Any] = {}  # Any: nested, as JSON
    selector = [*site.node_selector]
    if site.spot_nodes is not None and firm:
        found["affinity"] = _away_from(*site.spot_nodes.split("=", 1))
    elif site.spot_nodes is not None:
        selector.append(site.spot_nodes)
    if selector:
        found["nodeSelector"] = dict(each.split("=", 1) for each in selector)
    if site.tolerations:
        found["tolerations"] = [_toleration(each) for each in site.tolerations]
    if site.service_account is not None:
        found["serviceAccountName"] = site.service_account
    if site.image_pull_secret is not None:
        found["imagePullSecrets"] = [{"name": site.image_pull_secret}]
    return found


def _away_from(key: str, value: str) -> dict[str, Any]:  # Any: nested, as JSON
    """Return the affinity of pods that no node with a label may run."""
    terms = [{"matchExpressions": [{"key": key, "operator": "NotIn", "values": [value]}]}]
    return {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": terms}}}


def _toleration(text: str) -> dict[str, str]:
    taint, _, effect = text.partition(":")
    key, has_value, value = taint.partition("=")
    made = {"key": key, "operator": "Equal" if has_value else "Exists"}
    return made | ({"value": value} if has_value else {}) | ({"effect": effect} if effect else {})
