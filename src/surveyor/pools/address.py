"""Pools on Dask schedulers that run already, given by their addresses."""

import asyncio
import logging
import time
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any
from uuid import uuid4

from distributed import Client, Future, Security

from surveyor.errors import PoolFailed
from surveyor.pools.client import PoolClient
from surveyor.pools.pool import GROUP, Attachment, Pool
from surveyor.pools.sites import SchedulerSite

logger = logging.getLogger(__name__)

CONNECT_S = 10.0
ANSWER_S = 30.0  # so long may workers take to tell their versions: those that hold their interpreter do not answer
COUNT_S = 2.0  # how often the workers are counted
NO_WORKER_S = 60.0  # so long can work wait without a worker before it is said, and said again

# A cluster that grows on demand has to see the demand: so many functions are handed over however few workers there are.
LEAST_IN_FLIGHT = 32

SCHEDULER_PACKAGES = ("python", "dask", "distributed", "cloudpickle")
WORKER_PACKAGES = (*SCHEDULER_PACKAGES, "surveyor")


def pool_at(address: str) -> Pool:
    """Return the pool of a Dask scheduler that runs already; see `scheduler_pool`.

    Args:
        address: such as `tcp://10.0.0.1:8786` or `tls://10.0.0.1:8786`.
    """
    return scheduler_pool(address, SchedulerSite(address=address))


def scheduler_pool(name: str, site: SchedulerSite) -> Pool:
    """Return the pool of a Dask scheduler that runs already; closing the pool leaves the scheduler alone.

    The scheduler should run with `distributed.scheduler.allowed-failures` 0: otherwise Dask itself runs a function
    again, up to three times, before the death of its workers is reported. Certificates for `tls://` that the site does
    not name are taken from Dask's configuration (`distributed.comm.tls`).
    """
    return Pool(name, lambda: _attach(name, site))


@dataclass(slots=True)
class _Workers:
    """The workers of a scheduler, counted repeatedly on the loop of the client."""

    client: Client
    name: str
    threads: int = 0
    known: set[str] = field(default_factory=set)
    failure: str | None = None

    async def watch(self) -> None:
        last_useful = time.monotonic()
        while True:
            workers = await self.client.nthreads()
            self.threads = sum(workers.values())
            if {*workers} - self.known:
                await self.compare()
            now = time.monotonic()
            if self.threads or not self.client.futures:
                last_useful = now
            elif now - last_useful >= NO_WORKER_S:
                logger.warning(
                    "pool %s has had no worker for %.0f s, and work waits for one; see whether its workers start",
                    self.name,
                    NO_WORKER_S,
                )
                last_useful = now
            await asyncio.sleep(COUNT_S)

    async def compare(self) -> None:
        """Compare the versions of scheduler and workers with those of this side."""
        self.known.update(await self.client.nthreads())
        try:
            answer = await asyncio.wait_for(self.client.get_versions(packages=["surveyor"]), ANSWER_S)
            check_versions(self.name, answer)
        except TimeoutError:
            logger.info("pool %s: its workers are busy; each compares versions before it runs something", self.name)
        except PoolFailed as error:
            logger.error("%s", error)
            self.failure = str(error)


def _attach(name: str, site: SchedulerSite) -> Attachment:
    with ExitStack() as opened:
        client = _connect(name, site)
        opened.callback(client.close)
        workers = _Workers(client, name, sum(client.nthreads().values()))
        client.sync(workers.compare)
        if workers.failure is not None:
            raise PoolFailed(workers.failure)
        watch = asyncio.run_coroutine_threadsafe(workers.watch(), client.loop.asyncio_loop)
        opened.callback(watch.cancel)
        group = _enlarge_group(client, workers.threads)
        opened.callback(group.clear)
        return Attachment(
            client,
            count=lambda: workers.threads,
            hint=lambda: "What its workers printed last is where they were started.",
            close=opened.pop_all().close,
            least=LEAST_IN_FLIGHT,
            failure=lambda: workers.failure,
            waiting=lambda: None if workers.threads else f"a worker of {name}",
        )


def _enlarge_group(client: Client, n_threads: int) -> list[Future]:
    """Submit a few empty calls, and return their futures, which are to be held.

    What no worker is free for should stay with the scheduler: on a worker that dies it would fail too, unstarted. Dask
    does so within groups of tasks that are large against the cluster, and counts all that were in a group as long as a
    result of it is held.
    """
    if not n_threads:
        return []
    return [client.submit(int, key=f"{GROUP}-{uuid4().hex}", pure=False) for _ in range(2 * n_threads + 1)]


def _connect(name: str, site: SchedulerSite) -> Client:
    security = _security(site)
    if site.address.startswith("tls:") and security.get_connection_args("client").get("ssl_context") is None:
        raise PoolFailed(
            f"pool {name}: no certificates for {site.address}; give its block the TLS files, or name them in Dask's "
            "configuration under distributed.comm.tls"
        )
    try:
        return PoolClient(site.address, security=security, set_as_default=False, timeout=CONNECT_S)
    except (OSError, ValueError) as error:
        raise PoolFailed(
            f"no Dask scheduler answered at {site.address} within {CONNECT_S:.0f} s: {error}; see whether it runs "
            "and whether this machine can reach it"
        ) from error


def _security(site: SchedulerSite) -> Security:
    if site.tls_ca_file is None:
        return Security()
    return Security(
        tls_ca_file=str(site.tls_ca_file),
        tls_client_cert=str(site.tls_cert_file),
        tls_client_key=str(site.tls_key_file),
        require_encryption=True,
    )


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
