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
from pathlib import Path

import dask
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
    try:
        with dask.config.set(SETTINGS), _cluster(workers, folder) as cluster:
            answer.write(f"{cluster.scheduler_address}\n")
            answer.close()
            while os.getppid() == parent and not select.select([sys.stdin], [], [], WATCH_S)[0]:
                pass
            # Nothing that runs now is wanted any more, and a kill leaves no one to wait for.
            shutil.rmtree(folder, ignore_errors=True)
            os.killpg(os.getpid(), signal.SIGKILL)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _cluster(workers: int, folder: Path) -> LocalCluster:
    return LocalCluster(
        n_workers=workers,
        threads_per_worker=1,
        host="127.0.0.1",
        # Without a port of its own each pool would ask for the same one.
        dashboard_address=None,
        scheduler_kwargs={"dashboard_address": "127.0.0.1:0"},
        # Dask would pause and kill workers on a guess of what they may use; the operating system knows.
        memory_limit=None,
        local_directory=str(folder),
        # The log is there for what functions print: it is shown when a worker dies.
        silence_logs=logging.CRITICAL,
    )


if __name__ == "__main__":
    main()
