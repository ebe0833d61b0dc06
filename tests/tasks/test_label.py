"""Labels through Prefect: on a pool whose worker is killed, and under another task runner."""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import users_flow
from ase import Atoms
from prefect import flow
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import FlowRunFilter
from prefect.states import StateType
from prefect_server import prefect_environment
from processes import PATIENCE_S
from users_flow import Bench, copper

from surveyor.dataset import is_labelled
from surveyor.pools.local import local_pool
from surveyor.pools.sites import LocalSite
from surveyor.testing.references import launches


def kill_first_worker(log: Path) -> None:
    """Wait until a computation begins, then kill the process that it is in."""
    deadline = time.monotonic() + PATIENCE_S
    while not launches(log) and time.monotonic() < deadline:
        time.sleep(0.05)
    os.kill(int(log.read_text().split()[2]), signal.SIGKILL)


def test_a_killed_worker_costs_one_retry(tmp_path: Path) -> None:
    bench = Bench(tmp_path, delay_s=1.0)
    (structure,) = copper(1)

    @flow(name="killed", flow_run_name=str(tmp_path))
    def killed() -> Atoms:
        with local_pool(LocalSite(cores=2)) as pool:
            pool.open()
            killer = threading.Thread(target=kill_first_worker, args=(bench.log,))
            killer.start()
            labelled = bench.submit(pool, structure, "killed").result()
            killer.join()
            return labelled

    assert is_labelled(killed())
    assert len(launches(bench.log)) == 2
    assert len(launches(bench.log, "end")) == 1
    assert len(list(bench.store.keys())) == 1
    with get_client(sync_client=True) as client:
        named = FlowRunFilter.model_validate({"name": {"any_": [str(tmp_path)]}})
        (run,) = client.read_task_runs(flow_run_filter=named)
        states = [(state.type, state.name) for state in client.read_task_run_states(run.id)]
    assert run.run_count == 2
    assert [name for type_, name in states if type_ == StateType.SCHEDULED] == ["AwaitingRetry"]
    assert states[-1] == (StateType.COMPLETED, "Labelled")


def test_tasks_serve_a_flow_of_the_users_own_on_dask(tmp_path: Path, prefect_home: Path, prefect_api_url: str) -> None:
    command = [sys.executable, users_flow.__file__, str(tmp_path)]
    environment = prefect_environment(prefect_home, prefect_api_url)
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=3 * PATIENCE_S)
    assert done.returncode == 0, done.stdout + done.stderr
    bench = Bench(tmp_path)
    assert len(list(bench.store.keys())) == 3
    assert len(launches(bench.log)) == 3  # the structure that was asked for twice was computed once
