"""Rented instances: what pools have in common whose machines cost money."""

from pydantic import Field, model_validator

from surveyor.pools.clouds.cloud_site import CloudSite
from surveyor.pools.site import Price


class RentedSite(CloudSite):
    """Instances that a pool rents, at a price, and that may be cheaper where the cloud may take them away."""

    disk_GB: int | None = Field(
        None, ge=1, title="Disk (GB)", description="Size of the root volume; by default that of the image."
    )
    price_per_hour: float | None = Field(
        None,
        gt=0,
        title="Price per hour",
        description="Price of the most expensive type of instance, in any currency.",
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
        description="Use cheaper instances, which the cloud may take away at short notice; their work then goes to "
        "another instance.",
    )
    on_demand_after: int = Field(
        3,
        ge=1,
        title="On demand after",
        description="Number of spot instances taken away, with no function finished in between, after which the next "
        "one is on demand.",
    )

    @model_validator(mode="after")
    def _check_budget(self) -> "RentedSite":
        if self.budget is not None and self.price_per_hour is None:
            raise ValueError("price_per_hour: found none, expected one, as the budget is counted by it")
        return self

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
