"""The deployment `kubernetes` on a real API server with a simulated node, by the commands that its README.md gives."""

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import UUID

import ase.io
import pytest
from ase.build import bulk
from object_stores import S3
from prefect.client.orchestration import SyncPrefectClient
from prefect_kubernetes.worker import KubernetesWorkerJobConfiguration
from prefect_server import ended_at_last
from processes import PATIENCE_S, wait_until
from simulated_kubernetes import NAMESPACE, SimulatedKubernetes, simulated_kubernetes
from simulated_node import IMAGES

from surveyor.blocks.pools import KubernetesPool
from surveyor.blocks.storages import S3Storage
from surveyor.run_directory import RunDirectory
from surveyor.storage.object_storage import storage_at

DEPLOYMENTS = Path(__file__).parents[2] / "deployments"
FOLDER = DEPLOYMENTS / "kubernetes"


class Site:
    """The deployment, with a Prefect worker under the account that is shipped for it."""

    def __init__(self, cluster: SimulatedKubernetes, environment: dict[str, str]) -> None:
        self.cluster = cluster
        config = cluster.folder / "worker.kubeconfig"
        programs = os.pathsep.join([str(Path(sys.executable).parent), environment["PATH"]])
        observed = {"PREFECT_INTEGRATIONS_KUBERNETES_OBSERVER_NAMESPACES": NAMESPACE}
        self.environment = {**environment, **observed, "PATH": programs, "KUBECONFIG": str(config)}
        cluster.kubectl("apply", "-f", str(FOLDER / "worker.yaml"))
        cluster.write_kubeconfig(config, {"prefect-worker": cluster.token("prefect-worker")})
        template = ("--base-job-template", "base-job-template.json")
        self.call("prefect", "work-pool", "create", "kubernetes", "--type", "kubernetes", *template)
        self.call("prefect", "deploy", "--all")

    def save_pool(self, **fields: Any) -> None:
        plain = {"container": IMAGES[0], "interface": "lo", "max_jobs": 1, "idle_minutes": 5}
        KubernetesPool.model_validate({**plain, **fields}).save("cpu", overwrite=True)

    def call(self, *command: str) -> str:
        done = subprocess.run(
            command, env=self.environment, cwd=FOLDER, capture_output=True, text=True, check=False, timeout=PATIENCE_S
        )
        assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
        return done.stdout

    def run(self, flow: str, parameters: dict[str, Any]) -> UUID:
        variables = {"image": IMAGES[0], "volume_path": str(self.cluster.campaigns), "user_id": 0}
        given = [word for name, value in variables.items() for word in ("--job-variable", f"{name}={value}")]
        words = self.call(
            "prefect", "deployment", "run", f"{flow}/kubernetes", "--params", json.dumps(parameters), *given
        ).split()
        return UUID(words[words.index("UUID:") + 1])

    def said(self) -> str:
        outputs = [*self.cluster.folder.glob("logs/*"), self.cluster.folder / "worker.log"]
        return "\n".join(f"{path}:\n{path.read_text()[-4000:]}" for path in outputs if path.exists())


@pytest.fixture(scope="module")
def site(environment: dict[str, str]) -> Iterator[Site]:
    with simulated_kubernetes() as cluster:
        site = Site(cluster, environment)
        command = [sys.executable, "-m", "prefect", "worker", "start", "--pool", "kubernetes"]
        with ended_at_last(command, log=cluster.folder / "worker.log", environment=site.environment):
            yield site


def test_the_template_gives_jobs_that_are_not_repeated_and_see_the_volume_of_campaigns() -> None:
    template = json.loads((FOLDER / "base-job-template.json").read_text())
    values = {"image": IMAGES[0], "tolerations": [{"key": "campaigns", "operator": "Exists"}]}
    made = KubernetesWorkerJobConfiguration.from_template_and_values(template, values)
    spec = asyncio.run(made).job_manifest["spec"]
    pod, (container,) = spec["template"]["spec"], spec["template"]["spec"]["containers"]
    assert (spec["backoffLimit"], spec["ttlSecondsAfterFinished"], pod["restartPolicy"]) == (0, 86400, "Never")
    assert pod["serviceAccountName"] == "surveyor"
    assert pod["tolerations"] == values["tolerations"]
    claims = {each["name"]: each.get("persistentVolumeClaim", {}).get("claimName") for each in pod["volumes"]}
    mounts = {each["mountPath"]: claims[each["name"]] for each in container["volumeMounts"]}
    # Prefect copies the folder in which it starts: that must be an empty one.
    assert mounts == {"/campaigns": "campaigns", container["workingDir"]: None}


@pytest.mark.kubernetes
@pytest.mark.long  # three to four minutes of processor time, most of it Prefect's and of what polls
def test_a_campaign_is_a_job_whose_pool_has_pods_that_share_no_disk_and_continues_after_its_pod_is_evicted(
    site: Site, client: SyncPrefectClient, s3: S3
) -> None:
    cluster, folder, bucket = site.cluster, site.cluster.campaigns / "copper", s3.new_bucket()
    workspace, labels = (storage_at(f"{bucket}/{name}", s3.access) for name in ("workspace", "labels"))
    S3Storage(**s3.access.model_dump()).save("simulated", overwrite=True)
    site.save_pool(volume_claims=[], workspace=str(workspace), storage="s3/simulated")
    folder.mkdir()
    ase.io.write(folder / "copper.extxyz", bulk("Cu", cubic=True))
    loose = {"discard_energy_meV_per_atom": 1e6, "discard_forces_meV_per_A": 1e6}
    campaign = {
        "run_directory": str(folder / "run"),
        "walkers": [{"start": str(folder / "copper.extxyz"), "n_walkers": 1, "n_steps": 20}],
        "reference": {"emt": {"rehearsal": {"delay_s": 1}}},
        "model": {"pair": {}},
        "bootstrap": {"n_structures": 4},
        "learning": {"n_generations": 1, "n_states": 1, **loose},
        "labels": str(labels),
        "storage": "s3/simulated",
        "pools": dict.fromkeys(("sampling", "labelling", "training"), "kubernetes/cpu"),
    }
    run = site.run("online-learning", campaign)

    def has_completed() -> bool:
        state = client.read_flow_run(run).state_name
        assert state not in ("Failed", "Crashed"), site.said()
        return bool(state == "Completed")

    wait_until(lambda: any(labels.list("labels/")) or has_completed(), site.said)
    job, *_ = json.loads(cluster.kubectl("get", "jobs", "-o", "json"))["items"]
    assert (job["spec"]["backoffLimit"], job["spec"]["ttlSecondsAfterFinished"]) == (0, 86400)
    assert job["spec"]["template"]["spec"]["serviceAccountName"] == "surveyor"
    pods = cluster.pods()
    (worker,) = (pod for name, pod in pods.items() if name.startswith("kubernetes-cpu-1-"))
    assert [each for each in worker["spec"]["volumes"] if "persistentVolumeClaim" in each] == []
    (first,) = (pod for pod in pods if pod.startswith(job["metadata"]["name"]))
    cluster.kubectl("delete", "pod", first, "--wait=false")
    wait_until(has_completed, site.said)
    assert RunDirectory(folder / "run").n_complete() == 2
    assert list(workspace.list("")) == []
    assert len(json.loads(cluster.kubectl("get", "jobs", "-o", "json"))["items"]) == 2
    wait_until(lambda: not cluster.alive(), site.said)
    assert not RunDirectory(folder / "run").lease.exists()
    assert "no instances or pods of pool kubernetes/cpu" in site.call("surveyor", "pool", "sweep", "kubernetes/cpu")
