"""Instances of Google Compute Engine: the settings of a pool that rents its machines."""

import re
from typing import Annotated, ClassVar

from pydantic import Field, StringConstraints, model_validator

from surveyor.pools.clouds.marks import OF_SURVEYOR
from surveyor.pools.clouds.rented_site import RentedSite

HAVE_GPUS = re.compile(r"(a[2-9]|a\d\d)x?-|g([2-9]|\d\d)-")  # families of types with GPUs: a2, a4x, g2 and so on
Zone = Annotated[str, StringConstraints(pattern=r"^[a-z]+-[a-z0-9]+-[a-z]$")]
MachineType = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9]*-[a-z0-9-]+$")]
Label = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_-]{0,62}=[a-z0-9_-]{0,63}$")]


# An instance that powers itself off is stopped, and its disk costs until somebody deletes it. With a service account,
# it tries to delete itself before. The variables are those by which Google's own programs find other addresses.
FAREWELL = """\
metadata="http://${GCE_METADATA_HOST:-metadata.google.internal}/computeMetadata/v1/instance"
ask() { curl -fsS -m 10 -H 'Metadata-Flavor: Google' "$metadata/$1"; }
token=$(ask service-accounts/default/token | sed 's/.*"access_token" *: *"\\([^"]*\\)".*/\\1/')
compute=${CLOUDSDK_API_ENDPOINT_OVERRIDES_COMPUTE:-https://compute.googleapis.com/compute/v1}
curl -fsS -m 30 -X DELETE -o /dev/null -H @- "${compute%/}/$(ask zone)/instances/$(ask name)" \
<<<"Authorization: Bearer $token" || echo this instance cannot delete itself"""


class GCPSite(RentedSite):
    """Instances of Google Compute Engine: one is created for each job, and deleted at its end."""

    kind: ClassVar[str] = "gcp"
    is_experimental: ClassVar[bool] = True
    causes: ClassVar[str] = "image, machine types, zones, network, prologue or python"
    untried: ClassVar[str] = "their requests were checked against Google's description of them, never sent to Google"
    limit_field: ClassVar[str] = "lifetime_minutes"
    leave_s: ClassVar[float] = 480.0  # instances with GPUs shut down for minutes

    project: str = Field(
        pattern=r"^[a-z][a-z0-9.:-]+$", title="Project", description="ID of the project that pays for the instances."
    )
    zones: list[Zone] = Field(
        min_length=1,
        title="Zones",
        description="Zones such as europe-west4-a, best first; if one has no capacity, the next is used.",
    )
    machine_types: list[MachineType] = Field(
        min_length=1,
        title="Machine types",
        description="Types such as g2-standard-8, best first; if one has no capacity, the next is used.",
    )
    accelerator: str | None = Field(
        None,
        pattern=r"^[a-z0-9-]+$",
        title="Accelerator",
        description="Type of the GPUs to attach to machine types without GPUs, such as nvidia-tesla-t4.",
    )
    n_accelerators: int = Field(1, ge=1, title="Accelerators", description="Number of GPUs to attach.")
    machine_image: str = Field(
        pattern=r"^projects/[^/]+/global/images/(family/)?[^/]+$",
        title="Machine image",
        description="Image from which instances boot, such as projects/PROJECT/global/images/family/FAMILY. It needs "
        "bash, systemd and the GPU driver.",
    )
    network: str = Field(
        "global/networks/default",
        pattern=r"^(projects/[^/]+/)?global/networks/[^/]+$",
        title="Network",
        description="Network of the flow's machine, such as global/networks/default.",
    )
    subnetwork: str | None = Field(
        None,
        pattern=r"^(projects/[^/]+/)?regions/[^/]+/subnetworks/[^/]+$",
        title="Subnetwork",
        description="Subnetwork of the instances; needed if the network does not choose one by itself.",
    )
    service_account: str | None = Field(
        None,
        pattern=r"^\S+@\S+$",
        title="Service account",
        description="Address of the service account whose permissions the instances have; by default they have none. "
        "With the permission compute.instances.delete, an instance that ends itself leaves no disk behind.",
    )
    labels: list[Label] = Field(
        default_factory=list,
        title="Labels",
        description="Additional labels of the instances, such as project=water.",
    )

    @model_validator(mode="after")
    def _check_gpus(self) -> "GCPSite":
        if self.gpus_of_instances and self.workers_per_job > 1:
            raise ValueError(
                f"workers_per_job: found {self.workers_per_job}, expected 1 where an instance has GPUs "
                f"({self.gpus_of_instances}), as all of its workers would use the same one; ask for more instances "
                "with a GPU each"
            )
        return self

    @model_validator(mode="after")
    def _check_labels(self) -> "GCPSite":
        if own := [label for label in self.labels if label.startswith(OF_SURVEYOR)]:
            raise ValueError(f"labels: found {own[0]}, expected none that begins with {OF_SURVEYOR}")
        return self

    @property
    def gpus_of_instances(self) -> str | None:
        """The accelerator of the instances, or the first of their types that has GPUs; None if they have none."""
        return self.accelerator or next(filter(HAVE_GPUS.match, self.machine_types), None)

    @property
    def carries_folder(self) -> bool:
        """True if instances that do not see the pool's folder are sent the files that they need from it (by ssh)."""
        return self.connection == "ssh"

    @property
    def farewell(self) -> str:
        """Commands of an instance before it powers itself off."""
        return "" if self.service_account is None else FAREWELL

    @property
    def says_why(self) -> bool:
        """True for spot instances: Google says of one that is gone whether it was taken away."""
        return self.spot
