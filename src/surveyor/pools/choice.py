"""Which pool each stage of a campaign runs on."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Annotated

from pydantic import AfterValidator, Field

from surveyor.parameters import Parameters
from surveyor.pools.address import pool_at
from surveyor.pools.local import local_pool
from surveyor.pools.pool import Pool

LOCAL = "local"
SCHEMES = ("tcp", "tls")
EXPECTED = 'expected "local", or the address of a Dask scheduler such as tcp://10.0.0.1:8786 or tls://10.0.0.1:8786'


def _checked(name: str) -> str:
    if name == LOCAL:
        return name
    scheme, _, rest = name.partition("://")
    host, _, port = rest.rpartition(":")
    if scheme not in SCHEMES or not host or not port.isdecimal() or not 0 < int(port) < 65536:
        raise ValueError(f"found {name!r}, {EXPECTED}")
    return name


PoolName = Annotated[str, AfterValidator(_checked)]


class Pools(Parameters):
    """Where each stage runs: on this machine, or on a Dask cluster that runs already."""

    sampling: PoolName = Field(LOCAL, title="Sampling", description=f"Pool that propagates the walkers: {EXPECTED}.")
    labelling: PoolName = Field(LOCAL, title="Labelling", description=f"Pool that runs the reference: {EXPECTED}.")
    training: PoolName = Field(
        LOCAL, title="Training", description=f"Pool that trains and evaluates models: {EXPECTED}."
    )


@dataclass(frozen=True, slots=True)
class OpenPools:
    """The pools of a campaign; stages that name the same pool share it.

    Attributes:
        sampling: propagates the walkers.
        labelling: runs the reference.
        training: trains and evaluates models.
    """

    sampling: Pool
    labelling: Pool
    training: Pool

    def attach(self) -> None:
        """Attach to all of them now, so that one that cannot be reached is known before any work.

        Raises:
            PoolFailed: a pool cannot be opened.
        """
        for pool in (self.sampling, self.labelling, self.training):
            pool.open()


@contextmanager
def open_pools(pools: Pools) -> Iterator[OpenPools]:
    """Give the pools of a campaign, and close them at the end, whatever the end is.

    A pool starts or attaches when it is first used: where nothing is left to do, nothing is started. What is still in
    flight at the end is abandoned.

    Args:
        pools: their names.
    """
    with ExitStack() as opened:
        by_name: dict[str, Pool] = {}
        for name in (pools.sampling, pools.labelling, pools.training):
            if name not in by_name:
                by_name[name] = pool = local_pool() if name == LOCAL else pool_at(name)
                opened.callback(pool.shutdown, wait=False)
        yield OpenPools(by_name[pools.sampling], by_name[pools.labelling], by_name[pools.training])
