"""Pools of others: any Dask scheduler that runs already, by its address."""

import asyncio
import logging
import time
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

from distributed import Client, Security

from surveyor.errors import PoolFailed
from surveyor.pools.pool import Attachment, Pool

logger = logging.getLogger(__name__)

CONNECT_S = 10.0
COUNT_S = 2.0  # how often the workers are counted
NO_WORKER_S = 60.0  # so long can work wait without a worker before it is said, and said again

# A cluster that grows on demand has to see the demand: so many functions are handed over however few workers there are.
LEAST_IN_FLIGHT = 32

SCHEDULER_PACKAGES = ("python", "dask", "distributed", "cloudpickle")
WORKER_PACKAGES = (*SCHEDULER_PACKAGES, "surveyor")


def pool_at(address: str) -> Pool:
    """Return the pool of a Dask scheduler that runs already; closing the pool leaves the scheduler alone.

    The scheduler should run with `distributed.scheduler.allowed-failures` 0: otherwise Dask itself runs a function
    again, up to three times, before the death of its workers is reported. Certificates for `tls://` are taken from
    Dask's configuration (`distributed.comm.tls`).

    Args:
        address: such as `tcp://10.0.0.1:8786` or `tls://10.0.0.1:8786`.
    """
    return Pool(address, lambda: _attach(address))


@dataclass(slots=True)
class _Workers:
    """The workers of a scheduler, counted again and again on the loop of the client."""

    client: Client
    address: str
    threads: int = 0

    async def watch(self) -> None:
        last_useful = time.monotonic()
        while True:
            self.threads = sum((await self.client.nthreads()).values())
            now = time.monotonic()
            if self.threads or not self.client.futures:
                last_useful = now
            elif now - last_useful >= NO_WORKER_S:
                logger.warning(
                    "pool %s has had no worker for %.0f s, and work waits for one; see whether its workers start",
                    self.address,
                    NO_WORKER_S,
                )
                last_useful = now
            await asyncio.sleep(COUNT_S)


def _attach(address: str) -> Attachment:
    with ExitStack() as opened:
        client = _connect(address)
        opened.callback(client.close)
        check_versions(address, client.get_versions(packages=["surveyor"]))
        workers = _Workers(client, address, sum(client.nthreads().values()))
        watch = asyncio.run_coroutine_threadsafe(workers.watch(), client.loop.asyncio_loop)
        opened.callback(watch.cancel)
        return Attachment(
            client,
            count=lambda: workers.threads,
            hint=lambda: "What its workers printed last is where they were started.",
            close=opened.pop_all().close,
            least=LEAST_IN_FLIGHT,
        )


def _connect(address: str) -> Client:
    security = Security()
    if address.startswith("tls:") and security.get_connection_args("client").get("ssl_context") is None:
        raise PoolFailed(
            f"pool {address}: no certificates; name them in Dask's configuration under distributed.comm.tls"
        )
    try:
        return Client(address, security=security, set_as_default=False, timeout=CONNECT_S)
    except (OSError, ValueError) as error:
        raise PoolFailed(
            f"no Dask scheduler answered at {address} within {CONNECT_S:.0f} s: {error}; see whether it runs "
            "and whether this machine can reach it"
        ) from error


def check_versions(address: str, versions: Mapping[str, Any]) -> None:  # Any: nested, as Dask gives it
    """Compare the versions of this side with those of a scheduler and of its workers.

    Args:
        address: names the pool in the message.
        versions: what `Client.get_versions` returns.

    Raises:
        PoolFailed: some differ so that calls or results may not be understood on the other side.
    """
    here = versions["client"]["packages"]
    sides: list[tuple[str, Mapping[str, str | None], tuple[str, ...]]] = [
        ("the scheduler", versions["scheduler"]["packages"], SCHEDULER_PACKAGES),
        *((f"worker {name}", worker["packages"], WORKER_PACKAGES) for name, worker in versions["workers"].items()),
    ]
    for side, there, packages in sides:
        different = [package for package in packages if _release(package, here) != _release(package, there)]
        if different:
            found = ", ".join(
                f"{package} {there.get(package) or 'none'} (here {here.get(package)})" for package in different
            )
            raise PoolFailed(f"pool {address}: {side} has {found}; install the same versions on both sides")


def _release(package: str, versions: Mapping[str, str | None]) -> str | None:
    """Return the version of a package; of Python, whose patch releases understand each other, the first two numbers."""
    version = versions.get(package)
    return ".".join(version.split(".")[:2]) if version and package == "python" else version
