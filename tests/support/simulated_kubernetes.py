"""Kubernetes on loopback: a real API server, and a simulated node that runs pods as processes (simulated_node.py).

The server (authorization, validation, quotas, labels, deletion in two steps) is kube-apiserver with etcd, built by
`build_kube_apiserver.sh`.
"""

import json
import os
import shutil
import subprocess
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from processes import PATIENCE_S, Servers, free_ports, processes_with, servers, wait_until
from simulated_node import IMAGES, NAMESPACE, OVER, Node

PROGRAM = Path.home() / ".cache" / "surveyor-tests" / "kubernetes" / "kube-apiserver"
ROLE = Path(__file__).parents[2] / "deployments" / "kubernetes" / "role.yaml"
ADMIN = "token-of-the-administrator"
ACCOUNT = "surveyor"


def has_kubernetes() -> bool:
    """Say whether everything is here that the simulated cluster needs."""
    return os.geteuid() == 0 and PROGRAM.exists() and all(map(shutil.which, ("etcd", "kubectl", "unshare")))


@dataclass
class SimulatedKubernetes:
    """A cluster on this machine.

    Attributes:
        folder: where it has its files; pods see of it what they mount.
        port: of the API server.
        admin: client of the API server that may do everything.
        node: the only one.
    """

    folder: Path
    port: int
    admin: Any = None
    node: Any = None  # a `Node`, as soon as the server is there

    @property
    def campaigns(self) -> Path:
        """The volume behind the claim `campaigns`, which pods mount under this path, too."""
        return self.folder / "campaigns"

    @property
    def kubeconfig(self) -> Path:
        """Configuration of kubectl: the contexts `surveyor` (the account with the shipped role), `admin`, `silent`."""
        return self.folder / "kubeconfig"

    @property
    def authority(self) -> Path:
        return self.folder / "certificates" / "apiserver.crt"

    def fields(self, **fields: Any) -> dict[str, Any]:
        """The fields of a block for it."""
        claims = [f"campaigns={self.campaigns}"]
        return {"container": IMAGES[0], "context": ACCOUNT, "interface": "lo", "volume_claims": claims, **fields}

    def kubectl(self, *arguments: str, context: str = "admin", text: str | None = None) -> str:
        """Run kubectl, and return what it printed."""
        command = ["kubectl", f"--kubeconfig={self.kubeconfig}", f"--context={context}", *arguments]
        done = subprocess.run(command, input=text, capture_output=True, text=True, check=False, timeout=PATIENCE_S)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def apply_role(self) -> None:
        """Make the account and its role, as they are shipped."""
        self.kubectl("apply", "-f", str(ROLE))

    def write_kubeconfig(self, path: Path, tokens: Mapping[str, str]) -> None:
        """Write a configuration of kubectl with a context for each account; the first is the current one."""
        server = {"server": f"https://127.0.0.1:{self.port}", "certificate-authority": str(self.authority)}
        contexts = {name: {"cluster": "simulated", "user": name, "namespace": NAMESPACE} for name in tokens}
        contexts["silent"] = {"cluster": "silent", "user": next(iter(tokens))}
        config = {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [
                {"name": "simulated", "cluster": server},
                {"name": "silent", "cluster": {"server": "https://127.0.0.1:9"}},  # nobody listens there
            ],
            "users": [{"name": name, "user": {"token": token}} for name, token in tokens.items()],
            "contexts": [{"name": name, "context": context} for name, context in contexts.items()],
            "current-context": next(iter(tokens)),
        }
        path.write_text(json.dumps(config))

    def pods(self) -> dict[str, dict[str, Any]]:
        """All pods by their names."""
        return {pod["metadata"]["name"]: pod for pod in self.node.pods()}

    def alive(self) -> list[str]:
        """The names of the pods that are not over."""
        return [name for name, pod in self.pods().items() if pod["status"].get("phase") not in OVER]

    def processes(self) -> set[Any]:
        """The processes of all pods."""
        return processes_with({"SIMULATED_NODE": str(self.folder)})

    def token(self, account: str = ACCOUNT) -> str:
        """A token of an account, by default of that with the shipped role, made by the server."""
        body = {"spec": {"audiences": [], "expirationSeconds": 7200}}
        answer = self.admin.create_namespaced_service_account_token(account, NAMESPACE, body, _preload_content=False)
        return str(json.loads(answer.data)["status"]["token"])


@contextmanager
def simulated_kubernetes() -> Iterator[SimulatedKubernetes]:
    """Simulate a cluster; in the end, no process of it is left, also when the test run is killed."""
    from kubernetes import client

    with servers("/tmp/svy-kube-") as started:
        cluster = _started(started)
        settings = client.Configuration(host=f"https://127.0.0.1:{cluster.port}")
        settings.api_key = {"authorization": ADMIN}
        settings.api_key_prefix = {"authorization": "Bearer"}
        settings.ssl_ca_cert = str(cluster.authority)
        connection = client.ApiClient(settings)
        cluster.admin = client.CoreV1Api(connection)
        cluster.admin.create_namespace({"metadata": {"name": NAMESPACE}})
        cluster.campaigns.mkdir()
        cluster.write_kubeconfig(cluster.kubeconfig, {"admin": ADMIN})
        cluster.apply_role()
        cluster.write_kubeconfig(cluster.kubeconfig, {"admin": ADMIN, ACCOUNT: cluster.token()})
        server = {"KUBERNETES_SERVICE_HOST": "127.0.0.1", "KUBERNETES_SERVICE_PORT": str(cluster.port)}
        batch = client.BatchV1Api(connection)
        cluster.node = Node(cluster.folder, cluster.admin, batch, server, cluster.authority, cluster.token)
        stop = threading.Event()
        thread = threading.Thread(target=cluster.node.run, args=(stop,))
        thread.start()
        try:
            yield cluster
        finally:
            stop.set()
            thread.join()


def _started(started: Servers) -> SimulatedKubernetes:
    client, peer, port = free_ports(3)
    folder, environment = started.folder, {"SIMULATED_CLUSTER": str(started.folder), "NO_PROXY": "127.0.0.1"}
    here, peers = f"http://127.0.0.1:{client}", f"http://127.0.0.1:{peer}"
    key = folder / "accounts.key"
    key.write_bytes(
        rsa.generate_private_key(65537, 2048).private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.TraditionalOpenSSL, serialization.NoEncryption()
        )
    )
    (folder / "tokens.csv").write_text(f"{ADMIN},admin,admin,system:masters\n")
    (folder / "etcd").mkdir(mode=0o700)
    started.start(
        *("etcd", "--data-dir", str(folder / "etcd"), "--listen-client-urls", here, "--advertise-client-urls", here),
        *("--listen-peer-urls", peers, "--initial-advertise-peer-urls", peers),
        *("--initial-cluster", f"default={peers}"),
        environment=environment,
    )
    started.start(
        *(str(PROGRAM), f"--etcd-servers={here}", "--bind-address=127.0.0.1", "--advertise-address=127.0.0.1"),
        *(f"--secure-port={port}", f"--cert-dir={folder / 'certificates'}", f"--token-auth-file={folder}/tokens.csv"),
        *(f"--service-account-key-file={key}", f"--service-account-signing-key-file={key}"),
        "--feature-gates=TTLAfterFinished=true",  # it is on in later versions
        *("--service-account-issuer=https://kubernetes.default.svc", "--authorization-mode=RBAC"),
        # The controller that makes tokens for accounts is not here.
        *("--service-cluster-ip-range=10.96.0.0/24", "--disable-admission-plugins=ServiceAccount"),
        environment=environment,
    )
    cluster = SimulatedKubernetes(folder, port)
    wait_until(lambda: _is_ready(cluster), started.logs)
    return cluster


def _is_ready(cluster: SimulatedKubernetes) -> bool:
    import urllib3

    if not cluster.authority.exists():
        return False
    address, bearer = f"https://127.0.0.1:{cluster.port}/readyz", {"Authorization": f"Bearer {ADMIN}"}
    with (
        suppress(urllib3.exceptions.HTTPError),
        urllib3.PoolManager(ca_certs=str(cluster.authority), retries=False, timeout=2.0) as connections,
    ):
        return bool(connections.request("GET", address, headers=bearer).status == 200)
    return False
