"""Sites: the machines of a pool, as stored in a block of Prefect and as given to the pool's process.

Nothing here is science: the same campaign gives the same results on any site.
"""

from pathlib import Path
from typing import ClassVar

from pydantic import Field, model_validator

from surveyor.pools.ec2.site import EC2Site
from surveyor.pools.gcp.site import GCPSite
from surveyor.pools.kubernetes.site import KubernetesSite
from surveyor.pools.site import END_S, START_S, BorderSite, Site, WorkersSite
from surveyor.pools.ssh.site import SSHSite


class LocalSite(Site):
    """This machine: one process for each worker, as many as its cores, memory and GPUs allow."""

    kind: ClassVar[str] = "local"

    cores: int | None = Field(
        None, ge=1, title="Cores", description="Total number of cores; by default those available to this process."
    )
    memory_GB: float | None = Field(
        None, gt=0, title="Memory (GB)", description="Total memory; by default that of the machine."
    )
    gpus: int | None = Field(
        None,
        ge=0,
        title="GPUs",
        description="Total number of GPUs; by default those in CUDA_VISIBLE_DEVICES, or else those that "
        "nvidia-smi lists.",
    )
    cores_per_worker: int = Field(
        1,
        ge=1,
        title="Cores per worker",
        description="Cores of one label, walker or training: MPI ranks times OpenMP threads.",
    )
    memory_per_worker_GB: float | None = Field(
        None,
        gt=0,
        title="Memory per worker (GB)",
        description="Memory of one label, walker or training, if it limits the number of workers.",
    )
    gpus_per_worker: int = Field(
        0, ge=0, title="GPUs per worker", description="GPUs reserved for one label, walker or training."
    )
    python: str | None = Field(
        None,
        min_length=1,
        title="Interpreter",
        description="Full path of the Python interpreter in an environment with surveyor and the engine of the "
        "stage; by default that of the flow.",
    )


class JobRequest(Site):
    """Resources that each job requests from the queue of a cluster."""

    cores_per_job: int = Field(1, ge=1, title="Cores per job", description="Cores requested by each job.")
    memory_GB: float = Field(
        4.0,
        gt=0,
        title="Memory (GB)",
        description="Memory requested by each job. Grid Engine and OAR have no common option for it: use "
        "resources there.",
    )
    gpus_per_job: int = Field(0, ge=0, title="GPUs per job", description="GPUs requested by each job.")
    walltime_minutes: float = Field(
        60.0,
        ge=1,
        title="Walltime (min)",
        description="Maximum duration of a job. A label whose time limit exceeds the remaining walltime starts in"
        " another job.",
    )
    queue: str | None = Field(
        None, min_length=1, title="Queue", description="Partition or queue; by default the cluster's default."
    )
    account: str | None = Field(
        None, min_length=1, title="Account", description="Account or project to charge; by default the user's."
    )


class JobQueueSite(WorkersSite, JobRequest):  # in forms, the fields of the last one come first
    """A cluster with a queue: jobs are submitted when there is work, and leave when there is none."""

    directives: list[str] = Field(
        default_factory=list,
        title="Directives",
        description="Additional directives of the job script, without prefix, such as: --exclusive.",
    )
    skip_directives: list[str] = Field(
        default_factory=list,
        title="Skipped directives",
        description="Directives to omit because the cluster refuses them: all that contain one of these texts, "
        "such as --mem.",
    )
    scratch: Path | None = Field(
        None, title="Scratch", description="Folder on the compute nodes for temporary files of the workers."
    )

    @model_validator(mode="after")
    def _check_workers(self) -> "JobQueueSite":
        if self.gpus_per_job and self.workers_per_job > 1:
            raise ValueError(
                f"workers_per_job: found {self.workers_per_job}, expected 1 where a job has GPUs, as all of its "
                "workers would use the same one; ask for more jobs with a GPU each"
            )
        if self.workers_per_job > self.cores_per_job:
            raise ValueError(
                f"workers_per_job: found {self.workers_per_job}, expected at most cores_per_job, which is "
                f"{self.cores_per_job}, as each worker needs a core"
            )
        return self

    @property
    def cores_per_worker(self) -> int:
        """Cores of one label, walker or training."""
        return self.cores_per_job // self.workers_per_job

    @property
    def walltime_s(self) -> int:
        """Walltime of a job, in whole seconds."""
        return int(60 * self.walltime_minutes)

    @property
    def longest_function_s(self) -> float:
        """Longest time limit of a function that a new job can run, in seconds."""
        return self.walltime_s - START_S - END_S


class SLURMSite(JobQueueSite):
    """A cluster with SLURM."""

    kind: ClassVar[str] = "slurm"

    tasks_per_job: int = Field(
        1,
        ge=1,
        title="Tasks per job",
        description="SLURM tasks per job, which are the slots of mpirun; must divide the cores.",
    )

    @model_validator(mode="after")
    def _check_tasks(self) -> "SLURMSite":
        if self.cores_per_job % self.tasks_per_job:
            raise ValueError(
                f"tasks_per_job: found {self.tasks_per_job}, expected a divisor of cores_per_job, which is "
                f"{self.cores_per_job}"
            )
        return self


class PBSSite(JobQueueSite):
    """A cluster with PBS or Torque."""

    kind: ClassVar[str] = "pbs"

    resources: str | None = Field(
        None,
        min_length=1,
        title="Resources",
        description="Resources (-l), for Torque such as nodes=1:ppn=8; by default select= with cores, memory and GPUs.",
    )


class LSFSite(JobQueueSite):
    """A cluster with LSF."""

    kind: ClassVar[str] = "lsf"
    is_experimental: ClassVar[bool] = True


class SGESite(JobQueueSite):
    """A cluster with Grid Engine."""

    kind: ClassVar[str] = "sge"

    parallel_environment: str | None = Field(
        None,
        min_length=1,
        title="Parallel environment",
        description="Parallel environment that provides several cores of one node, such as smp; required for more"
        " than one core.",
    )
    resources: str | None = Field(
        None, min_length=1, title="Resources", description="Resources (-l), such as h_vmem=4G,gpu=1."
    )

    @model_validator(mode="after")
    def _check_environment(self) -> "SGESite":
        if self.cores_per_job > 1 and self.parallel_environment is None:
            raise ValueError(
                f"parallel_environment: found none, expected one, as cores_per_job is {self.cores_per_job}; "
                "`qconf -spl` lists those of the cluster"
            )
        if self.gpus_per_job and self.resources is None:
            raise ValueError(
                f"resources: found none, expected those that ask for {self.gpus_per_job} GPUs, as each cluster names "
                "them differently, such as gpu=1"
            )
        return self


class OARSite(JobQueueSite):
    """A cluster with OAR."""

    kind: ClassVar[str] = "oar"

    resources: str | None = Field(
        None,
        min_length=1,
        title="Resources",
        description="Resources (-l) without walltime; by default /nodes=1/core= with the cores.",
    )


class HTCondorSite(JobQueueSite):
    """A pool of HTCondor."""

    kind: ClassVar[str] = "htcondor"
    is_experimental: ClassVar[bool] = True

    disk_GB: float = Field(1.0, gt=0, title="Disk (GB)", description="Disk space requested by each job.")


class SchedulerSite(BorderSite):
    """A Dask scheduler that runs already, with workers of its own."""

    kind: ClassVar[str] = "dask"

    address: str = Field(
        pattern=r"^(tcp|tls)://[^/]+:\d+$",
        title="Address",
        description="Address of the scheduler, such as tls://10.0.0.1:8786.",
    )
    tls_ca_file: Path | None = Field(
        None,
        title="CA (file)",
        description="Certificate of the authority that signed the scheduler's certificate, for tls://.",
    )
    tls_cert_file: Path | None = Field(
        None, title="Certificate (file)", description="Client certificate that the scheduler accepts, for tls://."
    )
    tls_key_file: Path | None = Field(
        None, title="Key (file)", description="Private key of the certificate, readable only by its owner."
    )

    @model_validator(mode="after")
    def _check_files(self) -> "SchedulerSite":
        files = (self.tls_ca_file, self.tls_cert_file, self.tls_key_file)
        if any(files) and not all(files):
            raise ValueError("expected all of tls_ca_file, tls_cert_file and tls_key_file, or none of them")
        if self.storage is not None and not self.address.startswith("tls://"):
            raise ValueError(
                f"storage: found {self.storage} for {self.address}, expected an encrypted address (tls://), as the "
                "credentials travel to the workers; or leave it out, and give the workers credentials of their own"
            )
        return self


JOB_QUEUES: dict[str, type[JobQueueSite]] = {
    site.kind: site for site in (SLURMSite, PBSSite, LSFSite, SGESite, OARSite, HTCondorSite)
}
SITES: dict[str, type[Site]] = {
    LocalSite.kind: LocalSite,
    **JOB_QUEUES,
    EC2Site.kind: EC2Site,
    GCPSite.kind: GCPSite,
    KubernetesSite.kind: KubernetesSite,
    SSHSite.kind: SSHSite,
    SchedulerSite.kind: SchedulerSite,
}
