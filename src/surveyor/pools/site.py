"""The base classes of all sites, with the settings by which a pool decides on its jobs."""

from abc import abstractmethod
from dataclasses import dataclass
from typing import Annotated, ClassVar

from pydantic import Field, StringConstraints, model_validator

from surveyor.parameters import Parameters
from surveyor.storage.buckets import Bucket, BucketAddress, StorageName

User = Annotated[str, StringConstraints(pattern=r"^\w[\w.-]*$")]  # of ssh; with a dash it would be an option
START_S = 20.0  # of a job that pass before its worker is at work
END_S = 30.0  # of a job that are left when a function is over: to write its label, and to deliver what it returns


@dataclass(frozen=True, slots=True)
class Price:
    """Cost of the jobs of a pool.

    Attributes:
        per_hour: price of a job, in any currency.
        budget: cost at which the pool ends its jobs; None for no limit.
        unwatched_s: time in seconds after which jobs have ended that nobody watches.
        counts_pending: whether a job that waits for its machine costs as much.
    """

    per_hour: float
    budget: float | None
    unwatched_s: float
    counts_pending: bool = True


class Site(Parameters):
    """Base of all sites."""

    kind: ClassVar[str]


class BorderSite(Site):
    """Settings of a pool whose workers may not see the disk of the flow."""

    workspace: BucketAddress | None = Field(
        None,
        title="Workspace (bucket)",
        description="Bucket such as s3://bucket/workspace, through which files travel if the workers do not see the "
        "run directory; by default they see it.",
    )
    storage: StorageName | None = Field(
        None,
        title="Storage",
        description="Block with the endpoint and credentials of the workspace, such as s3/minio; by default those in "
        "the environment of each process.",
    )
    checkpoint_minutes: float = Field(
        5.0,
        gt=0,
        le=1440,
        title="Checkpoints (min)",
        description="Time between two copies of an unfinished walker or training to the workspace.",
    )

    @model_validator(mode="after")
    def _check_workspace(self) -> "BorderSite":
        if self.storage is None:
            return self
        if self.workspace is None:
            raise ValueError(f"storage: found {self.storage}, expected a bucket in workspace, such as s3://bucket/work")
        if self.storage.partition("/")[0] != (service := Bucket.at(self.workspace).service):
            raise ValueError(f"storage: found {self.storage}, expected a block of kind {service} for {self.workspace}")
        return self


class WorkersSite(BorderSite):
    """Settings by which a pool decides how many jobs it keeps, and starts workers in them."""

    is_experimental: ClassVar[bool] = False  # never tried on a real queue or cloud of its kind
    untried: ClassVar[str] = "their scripts and commands were never tried on a real queue"
    causes: ClassVar[str] = "queue, account, directives, prologue or python"  # fields by which a job gives no worker
    limit_field: ClassVar[str] = "walltime_minutes"  # the field that limits the duration of a job
    has_equal_jobs: ClassVar[bool] = True  # what one job lacks, every other one would lack, too
    leave_s: ClassVar[float] = 120.0  # so long may cancelled jobs of a former process take to be gone

    workers_per_job: int = Field(
        1,
        ge=1,
        title="Workers per job",
        description="Number of labels, walkers or trainings that run at the same time in one job and share its cores.",
    )
    python: str | None = Field(
        None,
        min_length=1,
        title="Interpreter",
        description="Full path of the Python interpreter on the compute nodes, in an environment with surveyor "
        "and the engine of the stage; by default that of the flow.",
    )
    prologue: list[str] = Field(
        default_factory=list,
        title="Prologue",
        description="Shell commands at the start of each job, such as: module load cp2k. Never a secret.",
    )
    min_jobs: int = Field(0, ge=0, title="Minimum jobs", description="Number of jobs to keep even without work.")
    max_jobs: int = Field(4, ge=1, title="Maximum jobs", description="Maximum number of pending and running jobs.")
    idle_minutes: float = Field(
        2.0,
        ge=0,
        title="Idle time (min)",
        description="Time after which a job without work ends, and a pool without clients closes.",
    )
    interface: str | None = Field(
        None,
        min_length=1,
        title="Network interface",
        description="Network interface between the jobs and the process of the pool, such as ib0.",
    )

    @model_validator(mode="after")
    def _check_jobs(self) -> "WorkersSite":
        if self.min_jobs > self.max_jobs:
            raise ValueError(f"min_jobs: found {self.min_jobs}, expected at most max_jobs, which is {self.max_jobs}")
        return self

    @property
    def most_jobs(self) -> int:
        """Maximum number of jobs."""
        return self.max_jobs

    @property
    def most_workers(self) -> int:
        """Number of functions that run at the same time when all jobs run."""
        return self.most_jobs * self.workers_per_job

    @property
    def carries_folder(self) -> bool:
        """True if jobs that do not see the pool's folder are given the files that they need from it."""
        return False

    @property
    def listening_host(self) -> str | None:
        """Address at which the scheduler listens; None for that of the interface, or all."""
        return None

    @property
    @abstractmethod
    def walltime_s(self) -> int:
        """Walltime of a job, in whole seconds."""

    @property
    @abstractmethod
    def longest_function_s(self) -> float:
        """Longest time limit of a function that a new job can run, in seconds."""

    @property
    def connect_s(self) -> float | None:
        """Time in seconds within which the workers of a running job connect; None for the usual time."""
        return None

    @property
    def firm_after(self) -> int | None:
        """Number of interruptions, with nothing finished in between, after which a job is firm; None: all are."""
        return None

    @property
    def says_why(self) -> bool:
        """True if the queue shows of a job that is over whether its machine was taken away."""
        return False

    @property
    def price(self) -> Price | None:
        """Price of the jobs; None where they cost nothing."""
        return None
