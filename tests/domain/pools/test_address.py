import logging
import os
import re
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager
from copy import deepcopy
from importlib import metadata
from pathlib import Path
from threading import Event

import dask
import psutil
import pytest
from distributed import LocalCluster, Security
from environments import make_environment
from prefect_server import ended_at_last
from processes import PATIENCE_S, wait_until

from surveyor.errors import PoolFailed
from surveyor.pools.address import check_versions, pool_at
from surveyor.pools.pool import Pool


@pytest.fixture
def empty_cluster() -> Iterator[LocalCluster]:
    with LocalCluster(
        n_workers=0, processes=False, protocol="tcp", host="127.0.0.1", dashboard_address="127.0.0.1:0"
    ) as cluster:
        yield cluster


def test_unreachable_scheduler_is_said_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("surveyor.pools.address.CONNECT_S", 0.5)
    with pytest.raises(PoolFailed, match=r"no Dask scheduler answered at tcp://127\.0\.0\.1:9 within"):
        pool_at("tcp://127.0.0.1:9").open()


def test_missing_certificates_are_said() -> None:
    with pytest.raises(PoolFailed, match="no certificates"):
        pool_at("tls://127.0.0.1:9").open()


def test_certificates_come_from_the_configuration_of_dask() -> None:
    security = Security.temporary()
    certificates = {
        "distributed.comm.tls.ca-file": security.tls_ca_file,
        "distributed.comm.tls.client.cert": security.tls_client_cert,
        "distributed.comm.tls.client.key": security.tls_client_key,
    }
    with (
        LocalCluster(
            n_workers=1, processes=False, protocol="tls", security=security, dashboard_address="127.0.0.1:0"
        ) as cluster,
        dask.config.set(certificates),
        pool_at(cluster.scheduler_address) as pool,
    ):
        assert pool.address.startswith("tls://")
        assert pool.submit(abs, -1).result(PATIENCE_S) == 1


def test_work_without_a_worker_is_said_and_done_when_one_comes(
    empty_cluster: LocalCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("surveyor.pools.address.COUNT_S", 0.05)
    monkeypatch.setattr("surveyor.pools.address.NO_WORKER_S", 0.1)
    said = Event()

    class Listener(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if "has had no worker" in record.getMessage():
                said.set()

    listener = Listener()
    logging.getLogger("surveyor").addHandler(listener)
    try:
        with pool_at(empty_cluster.scheduler_address) as pool:
            future = pool.submit(abs, -1)
            assert said.wait(PATIENCE_S)
            empty_cluster.scale(1)
            assert future.result(PATIENCE_S) == 1
    finally:
        logging.getLogger("surveyor").removeHandler(listener)


def test_a_worker_that_does_not_answer_holds_nothing_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("surveyor.pools.address.ANSWER_S", 0.5)
    with LocalCluster(n_workers=1, threads_per_worker=1, host="127.0.0.1", dashboard_address="127.0.0.1:0") as cluster:
        worker = psutil.Process(cluster.workers[0].pid)
        worker.suspend()
        try:
            with pool_at(cluster.scheduler_address) as pool:
                future = pool.submit(abs, -1)
                worker.resume()
                assert future.result(PATIENCE_S) == 1
        finally:
            worker.resume()


def test_other_versions_are_refused() -> None:
    packages = {"python": "3.11.4", "dask": "2", "distributed": "2", "cloudpickle": "3", "surveyor": "1"}
    side = {"packages": packages}
    same = {"client": side, "scheduler": deepcopy(side), "workers": {"w": deepcopy(side)}}
    patch = deepcopy(same)
    patch["workers"]["w"]["packages"]["python"] = "3.11.9"
    check_versions("tcp://here:1", same)
    check_versions("tcp://here:1", patch)
    other = deepcopy(same)
    other["workers"]["w"]["packages"].update(python="3.12.1", surveyor=None)
    with pytest.raises(
        PoolFailed, match=r"tcp://here:1: worker w has python 3\.12\.1 \(here 3\.11\.4\), surveyor none \(here 1\)"
    ):
        check_versions("tcp://here:1", other)


@pytest.fixture
def later_worker(
    empty_cluster: LocalCluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AbstractContextManager[object]:
    """A worker with another version of surveyor, to be started when the pool is open."""
    monkeypatch.setattr("surveyor.pools.address.COUNT_S", 0.05)
    python = make_environment(tmp_path / "environment", "surveyor", versions={"surveyor": "0.0.1"})
    command = [str(python), "-m", "distributed.cli.dask_worker", empty_cluster.scheduler_address]
    return ended_at_last([*command, "--no-nanny", "--no-dashboard"], log=tmp_path / "log", environment=dict(os.environ))


def test_a_later_worker_with_another_version_is_refused_before_there_is_work(
    empty_cluster: LocalCluster, later_worker: AbstractContextManager[object], tmp_path: Path
) -> None:
    address = empty_cluster.scheduler_address
    with pool_at(address) as pool:
        pool.open()
        with later_worker:
            wait_until(lambda: pool_failure(pool) is not None, (tmp_path / "log").read_text)
            failure = str(pool_failure(pool))
    version = metadata.version("surveyor")
    expected = rf"pool {address}: worker tcp://\S+ has surveyor 0\.0\.1 \(here {version}\); install the same"
    assert re.match(expected, failure)


def pool_failure(pool: Pool) -> str | None:
    """Why a pool cannot be used any more."""
    try:
        pool.open()
    except PoolFailed as error:
        return str(error)
    return None


def test_a_later_worker_with_another_version_does_nothing_of_what_waits(
    empty_cluster: LocalCluster, later_worker: AbstractContextManager[object], tmp_path: Path
) -> None:
    with pool_at(empty_cluster.scheduler_address) as pool:
        waiting = pool.submit((tmp_path / "done").touch)
        with later_worker, pytest.raises(PoolFailed) as failure:
            waiting.result(PATIENCE_S)
    version = metadata.version("surveyor")
    assert f" has surveyor 0.0.1 (there {version}), where there is {sys.executable} on " in str(failure.value)
    assert "Install the same versions on both sides" in str(failure.value)
    assert not (tmp_path / "done").exists()
