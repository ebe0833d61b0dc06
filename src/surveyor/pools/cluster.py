"""Pools on clusters with a queue: opened in a process of their own, found again through their folder."""

import asyncio
import logging
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from contextlib import ExitStack, suppress
from pathlib import Path

import psutil
from distributed import Client

from surveyor.errors import InputError, PoolFailed
from surveyor.files import read_json
from surveyor.lease import holder_of
from surveyor.pools import cluster_process
from surveyor.pools.client import PoolClient
from surveyor.pools.machines import QueueSilent
from surveyor.pools.pool import Attachment, Pool
from surveyor.pools.pool_folder import PoolFolder
from surveyor.pools.site import WorkersSite
from surveyor.pools.site_machines import machines_of
from surveyor.pools.worker_check import difference

logger = logging.getLogger(__name__)

N_STARTS = 3
START_S = 120.0  # imports from a busy network disk take their time
CONNECT_S = 20.0
CLOSE_S = 60.0
CANCEL_S = 20.0
SILENT_S = 60.0  # what the pool's process has written longer ago is no longer so
POLL_S = 0.1
LOG_LINES = 12

# What an allocation in which the flow runs itself says of its own resources; the jobs have others.
OF_A_JOB = re.compile(r"(SLURM_(?!CONF$)|SBATCH_|SQUEUE_|SRUN_)")
PLAIN_PATH = re.compile(r"[\w./+@-]+", re.ASCII)


def cluster_pool(name: str, site: WorkersSite, folder: Path) -> Pool:
    """Return a pool whose workers run in jobs of a cluster; its process starts when the pool is first used.

    The process outlives this one. Shutting the pool down detaches from it; `close_cluster_pool` ends it.

    Args:
        name: what the pool is called in messages.
        site: what its jobs ask for.
        folder: of the pool, on a disk that the compute nodes see; a pool that is open there is joined.
    """
    return Pool(name, lambda: _attach(name, site, PoolFolder(folder)))


def open_cluster_pool(name: str, site: WorkersSite, folder: PoolFolder) -> str:
    """Start the process of a pool unless it runs, and return the address of its scheduler.

    Raises:
        InputError: the path of the folder cannot stand in a job script.
        PoolFailed: it did not start.
    """
    if not PLAIN_PATH.fullmatch(str(folder.path)):
        raise InputError(
            f"pool {name}: found the folder {folder.path}, expected a path of letters, digits and . _ - + @ alone, as "
            "it stands in job scripts; choose another run directory"
        )
    holder = folder.read_holder()
    if holder is None:
        if site.is_experimental:
            logger.warning(
                "pool %s: pools of the kind %s are experimental: %s; see what `surveyor doctor` says before the first "
                "campaign",
                name,
                site.kind,
                site.untried,
            )
        folder.make(name, site)
        folder.failure.unlink(missing_ok=True)
        machines_of(name, site, folder.path)  # what its process would lack is said here
        holder = _wait_for_holder(name, folder, _start(folder), START_S + site.leave_s)
    elif folder.read_site()[1] != site:
        logger.warning("pool %s is open with other settings, and keeps them until it is closed", name)
    return str(holder["address"])


def close_cluster_pool(folder: PoolFolder) -> bool:
    """End the process of a pool and its jobs; return whether there was one.

    Raises:
        PoolFailed: it does not end.
    """
    holder = folder.read_holder()
    if holder is None:
        _cancel_left(folder)
        return False
    if holder["host"] == socket.gethostname():
        with suppress(ProcessLookupError):
            os.kill(int(holder["pid"]), signal.SIGTERM)
    else:
        try:
            with Client(holder["address"], security=folder.read_certificates(), set_as_default=False) as client:
                client.shutdown()
        except OSError as error:
            raise PoolFailed(
                f"the pool in {folder.path} cannot be closed from here: its process {holder['pid']} on "
                f"{holder['host']} does not answer ({error}); close it there, or leave it to its idle time"
            ) from error
    deadline = time.monotonic() + CLOSE_S
    while folder.read_holder() is not None or folder.read_jobs():
        if holder_of(folder.lease) is None:  # it has ended, or was killed, and nobody else ends the jobs that it left
            _cancel_left(folder)
        if time.monotonic() > deadline:
            raise PoolFailed(
                f"the pool in {folder.path} does not end: process {holder['pid']} on {holder['host']}, jobs "
                f"{', '.join(folder.read_jobs()) or 'none'}; see {folder.log}"
            )
        time.sleep(POLL_S)
    return True


def _cancel_left(folder: PoolFolder) -> None:
    """Cancel the jobs of a process that was killed."""
    left = folder.read_jobs()
    name, site = folder.read_site() if left else ("", None)
    if isinstance(site, WorkersSite):
        jobs = machines_of(name, site, folder.path)
        deadline = time.monotonic() + CANCEL_S
        while left and time.monotonic() < deadline:
            try:
                asyncio.run(jobs.cancel(left))
                entries = asyncio.run(jobs.look(left))
            except QueueSilent as error:
                raise PoolFailed(f"jobs {', '.join(left)} of the pool in {folder.path} are left: {error}") from error
            left = [job for job, entry in entries.items() if entry.state != "ending"]
        folder.write_jobs(left)
        if left:
            raise PoolFailed(f"jobs {', '.join(left)} of the pool in {folder.path} cannot be cancelled; see why")


def _attach(name: str, site: WorkersSite, folder: PoolFolder) -> Attachment:
    with ExitStack() as opened:
        client = _connect(name, site, folder)
        opened.callback(client.close)
        # The workers are compared when they begin, and asking all of them would wait for the busiest.
        if (complaint := difference(read_json(folder.versions))) is not None:
            raise PoolFailed(f"pool {name}: {complaint}")
        return Attachment(
            client,
            count=lambda: site.most_workers,
            hint=lambda: f"The outputs of its jobs are in {folder.path / 'jobs'}.",
            close=opened.pop_all().close,
            failure=folder.read_failure,
            waiting=lambda: _waiting(name, folder),
        )


def _waiting(name: str, folder: PoolFolder) -> str | None:
    state = folder.read_state() or {}
    reason = state.get("waiting")
    return f"a job of {name} ({reason})" if reason and time.time() - state["time"] < SILENT_S else None


def _connect(name: str, site: WorkersSite, folder: PoolFolder) -> PoolClient:
    """Return a client of the pool; start its process if there is none."""
    while True:
        address = open_cluster_pool(name, site, folder)
        try:
            return PoolClient(
                address, security=folder.read_certificates(), set_as_default=False, timeout=CONNECT_S, name=name
            )
        except (OSError, ValueError) as error:
            # A process that is being killed may have closed its connections, and still hold its lease for a moment.
            if (folder.read_holder() or {}).get("address") == address:
                raise PoolFailed(
                    f"pool {name}: nothing answers at {address}, which {folder.address} names: {error}"
                ) from error


def _start(folder: PoolFolder) -> "subprocess.Popen[bytes]":
    with folder.log.open("ab") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", cluster_process.__name__, str(folder.path)],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
            cwd=folder.path,
            env={name: value for name, value in os.environ.items() if not OF_A_JOB.match(name)},
        )
    # It outlives this process; when it does not, its end is to be seen.
    threading.Thread(target=process.wait, name="pool", daemon=True).start()
    return process


def _wait_for_holder(
    name: str, folder: PoolFolder, process: "subprocess.Popen[bytes]", within_s: float
) -> dict[str, object]:
    deadline, n_starts = time.monotonic() + within_s, 1
    while (holder := folder.read_holder()) is None:
        if (process.poll() or 0) < 0 and n_starts < N_STARTS:  # somebody has killed it
            process, n_starts = _start(folder), n_starts + 1
        # A process that found another one in its place ends well. That one is at work soon, or is about to end.
        if process.poll() == 0 and holder_of(folder.lease) is None:
            process = _start(folder)
        has_ended = process.poll() not in (None, 0)
        failure = folder.read_failure()
        if failure is not None or has_ended or time.monotonic() > deadline:
            with suppress(psutil.NoSuchProcess):
                psutil.Process(process.pid).terminate()
            log = "\n".join(folder.log.read_text(errors="replace").splitlines()[-LOG_LINES:])
            raise PoolFailed(failure or f"pool {name} did not start; {folder.log} says:\n{log}")
        time.sleep(POLL_S)
    return holder
