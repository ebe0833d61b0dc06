"""The workers of a job on a machine that is reached by ssh. It is started by `ssh_watch`.

Usage: python -m surveyor.pools.ssh.worker, with the order as a line of JSON on standard input.
"""

import asyncio
import json
import logging
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import dask
from distributed import Nanny, Security

from surveyor.pools.scheduler import SETTINGS
from surveyor.programs import launcher

HOST = "127.0.0.1"


def main() -> None:
    """Work until the scheduler wants no worker any more."""
    launcher.end_with_parent()
    order = json.loads(sys.stdin.readline())
    logging.basicConfig(
        level=logging.WARNING, stream=sys.stderr, format="%(asctime)s %(levelname)s %(name)s: %(message)s"
    )
    with dask.config.set({**SETTINGS, "temporary-directory": str(Path.cwd())}):
        asyncio.run(_work(order))


async def _work(order: Mapping[str, Any]) -> None:  # Any: as JSON gives it
    certificate, key = order["certificate"], order["key"]
    # In memory: Dask writes them to temporary files for the moment in which Python reads them.
    security = Security(
        tls_ca_file=certificate, tls_worker_cert=certificate, tls_worker_key=key, require_encryption=True
    )
    contacts = order["contacts"]
    names = [order["name"]] if len(contacts) == 1 else [f"{order['name']}-{number}" for number in range(len(contacts))]
    nannies = [
        Nanny(
            order["scheduler"],
            name=name,
            host=HOST,
            protocol="tls",
            worker_port=port,
            contact_address=contact,
            security=security,
            nthreads=1,
            memory_limit=None,
            dashboard=False,
        )
        for name, port, contact in zip(names, order["ports"], contacts, strict=True)
    ]
    await asyncio.gather(*nannies)
    await asyncio.gather(*(nanny.finished() for nanny in nannies))


if __name__ == "__main__":
    main()
