"""The Dask client of a pool."""

from distributed import Client


class PoolClient(Client):  # type: ignore[misc]  # it is untyped
    """A client that ends with its connection: its pool attaches anew, to whatever process is there then."""

    async def _reconnect(self) -> None:
        for state in self.futures.values():
            state.cancel(reason="scheduler-connection-lost", msg="the connection to the scheduler was lost")
        self.futures.clear()
        await self._close()
