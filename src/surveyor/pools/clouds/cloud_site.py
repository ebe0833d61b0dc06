"""Common settings of pools that rent cloud machines for their jobs."""

from typing import ClassVar

from pydantic import Field, model_validator

from surveyor.pools.site import END_S, Price, WorkersSite


class CloudSite(WorkersSite):
    """Machines that a pool starts for its jobs, one for each, and that end by themselves."""

    costs_while_pending: ClassVar[bool] = True  # a job that waits for its machine has a price, too

    lifetime_minutes: float = Field(
        720.0,
        ge=1,
        title="Lifetime (min)",
        description="Time after which an instance powers itself off, or the cluster ends a pod, even while it works. A "
        "label whose time limit exceeds the remaining time starts on another one.",
    )
    start_minutes: float = Field(
        15.0,
        gt=0,
        title="Start (min)",
        description="Maximum time until the worker connects: boot or download of the image, prologue and imports.",
    )
    orphan_minutes: float = Field(
        5.0,
        gt=0,
        title="Orphan time (min)",
        description="Time after which an instance or pod ends itself if the process of the pool does not answer.",
    )

    price_per_hour: float | None = Field(
        None,
        gt=0,
        title="Price per hour",
        description="Price of an instance of the most expensive type, or of a pod, in any currency.",
    )
    budget: float | None = Field(
        None,
        gt=0,
        title="Budget",
        description="Cost, in the currency of the price, at which the pool of a campaign ends all its instances or "
        "pods.",
    )

    @model_validator(mode="after")
    def _check_budget(self) -> "CloudSite":
        if self.budget is not None and self.price_per_hour is None:
            raise ValueError("price_per_hour: found none, expected one, as the budget is counted by it")
        return self

    @model_validator(mode="after")
    def _check_start(self) -> "CloudSite":
        if self.start_minutes >= self.lifetime_minutes:
            raise ValueError(
                f"start_minutes: found {self.start_minutes:g}, expected less than lifetime_minutes, which is "
                f"{self.lifetime_minutes:g}"
            )
        return self

    @property
    def walltime_s(self) -> int:
        """Lifetime of a machine, in whole seconds."""
        return int(60 * self.lifetime_minutes)

    @property
    def longest_function_s(self) -> float:
        """Longest time limit of a function that a new machine can run, in seconds."""
        return self.walltime_s - 60 * self.start_minutes - END_S

    @property
    def price(self) -> Price | None:
        """Price and budget of the jobs."""
        if self.price_per_hour is None:
            return None
        return Price(self.price_per_hour, self.budget, 60 * self.orphan_minutes, self.costs_while_pending)

    @property
    def connect_s(self) -> float:
        """Time in seconds within which the worker of a running machine connects."""
        return 60 * self.start_minutes
