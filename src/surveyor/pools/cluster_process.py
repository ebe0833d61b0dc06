"""The process of a pool on a cluster: runs the scheduler and manages the jobs as long as they are needed.

Usage: python -m surveyor.pools.cluster_process FOLDER

The folder contains the settings of the pool (`site.json`). This process writes its address (`address.json`), its jobs
(`jobs.json`), its state (`state.json`) and the reason why it gave up (`failure.json`) there. It ends on SIGTERM, when a
client shuts the scheduler down, when there was neither client nor work for the idle time of the site, and
when jobs fail repeatedly. At its end it cancels the jobs.

The process survives the death of the campaign's process.
"""

import asyncio
import logging
import shutil
import signal
import sys
from contextlib import suppress
from pathlib import Path

import dask

from surveyor.errors import CampaignInUse, PoolFailed
from surveyor.files import write_json
from surveyor.lease import Lease, hold_lease
from surveyor.pools import worker_check
from surveyor.pools.keeper import Keeper
from surveyor.pools.pool_folder import PoolFolder
from surveyor.pools.scheduler import SETTINGS, PoolScheduler
from surveyor.pools.site import WorkersSite
from surveyor.pools.site_machines import machines_of

logger = logging.getLogger("surveyor.pools.cluster")


def main() -> None:
    """Hold the pool of a folder."""
    folder = PoolFolder(Path(sys.argv[1]))
    logging.basicConfig(
        level=logging.WARNING, stream=sys.stderr, format="%(asctime)s %(levelname)s %(name)s: %(message)s"
    )
    logging.getLogger("surveyor").setLevel(logging.INFO)
    try:
        with hold_lease(folder.lease) as lease, dask.config.set(dict(SETTINGS)):
            asyncio.run(_hold(folder, lease))
    except CampaignInUse as error:
        logger.info("%s", error)  # whoever wanted it attaches to the one that is there


async def _hold(folder: PoolFolder, lease: Lease) -> None:
    name, site = folder.read_site()
    if not isinstance(site, WorkersSite):
        raise TypeError(f"{name} has no jobs")
    folder.failure.unlink(missing_ok=True)
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    shutil.copy(worker_check.__file__, folder.check)
    write_json(folder.versions, worker_check.this_side(), is_patient=False)
    security = folder.make_certificates()
    async with PoolScheduler(
        asks_why=site.says_why,
        interface=site.interface,
        host=site.listening_host,
        protocol="tls",
        port=0,
        security=security,
        dashboard=False,
        dashboard_address="127.0.0.1:0",
    ) as scheduler:
        machines = machines_of(
            name, site, folder.path, scheduler.address, security, f"{folder.check} {folder.versions}"
        )
        await _keep_open(Keeper(name, site, folder, lease, scheduler, machines), stop)
    logger.info("pool %s is closed", name)


async def _keep_open(keeper: "Keeper", stop: asyncio.Event) -> None:
    name, folder, address = keeper.name, keeper.folder, keeper.scheduler.address
    try:
        await keeper.end_former_jobs()
        write_json(folder.address, folder.holder(address), is_patient=False)
        logger.info("pool %s is open at %s", name, address)
        await keeper.keep(stop)
    except Exception as error:
        logger.exception("pool %s gives up", name)
        with suppress(OSError):
            write_json(folder.failure, {"message": str(error) or repr(error)}, is_patient=False)
        if not isinstance(error, PoolFailed):
            raise
    finally:
        if not keeper.lease.is_lost:
            with suppress(OSError):  # whatever the disk does, the jobs are to be cancelled
                folder.address.unlink(missing_ok=True)
        await keeper.close()


if __name__ == "__main__":
    main()
