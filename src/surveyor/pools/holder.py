"""Run as a process of its own: holds the scheduler and the workers of a local pool for as long as its parent wants it.

Usage: python -m surveyor.pools.holder WORKERS FOLDER PARENT_PROCESS_ID, with the search path of modules as a line of
JSON on standard input. It answers with the scheduler's address on standard output, and ends when standard input is
closed or the parent is gone; both happen too when the parent is killed.

The flow's process would be the simpler place. But there the workers would import the user's main script again, Ctrl-C
would reach them, and the scheduler would share one interpreter with the flow.
"""

import json
import logging
import os
import select
import shutil
import signal
import sys
from contextlib import suppress
from pathlib import Path

import dask
import psutil
from distributed import LocalCluster

WATCH_S = 0.5  # how often the parent is looked for; mostly the closed standard input tells first

SETTINGS = {
    # A death is reported at once; whether to try again is decided above.
    "distributed.scheduler.allowed-failures": 0,
    # What no worker is free for stays with the scheduler, and so outlives the death of a worker.
    "distributed.scheduler.worker-saturation": 1.0,
    # A worker in compiled code that does not release the interpreter is not dead; a dead one is noticed by its process.
    "distributed.scheduler.worker-ttl": None,
    "distributed.worker.profile.enabled": False,
}


def main() -> None:
    """Hold the pool, then end it with all its workers."""
    workers, folder, parent = int(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
    sys.path[:] = json.loads(sys.stdin.readline())
    # What functions print goes to the log, as the answer alone belongs on standard output.
    answer = os.fdopen(os.dup(sys.stdout.fileno()), "w")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    with dask.config.set({**SETTINGS, "temporary-directory": str(folder)}):
        cluster = _start_cluster(workers)
        answer.write(f"{cluster.scheduler_address}\n")
        answer.close()
        while os.getppid() == parent and not select.select([sys.stdin], [], [], WATCH_S)[0]:
            pass
        _kill_all()
        shutil.rmtree(folder, ignore_errors=True)
        os.killpg(os.getpid(), signal.SIGKILL)


def _start_cluster(workers: int) -> LocalCluster:
    return LocalCluster(
        n_workers=workers,
        threads_per_worker=1,
        host="127.0.0.1",
        # Without a port of its own each pool would ask for the same one.
        dashboard_address=None,
        scheduler_kwargs={"dashboard_address": "127.0.0.1:0"},
        # Dask would pause and kill workers on a guess of what they may use; the operating system knows.
        memory_limit=None,
        # The log is there for what functions print: it is shown when a worker dies.
        silence_logs=logging.CRITICAL,
    )


def _kill_all() -> None:
    """Kill the workers, and the programs they run with all that those have started.

    Nothing that runs now is wanted any more, and an orderly end would wait for it. What belongs to whom is known only
    as long as all live, so all are found first.
    """
    for process in psutil.Process().children(recursive=True):
        with suppress(psutil.NoSuchProcess):
            process.kill()


if __name__ == "__main__":
    main()
