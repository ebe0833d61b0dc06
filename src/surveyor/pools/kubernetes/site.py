"""Pods of Kubernetes: the settings of a pool whose workers run in a cluster of containers."""

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar

from pydantic import Field, StringConstraints, model_validator

from surveyor.pools.clouds.cloud_site import CloudSite
from surveyor.pools.clouds.marks import OF_SURVEYOR
from surveyor.pools.site import END_S, START_S, Site

NAME = r"[a-z0-9]([a-z0-9.-]*[a-z0-9])?"
Name = Annotated[str, StringConstraints(pattern=rf"^{NAME}$", max_length=253)]
Claim = Annotated[str, StringConstraints(pattern=rf"^{NAME}=/.*$")]
Selector = Annotated[str, StringConstraints(pattern=r"^[^=\s]+=[^=\s]*$")]
Toleration = Annotated[
    str, StringConstraints(pattern=r"^[^=:\s]+(=[^=:\s]*)?(:(NoSchedule|PreferNoSchedule|NoExecute))?$")
]

# What a pool relies on in its pods, so that no patch may change it.
OF_METADATA = ("name", "namespace", "generateName")
OF_SPEC = ("restartPolicy", "activeDeadlineSeconds")


class PodRequest(Site):
    """Settings of a pool of pods, and of each of them."""

    container: str = Field(
        min_length=1,
        pattern=r"^\S+$",
        title="Container image",
        description="Image with bash, surveyor and the engine of the stage, such as "
        "registry.example.org/surveyor-mace:1. Its version of surveyor must be that of the flow's image.",
    )
    cores: int = Field(1, ge=1, title="Cores", description="Cores of each pod: request and limit.")
    memory_GB: float = Field(4.0, gt=0, title="Memory (GB)", description="Memory of each pod: request and limit.")
    gpus: int = Field(0, ge=0, title="GPUs", description="GPUs of each pod.")
    gpu_resource: str = Field(
        "nvidia.com/gpu",
        min_length=1,
        title="GPU resource",
        description="Name under which the nodes offer their GPUs, such as amd.com/gpu.",
    )
    volume_claims: list[Claim] = Field(
        default_factory=list,
        title="Volume claims",
        description="Persistent volume claims and the paths at which pods mount them, such as campaigns=/campaigns. "
        "The run directory lies on one of them, under the same path as in the flow's pod, unless there is a workspace.",
    )


class KubernetesSite(CloudSite, PodRequest):  # in forms, the fields of the last one come first
    """Pods in a cluster with Kubernetes: one is created for each job, and deleted at the end."""

    kind: ClassVar[str] = "kubernetes"
    is_experimental: ClassVar[bool] = True
    untried: ClassVar[str] = "they were tried on a real API server with simulated nodes only, never on a real cluster"
    limit_field: ClassVar[str] = "lifetime_minutes"
    costs_while_pending: ClassVar[bool] = False  # a pod without a node
    causes: ClassVar[str] = "image, resources, claims, tolerations, prologue or python"

    namespace: Name | None = Field(
        None, title="Namespace", description="Namespace of the pods; by default that of the flow's pod."
    )
    node_selector: list[Selector] = Field(
        default_factory=list,
        title="Node selector",
        description="Labels of the nodes on which pods may run, such as cloud.google.com/gke-accelerator=nvidia-l4.",
    )
    spot_nodes: Selector | None = Field(
        None,
        title="Spot nodes",
        description="Label of the cheaper nodes that the cloud may take away, such as cloud.google.com/gke-spot=true. "
        "Pods run on these nodes only; after too many interruptions, on others only.",
    )
    on_demand_after: int = Field(
        3,
        ge=1,
        title="On demand after",
        description="With spot nodes: number of pods that are taken away, with no function finished in between, before "
        "the pool creates one for other nodes.",
    )
    tolerations: list[Toleration] = Field(
        default_factory=list,
        title="Tolerations",
        description="Taints that pods tolerate, as KEY=VALUE:EFFECT; without a value any value, without an effect any "
        "effect, such as nvidia.com/gpu:NoSchedule.",
    )
    service_account: Name | None = Field(
        None,
        title="Service account",
        description="Service account of the pods, if their programs need one; by default they have no token at all. "
        "The account with the role that creates pods is that of the flow, not this one.",
    )
    image_pull_secret: Name | None = Field(
        None, title="Pull secret", description="Secret of the namespace with the credentials of the image's registry."
    )
    context: str | None = Field(
        None,
        min_length=1,
        title="Context",
        description="Context of kubectl's configuration file, for a flow outside the cluster; pods must be able to "
        "reach the flow's machine. By default the flow runs in a pod, with its service account.",
    )
    pod_patch: dict[str, Any] = Field(  # Any: whatever a manifest holds
        default_factory=dict,
        title="Patch",
        description="Part of the manifest of a pod, merged last into that of the pool. Lists whose entries have a name "
        "are merged by name; the container is called worker. Other values are replaced; null removes. Never a secret.",
    )

    @model_validator(mode="after")
    def _check_pods(self) -> "KubernetesSite":
        if self.gpus and self.workers_per_job > 1:
            raise ValueError(
                f"workers_per_job: found {self.workers_per_job}, expected 1 where a pod has GPUs, as all of its "
                "workers would use the same one; ask for more pods with a GPU each"
            )
        if self.workers_per_job > self.cores:
            raise ValueError(
                f"workers_per_job: found {self.workers_per_job}, expected at most cores, which is {self.cores}, as "
                "each worker needs a core"
            )
        if self.spot_nodes in self.node_selector:
            raise ValueError(f"spot_nodes: found {self.spot_nodes}, which node_selector asks for, too; remove it there")
        if self.longest_function_s <= 0:
            raise ValueError(
                f"start_minutes: found {self.start_minutes:g}, expected less, as only {self.lifetime_minutes:g} min "
                "are there for start and work (lifetime_minutes)"
            )
        if changed := _changed_by(self.pod_patch):
            raise ValueError(f"pod_patch: found {', '.join(changed)}, which the pool sets itself; remove it from there")
        return self

    @property
    def carries_folder(self) -> bool:
        """True if pods that do not see the pool's folder are given the files that they need from it."""
        return True

    @property
    def firm_after(self) -> int | None:
        """Number of pods taken away, with nothing finished in between, after which one avoids spot nodes."""
        return None if self.spot_nodes is None else self.on_demand_after

    @property
    def says_why(self) -> bool:
        """True: the status of a pod says how it ended."""
        return True

    @property
    def longest_function_s(self) -> float:
        """Longest time limit of a function that a new pod can run, in seconds."""
        return self.worker_time_s - START_S - END_S

    @property
    def worker_time_s(self) -> float:
        """Time in seconds that a worker can count on: the cluster counts the download of the image, too."""
        return self.walltime_s - self.connect_s


def _changed_by(patch: Mapping[str, Any]) -> list[str]:  # Any: whatever a manifest holds
    """Return the fields that a patch changes although the pool relies on them."""
    metadata, spec = patch.get("metadata") or {}, patch.get("spec") or {}
    marks = [*(metadata.get("labels") or {}), *(metadata.get("annotations") or {})]
    return [
        *(f"metadata.{key}" for key in OF_METADATA if key in metadata),
        *(mark for mark in marks if mark.startswith(OF_SURVEYOR)),
        *(f"spec.{key}" for key in OF_SPEC if key in spec),
    ]
