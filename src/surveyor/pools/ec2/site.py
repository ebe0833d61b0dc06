"""Instances of Amazon EC2: the settings of a pool that rents its machines."""

from typing import Annotated, ClassVar

from pydantic import Field, StringConstraints, model_validator

from surveyor.pools.clouds.marks import OF_SURVEYOR
from surveyor.pools.clouds.rented_site import RentedSite

InstanceType = Annotated[str, StringConstraints(pattern=r"^[a-z0-9-]+\.[a-z0-9-]+$")]
Subnet = Annotated[str, StringConstraints(pattern=r"^subnet-[0-9a-f]+$")]
SecurityGroup = Annotated[str, StringConstraints(pattern=r"^sg-[0-9a-f]+$")]
Tag = Annotated[str, StringConstraints(pattern=r"^[^=]+=.*$", max_length=384)]


class EC2Site(RentedSite):
    """Instances of Amazon EC2: one is started for each job, and terminates itself at the end."""

    kind: ClassVar[str] = "ec2"
    is_experimental: ClassVar[bool] = True
    causes: ClassVar[str] = "image, types, subnets, security groups, prologue or python"
    untried: ClassVar[str] = "their requests were tried on a simulated cloud only, never on Amazon's"
    limit_field: ClassVar[str] = "lifetime_minutes"
    leave_s: ClassVar[float] = 480.0  # instances with GPUs shut down for minutes

    machine_image: str = Field(
        pattern=r"^ami-[0-9a-f]+$",
        title="Machine image",
        description="ID of the image (AMI) from which instances boot. It needs bash, systemd and the GPU driver.",
    )
    instance_types: list[InstanceType] = Field(
        min_length=1,
        title="Instance types",
        description="Types such as g5.xlarge, best first; if one has no capacity, the next is used.",
    )
    subnets: list[Subnet] = Field(
        min_length=1,
        title="Subnets",
        description="IDs of subnets, best first; each is in one zone. With connection private, in the network of the "
        "flow's machine.",
    )
    security_groups: list[SecurityGroup] = Field(
        min_length=1,
        title="Security groups",
        description="IDs of the security groups of the instances. With connection private, one that admits only its "
        "own members is enough.",
    )
    region: str | None = Field(
        None, min_length=1, title="Region", description="Region such as eu-west-1; by default that of the profile."
    )
    profile: str | None = Field(
        None,
        min_length=1,
        title="Profile",
        description="Profile of the AWS configuration with the credentials; by default those that AWS's client finds, "
        "such as the role of the flow's machine.",
    )
    instance_profile: str | None = Field(
        None,
        min_length=1,
        title="Instance profile",
        description="Name or ARN of the instance profile with the role of the instances; by default they have no role.",
    )
    tags: list[Tag] = Field(
        default_factory=list,
        title="Tags",
        description="Additional tags of instances and volumes, such as project=water.",
    )

    @model_validator(mode="after")
    def _check_tags(self) -> "EC2Site":
        if own := [tag for tag in self.tags if tag.startswith(OF_SURVEYOR)]:
            raise ValueError(f"tags: found {own[0]}, expected none that begins with {OF_SURVEYOR}")
        return self

    @property
    def carries_folder(self) -> bool:
        """True if instances that do not see the pool's folder are sent the files that they need from it."""
        return True

    @property
    def says_why(self) -> bool:
        """True for spot instances: EC2 says of one that is over whether it was taken away."""
        return self.spot
