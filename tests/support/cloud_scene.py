"""A pool on a simulated cloud in tests."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, TypeVar

from metal import PlayedCloud
from pool_scene import PoolScene
from processes import wait_until

from surveyor.pools.clouds.rented_site import RentedSite
from surveyor.pools.pool import Pool

C = TypeVar("C", bound=PlayedCloud)
ORPHAN_S = 15.0  # a machine that is overloaded does not answer at once


@dataclass(frozen=True)
class Scene(PoolScene, Generic[C]):
    """A pool, and what can be done to it.

    Attributes:
        cloud: where its instances are.
        path: a folder.
        fields: what its block has besides what those of all scenes have.
        pools: that were opened.
    """

    cloud: C
    path: Path
    fields: dict[str, Any] = field(default_factory=dict)
    pools: list[Pool] = field(default_factory=list)

    @property
    def pool_name(self) -> str:  # type: ignore[override]  # it depends on the cloud
        return f"{self.cloud.site_type.kind}/test"

    @property
    def holder(self) -> int:
        holder = self.folder.read_holder()
        assert holder is not None
        return int(holder["pid"])

    def site(self, **fields: Any) -> RentedSite:
        plain = {"max_jobs": 1, "idle_minutes": 0.05, "orphan_minutes": ORPHAN_S / 60, "start_minutes": 10}
        return self.cloud.site_type.model_validate(self.cloud.fields(**plain | self.fields | fields))

    def instances(self) -> list[str]:
        """Those of this pool."""
        mine = (self.folder.path / "pool-id").exists() and self.folder.read_jobs()
        return [job for job in self.cloud.alive() if job in (mine or [])]

    def wait_for_the_end_of(self, instance: str) -> None:
        wait_until(lambda: instance not in self.cloud.alive(), self.said)
