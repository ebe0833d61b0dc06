"""Instances of Amazon EC2: the settings of a pool that rents its machines."""

from typing import Annotated, ClassVar

from pydantic import Field, StringConstraints, model_validator

from surveyor.pools.site import END_S, Price, WorkersSite

InstanceType = Annotated[str, StringConstraints(pattern=r"^[a-z0-9-]+\.[a-z0-9-]+$")]
Subnet = Annotated[str, StringConstraints(pattern=r"^subnet-[0-9a-f]+$")]
SecurityGroup = Annotated[str, StringConstraints(pattern=r"^sg-[0-9a-f]+$")]
Tag = Annotated[str, StringConstraints(pattern=r"^[^=]+=.*$", max_length=384)]

OF_SURVEYOR = "surveyor-"  # begins the keys of the tags by which the instances of a pool are found


class EC2Site(WorkersSite):
    """Instances of Amazon EC2: one is started for each job, and terminates itself at the end."""

    kind: ClassVar[str] = "ec2"
    is_experimental: ClassVar[bool] = True
    untried: ClassVar[str] = "their requests were tried on a played cloud alone, never on Amazon's"
    limit_field: ClassVar[str] = "lifetime_minutes"
    leave_s: ClassVar[float] = 480.0  # instances with GPUs shut down for minutes

    machine_image: str = Field(
        pattern=r"^ami-[0-9a-f]+$",
        title="Machine image",
        description="Id of the image (AMI) from which instances boot, with bash, systemd and the driver of the GPUs.",
    )
    instance_types: list[InstanceType] = Field(
        min_length=1,
        title="Instance types",
        description="Types such as g5.xlarge, best first; the next is taken where there is no capacity for one.",
    )
    subnets: list[Subnet] = Field(
        min_length=1,
        title="Subnets",
        description="Ids of subnets in the network of the flow's machine, best first; each lies in one zone.",
    )
    security_groups: list[SecurityGroup] = Field(
        min_length=1,
        title="Security groups",
        description="Ids of security groups of the instances. One that lets in its own members alone is enough.",
    )
    region: str | None = Field(
        None, min_length=1, title="Region", description="Region such as eu-west-1; by default that of the profile."
    )
    profile: str | None = Field(
        None,
        min_length=1,
        title="Profile",
        description="Profile of the AWS configuration that has the credentials; by default those that AWS's client "
        "finds, such as the role of the flow's machine.",
    )
    instance_profile: str | None = Field(
        None,
        min_length=1,
        title="Instance profile",
        description="Name or ARN of the instance profile, whose role the instances have; by default they have none.",
    )
    disk_GB: int | None = Field(
        None, ge=1, title="Disk (GB)", description="Size of the root volume; by default that of the image."
    )
    lifetime_minutes: float = Field(
        720.0,
        ge=1,
        title="Lifetime (min)",
        description="Time after which an instance powers itself off, whatever runs on it. A label whose time limit "
        "exceeds the remaining time starts on another instance.",
    )
    start_minutes: float = Field(
        15.0,
        gt=0,
        title="Start (min)",
        description="Time within which the worker of an instance connects: boot, prologue and imports.",
    )
    orphan_minutes: float = Field(
        5.0,
        gt=0,
        title="Orphan time (min)",
        description="Time after which an instance powers itself off if the process of the pool does not answer.",
    )
    price_per_hour: float | None = Field(
        None,
        gt=0,
        title="Price per hour",
        description="Price of the most expensive of the instance types, in any currency.",
    )
    budget: float | None = Field(
        None,
        gt=0,
        title="Budget",
        description="Cost, in the currency of the price, at which a pool of one campaign ends all its instances.",
    )
    spot: bool = Field(
        False,
        title="Spot instances",
        description="Use cheaper instances, which Amazon may take away with a notice of two minutes; their work then "
        "goes to another instance.",
    )
    on_demand_after: int = Field(
        3,
        ge=1,
        title="On demand after",
        description="Number of spot instances taken away, with no function finished in between, after which the next "
        "one is on demand.",
    )
    tags: list[Tag] = Field(
        default_factory=list,
        title="Tags",
        description="Additional tags of instances and volumes, such as project=water.",
    )

    @model_validator(mode="after")
    def _check_costs(self) -> "EC2Site":
        if self.budget is not None and self.price_per_hour is None:
            raise ValueError("price_per_hour: found none, expected one, as the budget is counted by it")
        if self.start_minutes >= self.lifetime_minutes:
            raise ValueError(
                f"start_minutes: found {self.start_minutes:g}, expected less than lifetime_minutes, which is "
                f"{self.lifetime_minutes:g}"
            )
        if own := [tag for tag in self.tags if tag.startswith(OF_SURVEYOR)]:
            raise ValueError(f"tags: found {own[0]}, expected none that begins with {OF_SURVEYOR}")
        return self

    @property
    def walltime_s(self) -> int:
        """Lifetime of an instance, in whole seconds."""
        return int(60 * self.lifetime_minutes)

    @property
    def longest_function_s(self) -> float:
        """Longest time limit of a function that a new instance can run, in seconds."""
        return self.walltime_s - 60 * self.start_minutes - END_S

    @property
    def connect_s(self) -> float:
        """Time in seconds within which the worker of a running instance connects."""
        return 60 * self.start_minutes

    @property
    def firm_after(self) -> int | None:
        """Number of spot instances taken away, with nothing finished in between, after which one is on demand."""
        return self.on_demand_after if self.spot else None

    @property
    def price(self) -> Price | None:
        """Price and budget of the instances."""
        if self.price_per_hour is None:
            return None
        return Price(self.price_per_hour, self.budget, unwatched_s=60 * self.orphan_minutes)
