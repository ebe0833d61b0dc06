"""The parts of Kubernetes that are simulated: scheduler, node and controllers, which run pods as processes.

A pod has namespaces of its own for processes, mounts and its host name: of the folder of the cluster it sees what its
volumes mount, and nothing outlives its first process. Its image is this machine, and its address is that of loopback.
"""

import json
import os
import shlex
import signal
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import foreign_connections
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import rsa

NAMESPACE = "campaigns"
NAME = "node-1"
LABELS = {"kubernetes.io/os": "linux", "disk": "fast"}
IMAGES = ("registry.example.org/surveyor:1",)  # others cannot be pulled
SECRETS = "/run/secrets/kubernetes.io/serviceaccount"
POLL_S = 0.25
UNSHARED = ("unshare", "--mount", "--propagation=private", "--pid", "--uts", "--fork", "--kill-child", "--mount-proc")
OVER = ("Succeeded", "Failed")


@dataclass
class Container:
    """The first process of a pod.

    Attributes:
        process: the program `unshare`; its child is the first process.
        ends: when the pod has to be over; None for no limit.
        log: what it prints.
        stopped: when it was told to end.
        killed: when it is killed because the node ends it; None for never.
        ending: status of the pod when the node has ended it.
        is_lost: whether its node has gone.
    """

    process: "subprocess.Popen[bytes]"
    ends: float | None
    log: Path
    stopped: float | None = None
    killed: float | None = None
    ending: dict[str, Any] = field(default_factory=dict)
    is_lost: bool = False


@dataclass
class Node:
    """A node with the programs that decide what runs on it.

    Attributes:
        folder: of the cluster; a claim is a folder in it.
        admin: client of the API server.
        batch: likewise, for jobs.
        server: the variables by which pods find the API server.
        authority: certificate of the API server.
        token: returns a token for a pod that is to have one.
        n_gpus: number of GPUs, all free.
    """

    folder: Path
    admin: Any
    batch: Any
    server: Mapping[str, str]
    authority: Path
    token: Callable[[], str]
    n_gpus: int = 1
    containers: dict[str, Container] = field(default_factory=dict)  # by the uid of the pod
    pulled: set[str] = field(default_factory=set)  # pods whose image was tried

    def run(self, stop: threading.Event) -> None:
        """Look after pods and jobs until told to stop."""
        logs = _log_server(self)
        thread = threading.Thread(target=logs.serve_forever)
        thread.start()
        self.admin.create_node({"metadata": {"name": NAME, "labels": LABELS}})
        endpoint = {"kubeletEndpoint": {"Port": logs.server_port}}
        status = {"addresses": [{"type": "InternalIP", "address": "127.0.0.1"}], "daemonEndpoints": endpoint}
        self.admin.patch_node_status(NAME, {"status": status})
        try:
            while not stop.wait(POLL_S):
                self._look()
        finally:
            logs.shutdown()
            thread.join()
            logs.server_close()
            for container in self.containers.values():
                container.process.kill()
                container.process.wait()

    def pods(self) -> list[dict[str, Any]]:
        """All pods, as the server describes them."""
        return _items(self.admin.list_namespaced_pod)

    def end(self, pod: str, grace_s: float, **status: Any) -> None:
        """End a pod as a kubelet does that shuts down or lacks memory: nobody deletes it, and it is shown as failed."""
        container = self.container(pod)
        container.ending = status
        container.killed = time.monotonic() + grace_s
        for first in _children(container.process.pid) if grace_s else []:
            os.kill(first, signal.SIGTERM)

    def lose(self, pod: str) -> None:
        """Let the node of a pod be gone: its processes are, and after a while it is noticed that it does not answer."""
        container = self.container(pod)
        container.is_lost = True
        container.process.kill()

    def container(self, pod: str) -> Container:
        """The container of a pod."""
        return self.containers[self.admin.read_namespaced_pod(pod, NAMESPACE).metadata.uid]

    def _look(self) -> None:
        secrets = _items(self.admin.list_namespaced_secret)  # before the pods, which are older than their secrets
        pods = self.pods()
        for pod in pods:
            with suppress(_Changed):
                self._look_after(pod)
        uids = {pod["metadata"]["uid"] for pod in pods}
        for each in (each["metadata"] for each in secrets):
            with suppress(_Changed):
                if uids.isdisjoint(owner["uid"] for owner in each.get("ownerReferences", [])):
                    _ask(self.admin.delete_namespaced_secret, each["name"], NAMESPACE)
        by_owner = {owner["uid"]: pod for pod in pods for owner in pod["metadata"].get("ownerReferences", [])}
        for job in _items(self.batch.list_namespaced_job):
            with suppress(_Changed):
                self._look_after_job(job, by_owner.get(job["metadata"]["uid"]))

    def _look_after(self, pod: dict[str, Any]) -> None:
        uid, phase = pod["metadata"]["uid"], pod["status"].get("phase")
        if "nodeName" not in pod["spec"]:
            self._schedule(pod)
        elif uid in self.containers and phase not in OVER:
            self._watch(pod, self.containers[uid])
        elif "deletionTimestamp" in pod["metadata"]:
            _ask(self.admin.delete_namespaced_pod, pod["metadata"]["name"], NAMESPACE, grace_period_seconds=0)
        elif phase == "Pending":
            self._begin(pod)

    def _schedule(self, pod: dict[str, Any]) -> None:
        complaint = self._complaint(pod["spec"])
        if complaint is None:
            target = {"apiVersion": "v1", "kind": "Node", "name": NAME}
            body = {"metadata": {"name": pod["metadata"]["name"]}, "target": target}
            _ask(self.admin.create_namespaced_binding, NAMESPACE, body)
        elif complaint not in (each.get("message") for each in pod["status"].get("conditions", [])):
            waits = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": complaint}
            self._set(pod, conditions=[waits])

    def _complaint(self, spec: dict[str, Any]) -> str | None:
        limits = [container.get("resources", {}).get("limits", {}) for container in spec["containers"]]
        claims = [each.get("persistentVolumeClaim", {}).get("claimName") for each in spec.get("volumes", [])]
        if missing := [claim for claim in claims if claim and not (self.folder / claim).is_dir()]:
            return f'persistentvolumeclaim "{missing[0]}" not found'
        if sum(int(limit.get("nvidia.com/gpu", 0)) for limit in limits) > self.n_gpus:
            return "0/1 nodes are available: 1 Insufficient nvidia.com/gpu."
        if not spec.get("nodeSelector", {}).items() <= LABELS.items():
            return "0/1 nodes are available: 1 node(s) didn't match node selector."
        of_nodes = spec.get("affinity", {}).get("nodeAffinity", {})
        terms = of_nodes.get("requiredDuringSchedulingIgnoredDuringExecution", {}).get("nodeSelectorTerms", [])
        if terms and not any(all(map(_matches, term["matchExpressions"])) for term in terms):
            return "0/1 nodes are available: 1 node(s) didn't match Pod's node affinity."
        return None

    def _begin(self, pod: dict[str, Any]) -> None:
        uid, (container, *_) = pod["metadata"]["uid"], pod["spec"]["containers"]
        if container["image"] not in IMAGES:
            waits = {"reason": "ImagePullBackOff", "message": f'Back-off pulling image "{container["image"]}"'}
            if uid not in self.pulled:
                waits = {"reason": "ErrImagePull", "message": "rpc error: code = NotFound desc = no such image"}
            self.pulled.add(uid)
            self._set(pod, containerStatuses=[_status(container, waiting=waits)])
            return
        log = self.folder / "logs" / uid
        log.parent.mkdir(exist_ok=True)
        with log.open("wb") as output:
            process = subprocess.Popen(
                [*UNSHARED, "bash", "-c", self._script(pod, container)],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
                cwd="/",
                env={"PATH": os.environ["PATH"], "SIMULATED_NODE": str(self.folder)},
            )
        lifetime_s = pod["spec"].get("activeDeadlineSeconds")
        ends = None if lifetime_s is None else time.monotonic() + lifetime_s
        self.containers[uid] = Container(process, ends, log)
        runs = [_status(container, running={"startedAt": _now()})]
        ready = [{"type": kind, "status": "True"} for kind in ("Ready", "ContainersReady")]
        given = {"phase": "Running", "podIP": "127.0.0.1", "startTime": _now()}
        self._set(pod, **given, conditions=ready, containerStatuses=runs)

    def _watch(self, pod: dict[str, Any], container: Container) -> None:
        """End a container when its time is over or its pod is deleted, and say that it ended."""
        code = container.process.poll()
        if container.is_lost:
            self._watch_lost(pod)
            return
        if code is None:
            self._end_if_due(container, pod["metadata"])
            return
        ended = {"exitCode": code % 256, "reason": "Completed" if code == 0 else "Error", "finishedAt": _now()}
        status = {"phase": "Failed" if code else "Succeeded", **container.ending}
        self._set(pod, **status, containerStatuses=[_status(pod["spec"]["containers"][0], terminated=ended)])

    def _watch_lost(self, pod: dict[str, Any]) -> None:
        """Do what controllers do where no kubelet answers: note it, and remove what is deleted."""
        conditions = {each["type"]: each["status"] for each in pod["status"]["conditions"]}
        if "deletionTimestamp" in pod["metadata"]:
            _ask(self.admin.delete_namespaced_pod, pod["metadata"]["name"], NAMESPACE, grace_period_seconds=0)
        elif conditions["Ready"] == "True":
            self._set(pod, conditions=[{"type": "Ready", "status": "False"}])

    def _end_if_due(self, container: Container, metadata: dict[str, Any]) -> None:
        now = time.monotonic()
        if container.ends is not None and now > container.ends:
            message = "Pod was active on the node longer than the specified deadline"
            container.ending = {"reason": "DeadlineExceeded", "message": message}
            container.process.kill()
        elif container.killed is not None and now > container.killed:
            container.process.kill()
        elif "deletionTimestamp" in metadata and container.stopped is None:
            container.stopped = now
            for first in _children(container.process.pid):
                os.kill(first, signal.SIGTERM)
        elif container.stopped is not None and now > container.stopped + metadata.get("deletionGracePeriodSeconds", 30):
            container.process.kill()

    def _set(self, pod: dict[str, Any], **status: Any) -> None:
        body = {"metadata": {"uid": pod["metadata"]["uid"]}, "status": status}
        _ask(self.admin.patch_namespaced_pod_status, pod["metadata"]["name"], NAMESPACE, body)

    def _look_after_job(self, job: dict[str, Any], pod: dict[str, Any] | None) -> None:
        """Create the pod of a job, and say when it ended; as the limit of repeats is 0, there is one pod alone."""
        metadata, template = job["metadata"], job["spec"]["template"]
        status: dict[str, Any] = {}
        if job["status"].get("conditions"):
            return
        if pod is None:
            owner = {"apiVersion": "batch/v1", "kind": "Job", "name": metadata["name"], "uid": metadata["uid"]}
            labels = template["metadata"].get("labels", {}) | {"job-name": metadata["name"]}
            made = {"name": f"{metadata['name']}-x", "labels": labels, "ownerReferences": [owner]}
            _ask(self.admin.create_namespaced_pod, NAMESPACE, {"metadata": made, "spec": template["spec"]})
            status = {"active": 1, "startTime": _now()}
        elif pod["status"]["phase"] in OVER:
            kind, count = ("Failed", "failed") if pod["status"]["phase"] == "Failed" else ("Complete", "succeeded")
            status = {"active": 0, count: 1, "conditions": [{"type": kind, "status": "True"}]}
        if status:
            _ask(self.batch.patch_namespaced_job_status, metadata["name"], NAMESPACE, {"status": status})

    def _script(self, pod: dict[str, Any], container: dict[str, Any]) -> str:
        """Return what a pod runs: its mounts, and then its command in place of the shell that made them."""
        spec, mounts = pod["spec"], list(enumerate(container.get("volumeMounts", [])))
        secrets = {each["name"]: self._secret(each["secret"]) for each in spec.get("volumes", []) if "secret" in each}
        claims = {each["name"]: each.get("persistentVolumeClaim") for each in spec.get("volumes", [])}
        lines = ["set -e", f"hostname {pod['metadata']['name']}", "mount -t tmpfs tmpfs /run", "mkdir /run/claims"]
        for number, mount in mounts:
            if claim := claims[mount["name"]]:
                lines += [f"mkdir /run/claims/{number}"]
                lines += [f"mount --bind {self.folder / claim['claimName']} /run/claims/{number}"]
        if spec.get("automountServiceAccountToken") is not False:
            lines += [f"mkdir -p {SECRETS}", f"cp {self.authority} {SECRETS}/ca.crt"]
            lines += [f"echo -n {self.token()} > {SECRETS}/token", f"echo -n {NAMESPACE} > {SECRETS}/namespace"]
        lines += [f"mount -t tmpfs tmpfs {self.folder}"]
        for number, mount in mounts:
            path, is_claim = shlex.quote(mount["mountPath"]), claims[mount["name"]]
            lines += [f"mkdir -p {path}", f"mount {'--bind' if is_claim else '-t tmpfs'} /run/claims/{number} {path}"]
            files = secrets.get(mount["name"], {}).items()
            lines += [f"echo {content} | base64 -d > {path}/{name}" for name, content in files]
        lines += [f"cd {container.get('workingDir', '/run')}"]
        words = [*container.get("command", []), *container.get("args", [])]
        # As the kubelet reads them; variables are named nowhere.
        command = [word.replace("$$", "$") for word in words]
        return "\n".join([*lines, f"exec {shlex.join(['env', '-i', *self._variables(container), *command])}"])

    def _secret(self, volume: dict[str, Any]) -> dict[str, str]:
        """Return the files of a secret; a pod waits as long as it is not there."""
        answer = _ask(self.admin.read_namespaced_secret, volume["secretName"], NAMESPACE)
        return dict(json.loads(answer.data)["data"])

    def _variables(self, container: dict[str, Any]) -> list[str]:
        of_image = {
            "PATH": f"{Path(sys.executable).parent}:/usr/sbin:/usr/bin:/sbin:/bin",
            "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")]),
            "HOME": "/run",  # where nothing outlives the pod
            "SIMULATED_NODE": str(self.folder),
            **foreign_connections.variables(),
        }
        given = {each["name"]: each.get("value", "") for each in container.get("env", [])}
        return [f"{name}={value}" for name, value in {**of_image, **self.server, **given}.items()]


class _Changed(Exception):
    """Somebody else was faster; the next look shows it."""


def _ask(request: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
    from kubernetes.client import ApiException

    try:
        return request(*arguments, _preload_content=False, **options)
    except ApiException as error:
        if error.status in (404, 409):
            raise _Changed from error
        raise


def _matches(expression: Mapping[str, Any]) -> bool:
    is_in = LABELS.get(expression["key"]) in expression["values"]
    return is_in == {"In": True, "NotIn": False}[expression["operator"]]


def _items(request: Callable[..., Any]) -> list[dict[str, Any]]:
    return list(json.loads(request(NAMESPACE, _preload_content=False).data)["items"])


def _children(process: int) -> list[int]:
    path = Path(f"/proc/{process}/task/{process}/children")
    return [int(each) for each in path.read_text().split()] if path.exists() else []


def _status(container: dict[str, Any], **state: Any) -> dict[str, Any]:
    names = {"name": container["name"], "image": container["image"], "imageID": ""}
    return {**names, "ready": "running" in state, "restartCount": 0, "state": state}


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _log_server(node: Node) -> ThreadingHTTPServer:
    """Return what serves the logs of containers to the API server."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            target = urlsplit(self.path)
            pod, options = target.path.split("/")[3], parse_qs(target.query)
            uids = {
                each["metadata"]["name"]: each["metadata"]["uid"] for each in _items(node.admin.list_namespaced_pod)
            }
            container = node.containers.get(uids.get(pod, ""))
            if container is not None and options.get("follow") == ["true"]:
                container.process.wait()
            lines = [] if container is None else container.log.read_bytes().splitlines(keepends=True)
            content = b"".join(lines[-int(options["tailLines"][0]) :] if "tailLines" in options else lines)
            self.send_response(200)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(_certificate(node.folder / "kubelet.pem"))
    server.socket = context.wrap_socket(server.socket, server_side=True)
    return server


def _certificate(path: Path) -> Path:
    key, name, now = rsa.generate_private_key(65537, 2048), x509.Name([]), datetime.now(UTC)
    builder = x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
    made = builder.not_valid_before(now).not_valid_after(now + timedelta(days=1)).sign(key, hashes.SHA256())
    plain = serialization.PrivateFormat.TraditionalOpenSSL, serialization.NoEncryption()
    pem = serialization.Encoding.PEM
    path.write_bytes(key.private_bytes(pem, *plain) + made.public_bytes(pem))
    return path
