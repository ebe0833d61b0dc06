"""Pools of pods on a real API server with a simulated node; the pool has the account and role that are shipped."""

import asyncio
import base64
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from counted_work import names, work, work_until
from distributed import Security
from kubernetes.client import (
    V1ContainerState,
    V1ContainerStateTerminated,
    V1ContainerStatus,
    V1ObjectMeta,
    V1Pod,
    V1PodCondition,
    V1PodStatus,
)
from object_stores import S3
from pool_scene import PoolScene
from processes import PATIENCE_S, wait_until
from relay import relay_before
from simulated_kubernetes import ACCOUNT, NAMESPACE, SimulatedKubernetes, simulated_kubernetes

from surveyor.errors import InputError, PoolFailed, WorkerLost
from surveyor.pools.cluster import close_cluster_pool
from surveyor.pools.kubernetes.manifest import merged
from surveyor.pools.kubernetes.pods import Pods, sweep
from surveyor.pools.kubernetes.site import KubernetesSite
from surveyor.pools.kubernetes.states import entry_of
from surveyor.pools.machines import QueueSilent, Refused
from surveyor.pools.pool import Pool
from surveyor.pools.queues import Entry
from surveyor.pools.submission import SubmitOptions
from surveyor.pools.watch import LOST_S
from surveyor.pools.workspace.workspace import Border, Workspace
from surveyor.storage.object_storage import ObjectStorage

PATCH = {"spec": {"containers": [{"name": "worker", "env": [{"name": "SIMULATED_INSTANCE", "value": "of-the-patch"}]}]}}

on_a_cluster = pytest.mark.kubernetes
pytestmark = [pytest.mark.slow]


@pytest.fixture(scope="module")
def shared_cluster() -> Iterator[SimulatedKubernetes]:
    from kubernetes.config import kube_config

    with simulated_kubernetes() as cluster, pytest.MonkeyPatch.context() as environment:
        environment.setenv("KUBECONFIG", str(cluster.kubeconfig))
        environment.setattr(kube_config, "KUBE_CONFIG_DEFAULT_LOCATION", str(cluster.kubeconfig))  # read at its import
        environment.delenv("KUBERNETES_SERVICE_HOST", raising=False)
        yield cluster
        wait_until(lambda: not cluster.processes(), lambda: f"alive: {cluster.processes()}")


@dataclass(frozen=True)
class Scene(PoolScene):
    """A pool, and what can be done to it."""

    pool_name = "kubernetes/test"

    cluster: SimulatedKubernetes
    path: Path
    pools: list[Pool] = field(default_factory=list)

    @property
    def pods(self) -> list[str]:
        """Those that the pool knows and that are not over."""
        return [pod for pod in self.cluster.alive() if pod in self.folder.read_jobs()]

    def site(self, **fields: Any) -> KubernetesSite:
        plain = {"max_jobs": 1, "idle_minutes": 0.05, "orphan_minutes": 0.25, "start_minutes": 10}
        return KubernetesSite.model_validate(self.cluster.fields(**plain | fields))

    def requests(self, **fields: Any) -> Pods:
        """The pods of a pool without a process."""
        self.folder.path.mkdir(exist_ok=True)
        security = Security(tls_ca_file="/pool/ca.pem", tls_worker_cert="/pool/ca.pem", tls_worker_key="/pool/k.pem")
        site, address = self.site(**{"gpus": 8, **fields}), "tls://127.0.0.1:8786"  # there is no node for 8
        return Pods("kubernetes/gpu", site, self.folder.path, address, security, "/pool/check.py /pool/versions.json")

    def spent(self) -> float:
        return float((self.folder.read_state() or {})["spent"])

    def close(self) -> None:
        super().close()
        self.cluster.kubectl("delete", "pods", "--all", "--grace-period=1", "--wait=false")


@pytest.fixture
def scene(shared_cluster: SimulatedKubernetes, request: pytest.FixtureRequest) -> Iterator[Scene]:
    path = shared_cluster.campaigns / f"scene-{len(list(shared_cluster.campaigns.iterdir()))}"
    path.mkdir()
    wait_until(lambda: not shared_cluster.pods(), lambda: str(shared_cluster.pods().keys()))  # of the scene before
    scene = Scene(shared_cluster, path)
    try:
        yield scene
    finally:
        scene.close()


@on_a_cluster
def test_pods_wait_for_a_node_come_with_work_are_replaced_when_deleted_and_leave_without_work(scene: Scene) -> None:
    """And a patch arrives in them, and none of them holds a secret; to be replaced is no failure."""
    scene.cluster.node.n_gpus = 0
    pool = scene.open_pool(gpus=1, pod_patch=PATCH, price_per_hour=3600.0)
    end = scene.path / "end"
    future = pool.submit_with(SubmitOptions("a"), work_until, scene.log, "a", end)
    message = "PENDING: Unschedulable: 0/1 nodes are available: 1 Insufficient nvidia.com/gpu"
    wait_until(lambda: message in str(pool.waiting), scene.said)
    assert not future.done()
    assert scene.spent() == 0.0  # what has no node costs nothing
    scene.cluster.node.n_gpus = 1
    wait_until(lambda: names(scene.log, "begin") == ["a"], scene.said)
    (first,) = scene.pods
    secrets = [(scene.folder.path / name).read_text() for name in ("key.pem", "certificate.pem")]
    stored = json.loads(scene.cluster.kubectl("get", "pod", first, "-o", "json"))
    assert not [text for text in ["PRIVATE KEY", *map(str.strip, secrets)] if text in json.dumps(stored)]
    assert not [line for text in secrets for line in text.splitlines() if line in json.dumps(stored)]
    evict(scene.cluster, first)
    wait_until(lambda: names(scene.log, "begin") == ["a", "a"], scene.said)
    end.touch()
    assert future.result(PATIENCE_S) == "of-the-patch"
    wait_until(lambda: first not in scene.pods, scene.said)
    pool.shutdown()
    scene.wait_for_the_end_of_the_pool()
    wait_until(lambda: not scene.cluster.pods(), lambda: str(scene.cluster.pods().keys()))
    spent = scene.spent()
    assert spent > 1.0
    with pytest.raises(PoolFailed, match="and its budget is 1;"):  # opened again, it has nothing left
        scene.open_pool(price_per_hour=3600.0, budget=1.0).submit(abs, -1).result(PATIENCE_S)


def evict(cluster: SimulatedKubernetes, pod: str) -> None:
    """Evict a pod as kubectl does that drains its node."""
    body = {"apiVersion": "policy/v1beta1", "kind": "Eviction", "metadata": {"name": pod, "namespace": NAMESPACE}}
    cluster.admin.create_namespaced_pod_eviction(pod, NAMESPACE, body, _preload_content=False)


LOW = {"phase": "Failed", "reason": "Evicted", "message": "The node was low on resource: memory. "}
SHUT = {
    "phase": "Failed",
    "reason": "Terminated",
    "message": "Pod was terminated in response to imminent node shutdown.",
}


@on_a_cluster
def test_work_moves_without_a_failure_however_a_pod_is_taken_away_but_not_for_ever(scene: Scene) -> None:
    """Its node is gone, lacks memory (before and after a worker connects), or shuts down.

    What has another reason is a failure: a worker that dies alone, and what happens again and again without a result.
    """
    node, end, wait = scene.cluster.node, scene.path / "end", scene.path / "wait"
    pool = scene.open_pool(prologue=[f"[ ! -e {wait} ] || sleep 60"], idle_minutes=1)
    pods: list[str] = []

    def next_pod(n_begun: int) -> str:
        """Wait for a pod that works, or for one that waits."""
        is_new = lambda: bool({*scene.pods} - {*pods}) and len(names(scene.log, "begin")) == n_begun  # noqa: E731
        wait_until(is_new, scene.said)
        pods.extend({*scene.pods} - {*pods})
        return pods[-1]

    future = pool.submit_with(SubmitOptions("a"), work_until, scene.log, "a", end)
    node.lose(next_pod(1))
    low = next_pod(2)
    wait.touch()
    node.end(low, 0, **LOW)
    waiting = next_pod(2)
    wait_until(lambda: scene.cluster.pods()[waiting]["status"]["phase"] == "Running", scene.said)
    wait.unlink()
    node.end(waiting, 0, **LOW)
    node.end(next_pod(3), 14, **SHUT)
    last = next_pod(4)
    assert not future.done()
    log = scene.folder.log.read_text()
    assert log.count("is taken away (Evicted: The node was low on resource: memory. )") == 2
    assert "is taken away;" in log  # as the signal told, while nothing was to be seen

    node.end(last, 0, **LOW)
    with pytest.raises(WorkerLost):
        future.result(PATIENCE_S)
    assert "gave no worker" not in scene.folder.log.read_text()
    again = pool.submit_with(SubmitOptions("b"), work_until, scene.log, "b", end)
    wait_until(lambda: "b" in names(scene.log, "begin"), scene.said)
    (worker,) = (each for each in scene.cluster.processes() if "spawn_main" in " ".join(each.cmdline()))
    worker.kill()
    with pytest.raises(WorkerLost):
        again.result(LOST_S - 10)  # its successor shows that the pod is there


@on_a_cluster
def test_when_the_process_of_a_pool_is_killed_its_pod_ends_by_itself_and_the_next_process_removes_it(
    scene: Scene,
) -> None:
    pool = scene.open_pool()
    scene.start(pool, "a", 300)
    (first,) = scene.pods
    holder = scene.folder.read_holder()
    assert holder is not None
    os.kill(int(holder["pid"]), signal.SIGKILL)
    wait_until(lambda: first not in scene.cluster.alive(), scene.said)
    assert scene.folder.read_holder() is None  # nobody has ended it
    assert scene.cluster.pods().keys() == {first}
    assert scene.open_pool().submit_with(SubmitOptions("a"), work, scene.log, "a", 0).result(PATIENCE_S)
    assert first not in scene.cluster.pods()


@on_a_cluster
def test_a_pool_whose_image_cannot_be_pulled_says_so_and_gives_up(scene: Scene) -> None:
    message = r'nor would another: job .*never start it: ImagePullBackOff: Back-off pulling image "nowhere/x:1"'
    with pytest.raises(PoolFailed, match=message):
        scene.open_pool(container="nowhere/x:1").submit(abs, -1).result(PATIENCE_S)
    scene.wait_for_the_end_of_the_pool()
    wait_until(lambda: not scene.cluster.pods(), lambda: str(scene.cluster.pods().keys()))


@on_a_cluster
def test_a_pod_asks_for_what_the_block_says_ends_itself_and_is_found_again(scene: Scene) -> None:
    fields = {"cores": 4, "memory_GB": 7.5, "lifetime_minutes": 90, "start_minutes": 10, "image_pull_secret": "reader"}
    fields |= {"node_selector": ["disk=fast"], "tolerations": ["nvidia.com/gpu:NoSchedule", "team=ada"]}
    name = asyncio.run(scene.requests(**fields, prologue=["echo $$ $(HOME) > $HOME/x"]).submit("Pool_9-1"))
    pod = scene.cluster.pods()[name]
    spec, (container,) = pod["spec"], pod["spec"]["containers"]
    assert (spec["restartPolicy"], spec["activeDeadlineSeconds"]) == ("Never", 5400)
    assert spec["automountServiceAccountToken"] is False
    assert spec["imagePullSecrets"] == [{"name": "reader"}]
    assert spec["nodeSelector"] == {"disk": "fast"}
    asked = [each for each in spec["tolerations"] if "tolerationSeconds" not in each]  # of the server
    assert asked == [
        {"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"},
        {"key": "team", "operator": "Equal", "value": "ada"},
    ]
    resources = {"cpu": "4", "memory": "7500M", "nvidia.com/gpu": "8"}
    assert container["resources"] == {"requests": resources, "limits": resources}
    assert (spec["securityContext"]["runAsUser"], spec["securityContext"]["runAsGroup"]) == (os.getuid(), os.getgid())
    text = container["command"][2]
    assert "SURVEYOR_JOB_WALLTIME_S=4800\n" in text  # the image is downloaded within the lifetime
    assert "echo $$$$ $$(HOME) > $$HOME/x" in text  # as the kubelet would put values in their place
    assert "--name Pool_9-1 " in text

    again = scene.requests()
    words = "Unschedulable: 0/1 nodes are available: 1 Insufficient nvidia.com/gpu."
    wait_until(lambda: asyncio.run(again.look([])) == {name: Entry("pending", words, name="Pool_9-1")}, scene.said)
    # The account may not delete the first, which keeps none of the others.
    with pytest.raises(QueueSilent, match="refused to delete"):
        asyncio.run(again.cancel(["sub/resource", name, name, "another"]))
    assert asyncio.run(again.look([name])) == {}
    assert scene.cluster.pods() == {}


def quota(scene: Scene) -> Pods:
    scene.cluster.kubectl("create", "quota", "few", "--hard=pods=0")
    api, status = scene.cluster.admin, {"status": {"hard": {"pods": "0"}, "used": {"pods": "0"}}}
    api.patch_namespaced_resource_quota_status("few", NAMESPACE, status)  # the controller that counts is not here
    return scene.requests()


def no_role(scene: Scene) -> Pods:
    scene.cluster.kubectl("delete", "rolebinding", "surveyor")
    return scene.requests()


def no_right_to_secrets(scene: Scene) -> Pods:
    scene.cluster.kubectl("patch", "role", "surveyor", "--type=json", '-p=[{"op": "remove", "path": "/rules/2"}]')
    scene.folder.path.mkdir()
    scene.folder.make_certificates()
    for path in (scene.folder.check, scene.folder.versions):
        path.touch()
    return scene.requests(workspace="s3://bucket/workspace")


def wrong_patch(scene: Scene) -> Pods:
    return scene.requests(pod_patch={"spec": {"containers": [{"name": "worker", "imagePullPolicy": "Sometimes"}]}})


def other_namespace(scene: Scene) -> Pods:
    return scene.requests(namespace="elsewhere")


def silent_server(scene: Scene) -> Pods:
    return scene.requests(context="silent")


@on_a_cluster
@pytest.mark.parametrize(
    ("arrange", "kind", "message"),
    [
        (quota, Refused, r"\(403\).*exceeded quota: few.*Have that quota raised, or lower max_jobs"),
        (no_role, Refused, r'cannot create resource "pods".*Give the role .* the permission create on pods$'),
        (no_right_to_secrets, Refused, r'cannot create resource "secrets".*the permission create on secrets$'),
        (wrong_patch, Refused, r'\(422\): Pod .* is invalid: .*imagePullPolicy: Unsupported value: "Sometimes"'),
        (other_namespace, Refused, r"\(403\).*in the namespace \"elsewhere\""),
        (silent_server, QueueSilent, r"cannot be asked to create a pod.*refused"),
    ],
)
def test_a_refusal_says_what_is_missing_and_silence_is_none(
    scene: Scene, arrange: Any, kind: type[Exception], message: str
) -> None:
    try:
        with pytest.raises(kind, match=message) as failure:
            asyncio.run(arrange(scene).submit("gpu-1"))
        assert type(failure.value) is kind
        assert scene.cluster.pods() == {}
    finally:
        scene.cluster.kubectl("delete", "quota", "--all")
        scene.cluster.apply_role()


@on_a_cluster
def test_a_claim_that_is_missing_is_hopeless(scene: Scene) -> None:
    pods = scene.requests(volume_claims=["campaigns=" + str(scene.cluster.campaigns), "none=/none"], gpus=0)
    name = asyncio.run(pods.submit("gpu-1"))
    message = 'Unschedulable: persistentvolumeclaim "none" not found'
    expected = {name: Entry("pending", message, is_hopeless=True, is_certain=True, name="gpu-1")}
    wait_until(lambda: asyncio.run(pods.look([])) == expected, scene.said)


@on_a_cluster
def test_a_pod_that_fails_says_why_and_is_removed_and_its_output_stays(scene: Scene) -> None:
    pods = scene.requests(gpus=0, prologue=["echo no CUDA here", "exit 3"])
    name = asyncio.run(pods.submit("gpu-1"))
    wait_until(lambda: not scene.cluster.alive() and scene.cluster.pods() != {}, scene.said)
    assert asyncio.run(pods.look([name])) == {}
    assert (
        pods.output(name) == f"Kubernetes says: Error (exit code 3). Pod {name} printed last (its log):\nno CUDA here"
    )
    asyncio.run(pods.cancel([]))
    assert scene.cluster.pods() == {}
    assert pods.output(name).endswith(f"{name}.out):\nno CUDA here")


@on_a_cluster
def test_a_pod_whose_prologue_hangs_ends_without_its_pool(scene: Scene) -> None:
    pods = scene.requests(gpus=0, prologue=["echo mounting", "sleep 600"], start_minutes=0.05)
    name = asyncio.run(pods.submit("gpu-1"))
    wait_until(lambda: not scene.cluster.alive() and scene.cluster.pods() != {}, scene.said)
    assert pods.output(name).splitlines()[1:] == ["mounting", "no worker was started within 3 s: this pod ends"]


@on_a_cluster
def test_a_pod_that_is_over_and_cannot_be_deleted_keeps_no_pool_from_its_work(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor does it come back as a job when it was let go. The role may create pods, and delete none."""
    monkeypatch.setattr("surveyor.pools.kubernetes.pods.KEPT_S", 0.0)
    pods = scene.requests()
    over = asyncio.run(scene.requests(gpus=0, prologue=["exit 3"]).submit("gpu-1"))
    waiting = asyncio.run(pods.submit("gpu-2"))
    wait_until(lambda: over not in scene.cluster.alive(), scene.said)
    scene.cluster.kubectl("patch", "role", "surveyor", "--type=json", f"-p={NO_DELETION}")
    try:
        wait_until(lambda: not may_delete(scene), scene.said)
        for _ in range(3):
            assert asyncio.run(pods.look([over, waiting])).keys() == {waiting}
        asyncio.run(pods.cancel([over]))  # it costs nothing
        with pytest.raises(QueueSilent, match="refused to delete"):
            asyncio.run(pods.cancel([waiting]))
    finally:
        scene.cluster.apply_role()
    asyncio.run(pods.cancel([waiting]))
    assert waiting not in scene.cluster.alive()


NO_DELETION = '[{"op": "replace", "path": "/rules/0/verbs", "value": ["create", "get", "list"]}]'


def may_delete(scene: Scene) -> bool:
    asked = ("auth", "can-i", "delete", "pods", "--quiet")
    command = ["kubectl", f"--kubeconfig={scene.cluster.kubeconfig}", f"--context={ACCOUNT}", *asked]
    return subprocess.run(command, check=False).returncode == 0


@on_a_cluster
def test_after_interruptions_pods_avoid_the_nodes_that_are_taken_away(scene: Scene) -> None:
    pods = scene.requests(gpus=0, spot_nodes="disk=fast", node_selector=["kubernetes.io/os=linux"])
    spot, firm = asyncio.run(pods.submit("gpu-1")), asyncio.run(pods.submit("gpu-2", firm=True))
    stored = scene.cluster.pods()
    selectors = [stored[pod]["spec"]["nodeSelector"] for pod in (spot, firm)]
    assert selectors == [{"kubernetes.io/os": "linux", "disk": "fast"}, {"kubernetes.io/os": "linux"}]
    wait_until(lambda: "nodeName" in scene.cluster.pods()[spot]["spec"], scene.said)
    words = "Unschedulable: 0/1 nodes are available: 1 node(s) didn't match Pod's node affinity."
    wait_until(lambda: asyncio.run(pods.look([])).get(firm) == Entry("pending", words, name="gpu-2"), scene.said)


@on_a_cluster
def test_a_sweep_removes_what_is_over_and_with_all_the_rest(scene: Scene) -> None:
    waiting = asyncio.run(scene.requests().submit("gpu-1"))
    over = asyncio.run(scene.requests(gpus=0, prologue=["exit 3"]).submit("gpu-2"))
    wait_until(lambda: over not in scene.cluster.alive(), scene.said)
    site = scene.site()
    assert {each.id: each.was_ended for each in sweep("kubernetes/gpu", site)} == {waiting: False, over: True}
    assert list(sweep("kubernetes/other", site, also_alive=True)) == []
    assert scene.cluster.pods().keys() == {waiting}
    assert [each.was_ended for each in sweep("kubernetes/gpu", site, also_alive=True)] == [True]
    assert scene.cluster.pods() == {}


PLAIN = {"container": "registry.example.org/surveyor:1", "volume_claims": ["campaigns=/campaigns"]}


def test_outside_a_cluster_the_pool_is_refused_with_advice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    with pytest.raises(InputError, match=r"runs outside the cluster.*run the campaign in a pod.*name a context"):
        Pods("kubernetes/gpu", KubernetesSite.model_validate(PLAIN), tmp_path)


@on_a_cluster
def test_a_folder_that_pods_do_not_see_is_refused_without_a_workspace(
    scene: Scene, tmp_path: Path, s3: S3, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With one, the certificate of the pool comes to each pod as a secret, which goes with it.

    Also to a pod of which the pool hears late, as the answer to its creation gets lost.
    """
    with pytest.raises(InputError, match=r"lies under none of the volumes that a pod mounts \(campaigns=.*CLAIM=PATH"):
        Pods("kubernetes/gpu", scene.site(), tmp_path)
    with pytest.raises(InputError, match="name one that there is"):
        scene.requests(context="nobody-has-it")
    storage, (begin, end) = s3.storage("workspace"), (scene.path / name for name in ("begin", "end"))
    begin.write_text("what no pod sees")
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "kubeconfig"))
    with relay_before(scene.cluster.port) as relay:
        replace(scene.cluster, port=relay.port).write_kubeconfig(
            tmp_path / "kubeconfig", {ACCOUNT: scene.cluster.token()}
        )
        pool = scene.open_pool(volume_claims=[], workspace=str(storage), idle_minutes=5)
        assert pool.address
        with relay.losing_answers():
            future = pool.submit(os.path.exists, begin)
            wait_until(lambda: bool(scene.cluster.pods()), scene.said)
        assert future.result(PATIENCE_S) is False
        check_a_pool_with_a_workspace(scene, pool, storage, begin, end)


def check_a_pool_with_a_workspace(scene: Scene, pool: Pool, storage: ObjectStorage, begin: Path, end: Path) -> None:
    workspace = Workspace(pool, Border("kubernetes/test", storage, scene.path, checkpoint_s=60))
    workspace.submit_with(SubmitOptions("copy", outputs=(str(end),)), shutil.copyfile, begin, end).result(PATIENCE_S)
    workspace.shutdown()
    assert end.read_text() == "what no pod sees"
    (pod,) = scene.pods
    stored = {kind: json.loads(scene.cluster.kubectl("get", kind, pod, "-o", "json")) for kind in ("pod", "secret")}
    (owner,) = stored["secret"]["metadata"]["ownerReferences"]
    assert owner["uid"] == stored["pod"]["metadata"]["uid"]
    key = (scene.folder.path / "key.pem").read_bytes()
    assert base64.b64decode(stored["secret"]["data"]["key.pem"]) == key
    assert not [line for line in key.decode().splitlines() if line in json.dumps(stored["pod"])]
    close_cluster_pool(scene.folder)
    wait_until(lambda: not scene.cluster.kubectl("get", "secrets,pods", "-o", "name"), scene.said)


def conditions(**states: str) -> dict[str, Any]:
    return {"conditions": [V1PodCondition(type=kind, status=state) for kind, state in states.items()]}


def ended(reason: str) -> dict[str, Any]:
    state = V1ContainerState(terminated=V1ContainerStateTerminated(exit_code=137, reason=reason))
    names = {"name": "worker", "image": "i", "image_id": ""}
    return {"container_statuses": [V1ContainerStatus(**names, ready=False, restart_count=0, state=state)]}


NOW = datetime.now(UTC)
FAILED = {"phase": "Failed"}
OF_POD = {"message": "Pod ephemeral local storage usage exceeds the total limit of containers 1Gi. "}
REFUSED = {"message": "Pod The node had condition: [DiskPressure]. "}


@pytest.mark.parametrize(
    ("status", "deleted", "state", "is_silent"),
    [
        ({"phase": "Running"}, None, "running", False),
        ({"phase": "Running"}, NOW, "taken", False),
        ({"phase": "Running"} | conditions(Ready="False", ContainersReady="True"), None, "running", True),
        ({"phase": "Running"} | conditions(Ready="False", ContainersReady="False"), None, "running", False),
        ({"phase": "Unknown"}, None, "running", True),
        ({"phase": "Succeeded"}, None, None, False),
        (FAILED | {"reason": "DeadlineExceeded"}, None, None, False),
        (FAILED | ended("OOMKilled"), None, None, False),
        (FAILED | ended("ContainerStatusUnknown"), None, "taken", False),
        (FAILED, NOW, "taken", False),
        (FAILED | conditions(DisruptionTarget="True"), None, "taken", False),
        (FAILED | conditions(DisruptionTarget="False"), None, None, False),
        (FAILED | {"reason": "Preempting"}, None, "taken", False),
        (FAILED | {"reason": "NodeShutdown"}, None, "taken", False),
        (SHUT, None, "taken", False),
        (LOW, None, "taken", False),
        (LOW | REFUSED, None, "taken", False),
        (LOW | OF_POD, None, None, False),
    ],
)
def test_how_kubernetes_shows_that_it_takes_a_pod_away(
    status: dict[str, Any], deleted: datetime | None, state: str | None, is_silent: bool
) -> None:
    entry = entry_of(V1Pod(metadata=V1ObjectMeta(deletion_timestamp=deleted), status=V1PodStatus(**status)))
    if entry is None:
        assert state is None
    else:
        assert ("taken" if entry.taken_at is not None else entry.state, entry.is_silent) == (state, is_silent)
        assert (entry.state == "ending") == (state == "taken")


def test_without_the_client_the_command_that_installs_it_is_said() -> None:
    script = "import sys; sys.modules['kubernetes'] = None\n"
    script += f"from surveyor.pools.kubernetes.pods import *; Pods('kubernetes/gpu', KubernetesSite(**{PLAIN}), Path())"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert 'pools of the kind kubernetes need its client: pip install "surveyor[kubernetes]"' in done.stderr


def test_a_patch_is_merged_into_lists_by_name_and_null_removes() -> None:
    value = {"a": 1, "b": {"c": 1, "d": 2}, "list": [{"name": "x", "v": 1, "w": 1}, {"name": "y"}], "plain": [1]}
    patch = {"a": None, "b": {"c": 3}, "list": [{"name": "x", "v": 2}, {"name": "z", "v": None}], "plain": [2]}
    assert merged(value, patch) == {
        "b": {"c": 3, "d": 2},
        "list": [{"name": "x", "v": 2, "w": 1}, {"name": "y"}, {"name": "z"}],
        "plain": [2],
    }


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"container": "two words"}, "container"),
        ({"volume_claims": ["campaigns"]}, "volume_claims"),
        ({"volume_claims": ["campaigns=relative"]}, "volume_claims"),
        ({"tolerations": ["a=b:Sometimes"]}, "tolerations"),
        ({"node_selector": ["disk"]}, "node_selector"),
        ({"node_selector": ["a=b", "spot=true"], "spot_nodes": "spot=true"}, "which node_selector asks for, too"),
        ({"gpus": 1, "cores": 2, "workers_per_job": 2}, "expected 1 where a pod has GPUs"),
        ({"workers_per_job": 2}, "expected at most cores, which is 1"),
        ({"lifetime_minutes": 10, "start_minutes": 9.5}, "start_minutes: found 9.5, expected less"),
        ({"pod_patch": {"spec": {"restartPolicy": "Always"}}}, "pod_patch: found spec.restartPolicy"),
        ({"pod_patch": {"metadata": {"labels": {"surveyor-pool": "x"}}}}, "pod_patch: found surveyor-pool"),
        ({"pod_patch": {"metadata": {"namespace": "x"}}}, "pod_patch: found metadata.namespace"),
    ],
)
def test_settings_that_cannot_work_are_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        KubernetesSite.model_validate({**PLAIN, **fields})


def test_only_pods_on_spot_nodes_are_ever_to_be_firm() -> None:
    assert KubernetesSite.model_validate(PLAIN).firm_after is None
    assert KubernetesSite.model_validate({**PLAIN, "spot_nodes": "spot=true"}).firm_after == 3


def test_a_time_limit_must_fit_into_what_the_download_of_an_image_leaves() -> None:
    site = KubernetesSite.model_validate({**PLAIN, "lifetime_minutes": 60, "start_minutes": 15})
    assert (site.connect_s, site.worker_time_s, site.longest_function_s) == (900, 2700, 2650)
