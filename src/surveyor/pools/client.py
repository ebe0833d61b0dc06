"""The Dask client of a pool."""

import warnings

from distributed import Client
from distributed.versions import VersionMismatchWarning


class PoolClient(Client):  # type: ignore[misc]  # it is untyped
    """A client that ends with its connection; its pool then connects to the current process of the pool."""

    async def _ensure_connected(self, timeout: float | None = None) -> None:
        # What has to be the same is compared when a pool opens. Dask speaks of more, such as pandas on one side alone.
        warnings.filterwarnings("ignore", category=VersionMismatchWarning)
        await super()._ensure_connected(timeout)

    async def _reconnect(self) -> None:
        for state in self.futures.values():
            state.cancel(reason="scheduler-connection-lost", msg="the connection to the scheduler was lost")
        self.futures.clear()
        await self._close()
