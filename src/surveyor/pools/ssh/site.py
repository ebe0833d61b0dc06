"""Machines that are reached by ssh: the settings of a pool of workstations, or of machines of any rental provider."""

from pathlib import Path
from typing import Annotated, ClassVar

from pydantic import Field, StringConstraints, model_validator

from surveyor.pools.site import END_S, START_S, User, WorkersSite

# Never one that begins with a dash: it would be an option of ssh.
Host = Annotated[
    str, StringConstraints(pattern=r"^(\w[\w.-]*@)?(\w[\w.-]*|\[[0-9A-Fa-f:.]+(%\w+)?\])(:[1-9]\d{0,4})?$")
]


class SSHSite(WorkersSite):
    """Machines that are reached by ssh: each runs one job at a time, whose traffic passes through the connection."""

    kind: ClassVar[str] = "ssh"
    causes: ClassVar[str] = "hosts, user, key_file, prologue or python"
    limit_field: ClassVar[str] = "lifetime_minutes"
    has_equal_jobs: ClassVar[bool] = False
    leave_s: ClassVar[float] = 660.0  # more than the longest orphan time

    hosts: list[Host] = Field(
        min_length=1,
        title="Hosts",
        description="Machines, best first, as ssh knows them: gpu1, ada@gpu2, 203.0.113.7:41022, or names of its "
        "configuration.",
    )
    user: User | None = Field(
        None, title="User", description="User on the machines, where a host names none; by default that of ssh."
    )
    key_file: Path | None = Field(
        None,
        title="Key (file)",
        description="Private key without passphrase; by default those that ssh finds, such as the keys of its agent.",
    )
    config_file: Path | None = Field(
        None, title="Configuration (file)", description="Configuration of ssh; by default that of the user."
    )
    proxy_command: str | None = Field(
        None,
        min_length=1,
        title="Proxy command",
        description="Command through which ssh connects (ProxyCommand), such as: ssh -W %h:%p bastion. Never a secret.",
    )
    max_jobs: int = Field(
        100, ge=1, title="Maximum jobs", description="Maximum number of machines in use at the same time."
    )
    interface: str | None = Field(
        None,
        min_length=1,
        title="Network interface",
        description="Network interface at which the process of the pool listens for flows on other machines; by "
        "default, it listens only to its own machine.",
    )
    lifetime_minutes: float = Field(
        10080.0,
        ge=1,
        title="Lifetime (min)",
        description="Time after which a worker ends, even while it works. A label whose time limit exceeds the "
        "remaining time starts in another one.",
    )
    orphan_minutes: float = Field(
        1.0,
        ge=0.05,
        le=10,
        title="Orphan time (min)",
        description="Time after which a worker ends if the process of the pool does not answer, as when a laptop "
        "sleeps.",
    )

    @model_validator(mode="after")
    def _check_hosts(self) -> "SSHSite":
        twice = [host for number, host in enumerate(self.hosts) if host in self.hosts[:number]]
        if twice:
            raise ValueError(
                f"hosts: found {twice[0]} twice, expected each once; set workers_per_job for several workers"
            )
        return self

    @property
    def carries_folder(self) -> bool:
        """True if machines that do not see the pool's folder are sent the files that they need from it."""
        return True

    @property
    def most_jobs(self) -> int:
        """Maximum number of machines in use."""
        return min(self.max_jobs, len(self.hosts))

    @property
    def listening_host(self) -> str | None:
        """Address at which the scheduler listens; the workers reach it through their connections."""
        return "127.0.0.1" if self.interface is None else None

    @property
    def walltime_s(self) -> int:
        """Lifetime of a worker, in whole seconds."""
        return int(60 * self.lifetime_minutes)

    @property
    def longest_function_s(self) -> float:
        """Longest time limit of a function that a new worker can run, in seconds."""
        return self.walltime_s - START_S - END_S

    @property
    def orphan_s(self) -> float:
        """Time in seconds after which a worker ends if the process of the pool does not answer."""
        return 60 * self.orphan_minutes
