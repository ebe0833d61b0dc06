"""Common settings of pools that rent whole machines."""

from dataclasses import replace
from pathlib import Path
from typing import Literal

from pydantic import Field, model_validator

from surveyor.pools.clouds.cloud_site import CloudSite
from surveyor.pools.site import Price, User


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

    connection: Literal["private", "ssh"] = Field(
        "private",
        title="Connection",
        description="How the pool reaches the instances. private: within the same network. ssh: through one outgoing "
        "connection to each instance, also from a laptop.",
    )
    ssh_user: User | None = Field(
        None,
        title="SSH user",
        description="For connection ssh: user on the instances who runs the workers, such as ubuntu or ec2-user; "
        "created if the image has no user of this name.",
    )
    ssh_key_file: Path | None = Field(
        None,
        title="SSH key (file)",
        description="For connection ssh: private key without passphrase, readable only by its owner. Instances get "
        "the public key.",
    )
    proxy_command: str | None = Field(
        None,
        min_length=1,
        title="Proxy command",
        description="For connection ssh: command through which ssh connects (ProxyCommand), with %h for the address of "
        "an instance and %n for its id (in Compute Engine, its name). Never a secret.",
    )

    @model_validator(mode="after")
    def _check_connection(self) -> "RentedSite":
        fields = {"ssh_user": self.ssh_user, "ssh_key_file": self.ssh_key_file}
        if self.connection == "ssh":
            if missing := [name for name, value in fields.items() if value is None]:
                raise ValueError(f"{missing[0]}: found none, expected one, as connection is ssh")
            if not Path(str(self.ssh_key_file)).expanduser().is_absolute():
                raise ValueError(f"ssh_key_file: found {self.ssh_key_file}, expected a full path")
            return self
        fields["proxy_command"] = self.proxy_command
        if given := [name for name, value in fields.items() if value is not None]:
            raise ValueError(
                f"{given[0]}: found {fields[given[0]]}, expected none, as connection is private; set connection: ssh, "
                "or leave it out"
            )
        return self

    @property
    def firm_after(self) -> int | None:
        """Number of spot instances taken away, with nothing finished in between, after which one is on demand."""
        return self.on_demand_after if self.spot else None

    @property
    def farewell(self) -> str:
        """Commands of an instance before it powers itself off."""
        return ""

    @property
    def listening_host(self) -> str | None:
        """Address at which the scheduler listens; by ssh, workers reach it through their connections."""
        return "127.0.0.1" if self.connection == "ssh" and self.interface is None else None

    @property
    def price(self) -> Price | None:
        """Price and budget of the instances; one that boots unwatched lives until its worker should begin.

        By ssh, no worker begins then. Within the same network it may, and waits for the process of the pool.
        """
        price = super().price
        if price is None:
            return None
        orphan_s, start_s = price.unwatched_s, 60 * self.start_minutes
        return replace(price, unwatched_s=max(orphan_s, start_s) if self.connection == "ssh" else orphan_s + start_s)
