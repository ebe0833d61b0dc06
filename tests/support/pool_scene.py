"""A pool on any kind of machines in tests, and what can be done to it."""

from concurrent.futures import Future
from pathlib import Path
from typing import Any

from counted_work import names, work
from processes import wait_until

from surveyor.pools.cluster import close_cluster_pool, cluster_pool
from surveyor.pools.pool import Pool
from surveyor.pools.pool_folder import PoolFolder
from surveyor.pools.site import WorkersSite
from surveyor.pools.submission import SubmitOptions


class PoolScene:
    """Base of scenes, which are dataclasses.

    Attributes:
        pool_name: name of the pool.
        path: folder for what belongs to the scene.
        pools: that were opened.
    """

    pool_name: str
    path: Path
    pools: list[Pool]

    @property
    def folder(self) -> PoolFolder:
        return PoolFolder(self.path / "pool")

    @property
    def log(self) -> Path:
        return self.path / "work.log"

    def site(self, **fields: Any) -> WorkersSite:
        raise NotImplementedError

    def open_pool(self, **fields: Any) -> Pool:
        self.pools.append(cluster_pool(self.pool_name, self.site(**fields), self.folder.path))
        return self.pools[-1]

    def start(self, pool: Pool, name: str, seconds: float = 300) -> Future[str]:
        """Submit work and wait until it runs."""
        future = pool.submit_with(SubmitOptions(name), work, self.log, name, seconds)
        wait_until(lambda: name in names(self.log, "begin"), self.said)
        return future

    def said(self) -> str:
        """Return the ends of what the pool and its jobs have written."""
        files = [self.folder.log, *(self.folder.path / "jobs").glob("*")]
        return "\n".join(f"{path}:\n{path.read_text(errors='replace')[-3000:]}" for path in files if path.is_file())

    def wait_for_the_end_of_the_pool(self) -> None:
        wait_until(lambda: self.folder.read_holder() is None, self.said)

    def close(self) -> None:
        for pool in self.pools:
            pool.shutdown(wait=False)
        close_cluster_pool(self.folder)
