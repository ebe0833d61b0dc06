"""Instances of Amazon EC2: the settings of a pool that rents its machines."""

from dataclasses import replace
from pathlib import Path
from typing import Annotated, ClassVar, Literal

from pydantic import Field, StringConstraints, model_validator

from surveyor.pools.clouds.marks import OF_SURVEYOR
from surveyor.pools.clouds.rented_site import RentedSite
from surveyor.pools.site import Price, User

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
    carries_folder: ClassVar[bool] = True
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
    connection: Literal["private", "ssh"] = Field(
        "private",
        title="Connection",
        description="How the pool reaches the instances. private: within the same network. ssh: through one outgoing "
        "connection to each instance, also from a laptop.",
    )
    ssh_user: User | None = Field(
        None,
        title="SSH user",
        description="For connection ssh: user on the instances who runs the workers, such as ubuntu or ec2-user.",
    )
    ssh_key_file: Path | None = Field(
        None,
        title="SSH key (file)",
        description="For connection ssh: private key without passphrase, readable only by its owner. Instances get "
        "the public key.",
    )
    proxy_command: str | None = Field(
        None,
        min_length=1,
        title="Proxy command",
        description="For connection ssh: command through which ssh connects (ProxyCommand), with %h for the address of "
        "an instance and %n for its id. Never a secret.",
    )
    tags: list[Tag] = Field(
        default_factory=list,
        title="Tags",
        description="Additional tags of instances and volumes, such as project=water.",
    )

    @model_validator(mode="after")
    def _check_connection(self) -> "EC2Site":
        fields = {"ssh_user": self.ssh_user, "ssh_key_file": self.ssh_key_file}
        if self.connection == "ssh":
            if missing := [name for name, value in fields.items() if value is None]:
                raise ValueError(f"{missing[0]}: found none, expected one, as connection is ssh")
            if not Path(str(self.ssh_key_file)).expanduser().is_absolute():
                raise ValueError(f"ssh_key_file: found {self.ssh_key_file}, expected a full path")
            return self
        fields["proxy_command"] = self.proxy_command
        if given := [name for name, value in fields.items() if value is not None]:
            raise ValueError(
                f"{given[0]}: found {fields[given[0]]}, expected none, as connection is private; set connection: ssh, "
                "or leave it out"
            )
        return self

    @model_validator(mode="after")
    def _check_tags(self) -> "EC2Site":
        if own := [tag for tag in self.tags if tag.startswith(OF_SURVEYOR)]:
            raise ValueError(f"tags: found {own[0]}, expected none that begins with {OF_SURVEYOR}")
        return self

    @property
    def listening_host(self) -> str | None:
        """Address at which the scheduler listens; by ssh, workers reach it through their connections."""
        return "127.0.0.1" if self.connection == "ssh" and self.interface is None else None

    @property
    def price(self) -> Price | None:
        """Price and budget of the instances; by ssh, one that boots unwatched lives until its worker should begin."""
        price = super().price
        if price is None or self.connection == "private":
            return price
        return replace(price, unwatched_s=max(price.unwatched_s, 60 * self.start_minutes))
