"""Making the blocks of surveyor known to a Prefect server, with examples to start from."""

from collections.abc import Mapping
from pathlib import Path

from prefect.client.orchestration import get_client

from surveyor.blocks.codes import CODES, CP2KCodeBlock, stored_codes
from surveyor.blocks.pools import (
    POOLS,
    DaskPool,
    EC2Pool,
    GCPPool,
    HTCondorPool,
    KubernetesPool,
    LocalPool,
    LSFPool,
    OARPool,
    PBSPool,
    SGEPool,
    SLURMPool,
    SSHPool,
    stored_pools,
)
from surveyor.blocks.site_blocks import SiteBlock
from surveyor.blocks.storages import STORAGES, AzureStorage, GCSStorage, S3Storage, stored_storages

# Lines of a job script: what is commented out there is a comment on the example.
MODULES = ("# Each job runs these lines first; they make the programs of the reference known:", "# module load CP2K")
EXPERIMENTAL = "experimental: never tried"
LABELS = "labels with 16 ranks of MPI, for at most 12 hours each"


def examples() -> Mapping[str, tuple[SiteBlock, str]]:
    """Return an example of each kind of pool, code and storage by its name, with its purpose."""
    cpu = {"cores_per_job": 16, "memory_GB": 32.0, "walltime_minutes": 720.0, "prologue": list(MODULES)}
    certificates = Path("/home/ada/certificates")
    return {
        "local/example": (LocalPool(cores_per_worker=2), "this machine, with two cores for each label or walker"),
        "slurm/example": (SLURMPool(queue="cpu", tasks_per_job=16, **cpu), LABELS),
        "slurm/example-gpu": (
            SLURMPool(queue="gpu", cores_per_job=8, gpus_per_job=1, memory_GB=64, walltime_minutes=1440, max_jobs=1),
            "trainings on a GPU, one at a time, for at most a day each",
        ),
        "pbs/example": (PBSPool(queue="batch", **cpu), LABELS),
        "lsf/example": (LSFPool(queue="normal", **cpu), f"{LABELS} ({EXPERIMENTAL})"),
        "sge/example": (SGEPool(queue="all.q", parallel_environment="smp", **cpu), LABELS),
        "oar/example": (OARPool(queue="default", **cpu), LABELS),
        "htcondor/example": (HTCondorPool(disk_GB=10, **cpu), f"{LABELS} ({EXPERIMENTAL})"),
        "ec2/example": (
            EC2Pool(
                region="eu-west-1",
                machine_image="ami-0123456789abcdef0",
                instance_types=["g5.xlarge", "g6.xlarge"],
                subnets=["subnet-0123456789abcdef0"],
                security_groups=["sg-0123456789abcdef0"],
                prologue=["# Each instance runs these lines first, as root; they mount the folder of the campaigns:"],
                lifetime_minutes=720,
                max_jobs=2,
            ),
            "trainings on rented GPUs, each instance for at most 12 hours (experimental: never tried for real)",
        ),
        "gcp/example": (
            GCPPool(
                project="my-project",
                zones=["europe-west4-a", "europe-west4-b"],
                machine_types=["g2-standard-8"],
                machine_image="projects/my-project/global/images/family/surveyor",
                max_jobs=2,
                price_per_hour=0.95,
                budget=50,
            ),
            "trainings on rented GPUs, each instance for at most 12 hours (experimental: never tried for real)",
        ),
        "kubernetes/example": (
            KubernetesPool(
                container="registry.example.org/surveyor-mace:1",
                cores=4,
                memory_GB=16,
                gpus=1,
                tolerations=["nvidia.com/gpu:NoSchedule"],
                volume_claims=["campaigns=/campaigns"],
                max_jobs=2,
            ),
            "trainings on GPUs of a cluster of containers (experimental: never tried for real)",
        ),
        "ssh/example": (
            SSHPool(hosts=["gpu1", "ada@gpu2"], prologue=["# Each machine runs these lines first."]),
            "workstations or rented machines, each with one training or walker at a time",
        ),
        "dask/example": (
            DaskPool(
                address="tls://10.0.0.1:8786",
                tls_ca_file=certificates / "ca.pem",
                tls_cert_file=certificates / "cert.pem",
                tls_key_file=certificates / "key.pem",
            ),
            "a Dask scheduler that runs already and asks for certificates",
        ),
        "cp2k/example": (
            CP2KCodeBlock(command="mpirun -np {ranks} cp2k.psmp", ranks=16, memory_GB=30, timeout_minutes=60),
            "CP2K with 16 ranks of MPI, for slurm/example and its like",
        ),
        "s3/example": (
            S3Storage(endpoint="https://minio.example.org", region="eu-west-1"),
            "buckets of a service that speaks the protocol of S3; give it an access key",
        ),
        "gcs/example": (GCSStorage(), f"buckets of Google Cloud Storage ({EXPERIMENTAL})"),
        "azure/example": (AzureStorage(account_name="campaigns"), "containers of an account of Azure Blob Storage"),
    }


def register_types() -> None:
    """Make all types of blocks known to the Prefect server, or bring them up to date."""
    for block in (*POOLS.values(), *CODES.values(), *STORAGES.values()):
        block.register_type_and_schema()


def create_examples() -> dict[str, bool]:
    """Create the examples that the Prefect server does not have; those that it has are left alone.

    Returns:
        For the name of each example, whether it was created.
    """
    with get_client(sync_client=True) as client:
        there = [*stored_pools(client), *stored_codes(client), *stored_storages(client)]
    missing = {name: block for name, (block, _) in examples().items() if name not in there}
    for name, block in missing.items():
        block.save(name.partition("/")[2])
    return {name: name in missing for name in examples()}
