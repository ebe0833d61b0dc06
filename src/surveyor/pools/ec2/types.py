"""Cores, memory and GPUs of the types of instances, as EC2 describes them."""

from collections.abc import Sequence
from dataclasses import dataclass

from surveyor.pools.ec2.client import EC2
from surveyor.pools.ec2.site import EC2Site
from surveyor.words import number_of


@dataclass(frozen=True, slots=True)
class InstanceKind:
    """A type of instances.

    Attributes:
        name: its name, such as g5.xlarge.
        cores: number of virtual cores.
        memory_GB: memory in GB.
        gpus: number of GPUs.
    """

    name: str
    cores: int
    memory_GB: float
    gpus: int

    def __str__(self) -> str:
        gpus = f", {number_of(self.gpus, 'GPU')}" if self.gpus else ""
        return f"{self.name} has {number_of(self.cores, 'core')}, {self.memory_GB:.0f} GB{gpus}"


def kinds_of(site: EC2Site) -> list[InstanceKind]:
    """Return the types of instances of a pool.

    Raises:
        Refused: a type is not known in the region, or the credentials may not ask.
        QueueSilent: EC2 does not answer.
    """
    found = EC2(site).ask("describe_instance_types", InstanceTypes=list(site.instance_types))["InstanceTypes"]
    by_name = {
        each["InstanceType"]: InstanceKind(
            each["InstanceType"],
            each["VCpuInfo"]["DefaultVCpus"],
            each["MemoryInfo"]["SizeInMiB"] * 2**20 / 1e9,
            sum(gpu["Count"] for gpu in each.get("GpuInfo", {}).get("Gpus", [])),
        )
        for each in found
    }
    return [by_name[name] for name in site.instance_types if name in by_name]


def contradiction(site: EC2Site, kinds: Sequence[InstanceKind]) -> str | None:
    """Return why the workers of a pool do not fit into a type of its instances; None if they fit into all."""
    workers = site.workers_per_job
    for kind in kinds:
        if kind.gpus and workers > 1:
            return (
                f"workers_per_job: found {workers}, expected 1, as {kind} and all workers of an instance would use the "
                "same GPU; ask for more instances with a GPU each"
            )
        if workers > kind.cores:
            return (
                f"workers_per_job: found {workers}, expected at most {kind.cores}, as {kind}, and each worker needs one"
            )
    return None
