"""A pool on a played EC2 in tests."""

from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from counted_work import names, work
from played_cloud import PlayedCloud
from processes import wait_until

from surveyor.pools.cluster import close_cluster_pool, cluster_pool
from surveyor.pools.ec2.site import EC2Site
from surveyor.pools.pool import Pool
from surveyor.pools.pool_folder import PoolFolder
from surveyor.pools.submission import SubmitOptions

PATIENCE_S = 120.0
ORPHAN_S = 6.0


@dataclass(frozen=True)
class Scene:
    """A pool, and what can be done to it.

    Attributes:
        cloud: where its instances are.
        path: a folder.
        fields: what its block has besides what those of all scenes have.
        pools: that were opened.
    """

    cloud: PlayedCloud
    path: Path
    fields: dict[str, Any] = field(default_factory=dict)
    pools: list[Pool] = field(default_factory=list)

    @property
    def folder(self) -> PoolFolder:
        return PoolFolder(self.path / "pool")

    @property
    def log(self) -> Path:
        return self.path / "work.log"

    @property
    def holder(self) -> int:
        holder = self.folder.read_holder()
        assert holder is not None
        return int(holder["pid"])

    def site(self, **fields: Any) -> EC2Site:
        plain = {"max_jobs": 1, "idle_minutes": 0.05, "orphan_minutes": ORPHAN_S / 60, "start_minutes": 2}
        return EC2Site.model_validate(self.cloud.fields(**plain | self.fields | fields))

    def open_pool(self, **fields: Any) -> Pool:
        self.pools.append(cluster_pool("ec2/test", self.site(**fields), self.folder.path))
        return self.pools[-1]

    def start(self, pool: Pool, name: str, seconds: float) -> Future[str]:
        """Submit work and wait until it runs."""
        future = pool.submit_with(SubmitOptions(name), work, self.log, name, seconds)
        wait_until(lambda: name in names(self.log, "begin"), self.said, PATIENCE_S)
        return future

    def said(self) -> str:
        return self.folder.log.read_text() if self.folder.log.exists() else "no log"

    def instances(self) -> list[str]:
        """Those of this pool."""
        mine = (self.folder.path / "pool-id").exists() and self.folder.read_jobs()
        return [job for job in self.cloud.alive() if job in (mine or [])]

    def wait_for_the_end_of_the_pool(self) -> None:
        wait_until(lambda: self.folder.read_holder() is None, self.said, PATIENCE_S)

    def wait_for_the_end_of(self, instance: str) -> None:
        wait_until(lambda: instance not in self.cloud.alive(), self.said, PATIENCE_S)

    def close(self) -> None:
        for pool in self.pools:
            pool.shutdown(wait=False)
        close_cluster_pool(self.folder)
