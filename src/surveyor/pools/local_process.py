"""The process of a local pool: runs its scheduler and workers until its parent ends it.

Usage: python -m surveyor.pools.local_process FOLDER PARENT_PROCESS_ID, with a line of JSON on standard input: the
folders searched for modules before the environment of this process (`path`), and the environment variables of each
worker (`workers`). It answers with a line of JSON on standard output: the address of the scheduler (`address`), and the
`certificate` and `key` that clients need, because other users of this machine can reach the port. It ends when
standard input is closed or the parent is gone; both also happen when the parent is killed. It also ends when all
workers are gone for good, so that its parent can start another pool.

A separate process is needed because in the flow's process the workers would import the user's main script again, Ctrl-C
would reach them, and the scheduler would share one interpreter with the flow.
"""

import json
import logging
import os
import select
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import dask
from distributed import Nanny, Security, SpecCluster

from surveyor.pools.scheduler import SETTINGS, PoolScheduler
from surveyor.programs import launcher

WATCH_S = 0.5  # how often the parent is looked for; mostly the closed standard input tells first
GONE_S = 5.0  # without the process of any worker, after which none will come; a dead one is replaced at once

HOST = "127.0.0.1"
# Some time after each death of a worker, Dask checks whether it is back, and gives it up if it is restarting just then.
NEVER_GIVE_UP = {"distributed.deploy.lost-worker-timeout": "1000 days"}


def main() -> None:
    """Hold the pool, then end it with all its workers."""
    folder, parent = Path(sys.argv[1]), int(sys.argv[2])
    launcher.adopt_orphans()
    wanted = json.loads(sys.stdin.readline())
    # The first of its own is the current folder, in which the parent may not look.
    sys.path[:] = [*wanted["path"], *(entry for entry in sys.path[1:] if entry not in wanted["path"])]
    # What functions print goes to the log, as the answer alone belongs on standard output.
    answer = os.fdopen(os.dup(sys.stdout.fileno()), "w")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    with dask.config.set({**SETTINGS, **NEVER_GIVE_UP, "temporary-directory": str(folder)}):
        security = Security.temporary()
        cluster = _start_cluster(wanted["workers"], security)
        secrets = {"certificate": security.tls_ca_file, "key": security.tls_client_key}
        answer.write(f"{json.dumps({'address': cluster.scheduler_address, **secrets})}\n")
        answer.close()
        _wait_until_unwanted(cluster, parent)
        # Nothing that runs now is wanted any more, and an orderly end would wait for it. A program that takes the place
        # of this one has all its descendants and none of its threads, which would start killed workers again.
        os.execv(sys.executable, [sys.executable, "-S", "-I", launcher.__file__, launcher.END, str(folder)])


def _wait_until_unwanted(cluster: SpecCluster, parent: int) -> None:
    """Wait until the parent is gone or wants nothing more, or there are no workers any more."""
    seen = time.monotonic()
    while os.getppid() == parent and time.monotonic() < seen + GONE_S:
        if select.select([sys.stdin], [], [], WATCH_S)[0]:
            break
        if _has_workers(cluster):
            seen = time.monotonic()


def _has_workers(cluster: SpecCluster) -> bool:
    try:
        return any(nanny.is_alive() for nanny in cluster.workers.values())
    except AttributeError:  # in this moment, the thread of the cluster notes a death
        return True


def _start_cluster(environments: Sequence[Mapping[str, str]], security: Security) -> SpecCluster:
    common = {"host": HOST, "protocol": "tls://", "security": security}
    # Without a port of its own each pool would ask for the same one.
    scheduler = {"cls": PoolScheduler, "options": {**common, "dashboard": False, "dashboard_address": f"{HOST}:0"}}
    workers = {number: _worker(environment, common) for number, environment in enumerate(environments)}
    # The log is there for what functions print: it is shown when a worker dies.
    return SpecCluster(scheduler=scheduler, workers=workers, security=security, silence_logs=logging.CRITICAL)


def _worker(environment: Mapping[str, str], common: Mapping[str, Any]) -> dict[str, Any]:  # Any: as Dask wants it
    return {
        "cls": Nanny,
        "options": {
            **common,
            "env": dict(environment),
            "nthreads": 1,
            # Dask would pause and kill workers on a guess of what they may use; the operating system knows.
            "memory_limit": None,
            "dashboard": False,
            "silence_logs": logging.CRITICAL,
        },
    }


if __name__ == "__main__":
    main()
