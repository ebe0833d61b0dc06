"""Rented instances: what pools have in common that rent whole machines."""

from pydantic import Field

from surveyor.pools.clouds.cloud_site import CloudSite


class RentedSite(CloudSite):
    """Instances that a pool rents, and that may be cheaper where the cloud may take them away."""

    disk_GB: int | None = Field(
        None, ge=1, title="Disk (GB)", description="Size of the root volume; by default that of the image."
    )
    spot: bool = Field(
        False,
        title="Spot instances",
        description="Use cheaper instances, which the cloud may take away at short notice; their work then moves to "
        "another instance.",
    )
    on_demand_after: int = Field(
        3,
        ge=1,
        title="On demand after",
        description="Number of spot instances that are taken away, with no function finished in between, before the "
        "pool starts one on demand.",
    )

    @property
    def firm_after(self) -> int | None:
        """Number of spot instances taken away, with nothing finished in between, after which one is on demand."""
        return self.on_demand_after if self.spot else None
