"""The choice of a pool for each stage of a campaign."""

import logging
import re
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, Field

from surveyor.errors import InputError, PoolFailed
from surveyor.lease import Lease
from surveyor.parameters import Parameters
from surveyor.pools.address import scheduler_pool
from surveyor.pools.clouds.rented_site import RentedSite
from surveyor.pools.cluster import close_cluster_pool, cluster_pool
from surveyor.pools.local import local_pool
from surveyor.pools.machine import find_capacity
from surveyor.pools.pool import Pool
from surveyor.pools.pool_folder import PoolFolder
from surveyor.pools.site import Site, WorkersSite
from surveyor.pools.sites import SITES, LocalSite, SchedulerSite

logger = logging.getLogger(__name__)

LOCAL = "local"
SCHEMES = ("tcp", "tls")
EXPECTED = (
    'expected "local", the kind and name of a block such as slurm/genoa, or the address of a Dask scheduler such as '
    "tcp://10.0.0.1:8786 or tls://10.0.0.1:8786"
)
BLOCK = re.compile(rf"({'|'.join(SITES)})/[a-z0-9][a-z0-9-]*")


def _checked(name: str) -> str:
    if name == LOCAL or BLOCK.fullmatch(name):
        return name
    scheme, _, rest = name.partition("://")
    host, _, port = rest.rpartition(":")
    if scheme not in SCHEMES or not host or not port.isdecimal() or not 0 < int(port) < 65536:
        raise ValueError(f"found {name!r}, {EXPECTED}")
    return name


PoolName = Annotated[str, AfterValidator(_checked)]


class Pools(Parameters):
    """The pool of each stage: this machine, a cluster, or a running Dask scheduler."""

    sampling: PoolName = Field(LOCAL, title="Sampling", description=f"Pool that runs the walkers: {EXPECTED}.")
    labelling: PoolName = Field(LOCAL, title="Labelling", description=f"Pool that runs the reference: {EXPECTED}.")
    training: PoolName = Field(
        LOCAL, title="Training", description=f"Pool that trains and evaluates models: {EXPECTED}."
    )

    @property
    def names(self) -> list[str]:
        """The names, each once."""
        return list(dict.fromkeys((self.sampling, self.labelling, self.training)))


def plain_site(name: str) -> Site | None:
    """Return the site of a pool that needs no block; None for one that does."""
    if name == LOCAL:
        return LocalSite()
    return SchedulerSite(address=name) if "://" in name else None


def most_places(site: Site) -> int | None:
    """Return how many functions a pool runs at once at most; None if its scheduler alone knows."""
    if isinstance(site, LocalSite):
        return find_capacity(site).n_workers
    return site.most_workers if isinstance(site, WorkersSite) else None


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

    def __iter__(self) -> Iterator[Pool]:
        """Yield the pool of each stage."""
        yield from (self.sampling, self.labelling, self.training)


@contextmanager
def open_pools(
    pools: Pools,
    sites: Mapping[str, Site] | None = None,
    folder: Path | None = None,
    by_hand: Path | None = None,
    lease: Lease | None = None,
    on_left: Callable[[str], None] = lambda said: logger.warning("%s", said),
) -> Iterator[OpenPools]:
    """Open the pools of a campaign, and close them at the end.

    A pool starts or connects at its first use, so no pool is started if nothing is left to do. A normal end and
    a cancellation close pools on clusters together with their jobs. After a failure these pools finish their work; the
    next run joins it, or they end after their idle time. Pools opened by hand are never closed.

    Args:
        pools: their names.
        sites: the sites of the pools that are named by a block, by name.
        folder: folder for pools on clusters, which need one.
        by_hand: folder of the pools that the user has opened by hand.
        lease: lease of the run directory. If it is lost, the pools belong to another process and are not closed.
        on_left: called with a message about each pool that cannot be closed, as the end of work must not be a failure.

    Raises:
        InputError: a name needs a site that is not given.
    """
    known = {name: (sites or {}).get(name) or plain_site(name) for name in pools.names}
    ours: list[PoolFolder] = []
    try:
        with ExitStack() as opened:
            by_name: dict[str, Pool] = {}
            for name, site in known.items():
                by_name[name] = pool = _pool(name, site, folder, by_hand, ours)
                opened.callback(pool.shutdown, wait=False)
            yield OpenPools(by_name[pools.sampling], by_name[pools.labelling], by_name[pools.training])
    except Exception:
        raise  # what runs on clusters goes on
    except BaseException:
        _close(ours, lease, on_left)
        raise
    _close(ours, lease, on_left)


def _pool(name: str, site: Site | None, folder: Path | None, by_hand: Path | None, ours: list[PoolFolder]) -> Pool:
    match site:
        case LocalSite():
            return local_pool(site, name)
        case SchedulerSite():
            return scheduler_pool(name, site)
        case WorkersSite():
            if folder is None:
                raise InputError(f"pool {name} needs a folder for the process that holds its jobs")
            users = None if by_hand is None else folder_of(name, by_hand)
            if users is not None and users.read_holder() is not None:
                return cluster_pool(name, site, users.path)
            if site.workspace is not None and not site.carries_folder:
                by_ssh = "; or reach its instances by ssh, so that they need no folder: connection: ssh, in its block"
                raise InputError(
                    f"pool {name}: found workspace {site.workspace}, so that its jobs do not see the run directory; "
                    "the folder of the pool would be in it, which they have to see. Open the pool by hand, in a folder "
                    f"that they see: surveyor pool open {name}{by_ssh if isinstance(site, RentedSite) else ''}"
                )
            ours.append(folder_of(name, folder))
            return cluster_pool(name, site, ours[-1].path)
    raise InputError(f"pool {name}: its site is not known; load the block {name}, and give its site")


def folder_of(name: str, folder: Path) -> PoolFolder:
    """Return the folder of a pool within a folder of pools."""
    return PoolFolder(folder / name.replace("/", "-"))


def _close(folders: list[PoolFolder], lease: Lease | None, on_left: Callable[[str], None]) -> None:
    if lease is not None and lease.is_lost:
        return
    with ThreadPoolExecutor(max(1, len(folders))) as threads:  # side by side: a cancelled run is killed after 30 s
        list(threads.map(lambda folder: _close_one(folder, on_left), folders))


def _close_one(folder: PoolFolder, on_left: Callable[[str], None]) -> None:
    try:
        close_cluster_pool(folder)
    except PoolFailed as error:
        on_left(str(error))  # what the campaign has is safe
