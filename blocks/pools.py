"""Pools as blocks of Prefect: a site under a name, which campaigns give as `slurm/genoa`."""

from abc import ABC
from collections.abc import Iterable, Sequence
from typing import ClassVar

from prefect.client.orchestration import SyncPrefectClient
from pydantic import HttpUrl, ValidationError

from surveyor.blocks.site_blocks import SiteBlock, asking_server, stored_block, stored_names, stripped
from surveyor.errors import InputError
from surveyor.pools.choice import plain_site
from surveyor.pools.ec2.site import EC2Site
from surveyor.pools.gcp.site import GCPSite
from surveyor.pools.kubernetes.site import KubernetesSite
from surveyor.pools.site import Site
from surveyor.pools.sites import (
    SITES,
    HTCondorSite,
    LocalSite,
    LSFSite,
    OARSite,
    PBSSite,
    SchedulerSite,
    SGESite,
    SLURMSite,
)
from surveyor.pools.ssh.site import SSHSite

DASK_LOGO = HttpUrl("https://avatars.githubusercontent.com/u/17131925?s=200&v=4")
JOBQUEUE_DOCS = "https://jobqueue.dask.org/en/latest/generated/dask_jobqueue."


class PoolBlock(SiteBlock, ABC):
    """A site that Prefect stores: the machines on which a stage of a campaign runs, without its science."""

    kind: ClassVar[str]
    _logo_url = DASK_LOGO

    @property
    def site(self) -> Site:
        """The site, without the fields that Prefect adds."""
        return stripped(self, SITES[self.kind])


class LocalPool(LocalSite, PoolBlock):
    """A part of the machine on which the campaign runs. Campaigns name it as local/workstation, for instance.

    It has as many workers as have room in it. The pool `local` needs no block, and has a worker for each core.

    Example:
        Store a pool, and load a stored one:
        ```python
        from surveyor.blocks.pools import LocalPool

        LocalPool(cores=16, cores_per_worker=8, gpus_per_worker=1).save("workstation")
        pool = LocalPool.load("BLOCK_NAME")
        ```
    """

    _block_type_name = "Local pool"
    _block_type_slug = LocalSite.kind
    _documentation_url = HttpUrl("https://docs.dask.org/en/stable/deploying-python.html")


class SLURMPool(SLURMSite, PoolBlock):
    """A partition of a cluster with SLURM. Campaigns name it as slurm/genoa, for instance.

    Example:
        Store a pool, and load a stored one:
        ```python
        from surveyor.blocks.pools import SLURMPool

        SLURMPool(
            queue="genoa",
            cores_per_job=32,
            tasks_per_job=32,
            memory_GB=64,
            walltime_minutes=720,
            max_jobs=10,
        ).save("genoa")
        pool = SLURMPool.load("BLOCK_NAME")
        ```
    """

    _block_type_name = "SLURM pool"
    _block_type_slug = SLURMSite.kind
    _documentation_url = HttpUrl(f"{JOBQUEUE_DOCS}SLURMCluster.html")


class PBSPool(PBSSite, PoolBlock):
    """A queue of a cluster with PBS or Torque. Campaigns name it as pbs/batch, for instance.

    Example:
        Store a pool, and load a stored one:
        ```python
        from surveyor.blocks.pools import PBSPool

        PBSPool(queue="batch", cores_per_job=32, memory_GB=64, walltime_minutes=720).save("batch")
        pool = PBSPool.load("BLOCK_NAME")
        ```
    """

    _block_type_name = "PBS pool"
    _block_type_slug = PBSSite.kind
    _documentation_url = HttpUrl(f"{JOBQUEUE_DOCS}PBSCluster.html")


class LSFPool(LSFSite, PoolBlock):
    """A queue of a cluster with LSF (experimental: never tried). Campaigns name it as lsf/normal, for instance.

    Example:
        Store a pool, and load a stored one:
        ```python
        from surveyor.blocks.pools import LSFPool

        LSFPool(queue="normal", cores_per_job=32, memory_GB=64, walltime_minutes=720).save("normal")
        pool = LSFPool.load("BLOCK_NAME")
        ```
    """

    _block_type_name = "LSF pool"
    _block_type_slug = LSFSite.kind
    _documentation_url = HttpUrl(f"{JOBQUEUE_DOCS}LSFCluster.html")


class SGEPool(SGESite, PoolBlock):
    """A queue of a cluster with Grid Engine. Campaigns name it as sge/all, for instance.

    Example:
        Store a pool, and load a stored one:
        ```python
        from surveyor.blocks.pools import SGEPool

        SGEPool(queue="all.q", cores_per_job=8, parallel_environment="smp", walltime_minutes=720).save("all")
        pool = SGEPool.load("BLOCK_NAME")
        ```
    """

    _block_type_name = "Grid Engine pool"
    _block_type_slug = SGESite.kind
    _documentation_url = HttpUrl(f"{JOBQUEUE_DOCS}SGECluster.html")


class OARPool(OARSite, PoolBlock):
    """A queue of a cluster with OAR. Campaigns name it as oar/default, for instance.

    Example:
        Store a pool, and load a stored one:
        ```python
        from surveyor.blocks.pools import OARPool

        OARPool(queue="default", cores_per_job=16, walltime_minutes=720).save("default")
        pool = OARPool.load("BLOCK_NAME")
        ```
    """

    _block_type_name = "OAR pool"
    _block_type_slug = OARSite.kind
    _documentation_url = HttpUrl(f"{JOBQUEUE_DOCS}OARCluster.html")


class HTCondorPool(HTCondorSite, PoolBlock):
    """Machines that HTCondor lends (experimental: never tried). Campaigns name it as htcondor/campus, for instance.

    Example:
        Store a pool, and load a stored one:
        ```python
        from surveyor.blocks.pools import HTCondorPool

        HTCondorPool(cores_per_job=8, memory_GB=16, disk_GB=10, walltime_minutes=720).save("campus")
        pool = HTCondorPool.load("BLOCK_NAME")
        ```
    """

    _block_type_name = "HTCondor pool"
    _block_type_slug = HTCondorSite.kind
    _documentation_url = HttpUrl(f"{JOBQUEUE_DOCS}HTCondorCluster.html")


class EC2Pool(EC2Site, PoolBlock):
    """Instances of Amazon EC2 (experimental: never tried for real). Campaigns name it as ec2/gpu, for instance.

    Credentials are those that AWS's client finds on the flow's machine; the block holds none.

    Example:
        Store a pool, and load a stored one:
        ```python
        from surveyor.blocks.pools import EC2Pool

        EC2Pool(
            region="eu-west-1",
            machine_image="ami-0123456789abcdef0",
            instance_types=["g5.xlarge", "g6.xlarge"],
            subnets=["subnet-0123456789abcdef0"],
            security_groups=["sg-0123456789abcdef0"],
            price_per_hour=1.12,
            budget=50,
        ).save("gpu")
        pool = EC2Pool.load("BLOCK_NAME")
        ```
    """

    _block_type_name = "EC2 pool"
    _block_type_slug = EC2Site.kind
    _documentation_url = HttpUrl("https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/concepts.html")


class GCPPool(GCPSite, PoolBlock):
    """Instances of Google Compute Engine (experimental: never tried for real). Campaigns name it as gcp/gpu.

    Credentials are those that Google's client finds where the flow runs; the block holds none.

    Example:
        Store a pool, and load a stored one:
        ```python
        from surveyor.blocks.pools import GCPPool

        GCPPool(
            project="my-project",
            zones=["europe-west4-a", "europe-west4-b"],
            machine_types=["g2-standard-8"],
            machine_image="projects/my-project/global/images/family/surveyor",
            lifetime_minutes=720,
            price_per_hour=0.95,
            budget=50,
        ).save("gpu")
        pool = GCPPool.load("BLOCK_NAME")
        ```
    """

    _block_type_name = "GCP pool"
    _block_type_slug = GCPSite.kind
    _documentation_url = HttpUrl("https://cloud.google.com/compute/docs/instances")


class KubernetesPool(KubernetesSite, PoolBlock):
    """Pods of Kubernetes (experimental: never tried for real). Campaigns name it as kubernetes/gpu, for instance.

    The flow runs in a pod of the cluster, whose service account creates the pods; the block holds no credentials.

    Example:
        Store a pool, and load a stored one:
        ```python
        from surveyor.blocks.pools import KubernetesPool

        KubernetesPool(
            container="registry.example.org/surveyor-mace:1",
            cores=4,
            memory_GB=16,
            gpus=1,
            tolerations=["nvidia.com/gpu:NoSchedule"],
            volume_claims=["campaigns=/campaigns"],
            lifetime_minutes=720,
        ).save("gpu")
        pool = KubernetesPool.load("BLOCK_NAME")
        ```
    """

    _block_type_name = "Kubernetes pool"
    _block_type_slug = KubernetesSite.kind
    _documentation_url = HttpUrl("https://kubernetes.io/docs/concepts/workloads/pods/")


class SSHPool(SSHSite, PoolBlock):
    """Machines that are reached by ssh, each with a job of its own. Campaigns name it as ssh/lab, for instance.

    Keys are those that ssh finds, or in a file; the block holds none.

    Example:
        Store a pool, and load a stored one:
        ```python
        from surveyor.blocks.pools import SSHPool

        SSHPool(hosts=["gpu1", "ada@gpu2", "203.0.113.7:41022"], python="/opt/mace/bin/python").save("lab")
        pool = SSHPool.load("BLOCK_NAME")
        ```
    """

    _block_type_name = "SSH pool"
    _block_type_slug = SSHSite.kind
    _documentation_url = HttpUrl("https://man.openbsd.org/ssh")


class DaskPool(SchedulerSite, PoolBlock):
    """A running Dask scheduler. Campaigns name it, for instance, as dask/shared.

    It has its own workers. Without TLS files, campaigns can name its address instead.

    Example:
        Store a pool, and load a stored one:
        ```python
        from surveyor.blocks.pools import DaskPool

        DaskPool(address="tcp://10.0.0.1:8786").save("shared")
        pool = DaskPool.load("BLOCK_NAME")
        ```
    """

    _block_type_name = "Dask pool"
    _block_type_slug = SchedulerSite.kind
    _documentation_url = HttpUrl("https://distributed.dask.org/en/stable/tls.html")


POOLS: dict[str, type[PoolBlock]] = {
    block.kind: block
    for block in (
        LocalPool,
        SLURMPool,
        PBSPool,
        LSFPool,
        SGEPool,
        OARPool,
        HTCondorPool,
        EC2Pool,
        GCPPool,
        KubernetesPool,
        SSHPool,
        DaskPool,
    )
}


def load_sites(names: Iterable[str]) -> dict[str, Site]:
    """Return the sites of pools, by their names; those that blocks hold are asked of the Prefect server.

    Args:
        names: `local`, the address of a Dask scheduler, or the kind and name of a block such as `slurm/genoa`.

    Raises:
        InputError: a name is none of these, its block is missing or wrong, or the server does not answer.
    """
    sites = {name: _plain(name) for name in names}
    stored = [name for name, site in sites.items() if site is None]
    loaded = _from_server(stored) if stored else {}
    return {name: site or loaded[name] for name, site in sites.items()}


def _plain(name: str) -> Site | None:
    try:
        return plain_site(name)
    except ValidationError as error:
        raise InputError(f"pool {name}: expected an address such as tcp://10.0.0.1:8786 or tls://…") from error


def _from_server(names: Sequence[str]) -> dict[str, Site]:
    with asking_server(f"pool {names[0]}") as client:
        return {name: _stored_site(client, name) for name in names}


def _stored_site(client: SyncPrefectClient, name: str) -> Site:
    kind, _, block_name = name.partition("/")
    if kind not in POOLS or not block_name:
        raise InputError(
            f"pool {name}: expected local, the address of a Dask scheduler, or kind and name of a block such as "
            f"slurm/genoa; kinds are {', '.join(POOLS)}"
        )
    block = stored_block(client, POOLS[kind], name, "pool", lambda: stored_pools(client))
    return block.site


def stored_pools(client: SyncPrefectClient) -> list[str]:
    """Return the names of the pools that a server has, such as `slurm/genoa`."""
    return stored_names(client, POOLS)
