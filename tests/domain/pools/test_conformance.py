from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import pytest

from surveyor.pools.address import scheduler_pool
from surveyor.pools.local import local_pool
from surveyor.pools.pool import Pool
from surveyor.pools.sites import LocalSite, SchedulerSite
from surveyor.testing.pools import check_executor, check_pool


@pytest.fixture(scope="module")
def local() -> Iterator[Pool]:
    with local_pool(LocalSite(cores=2)) as pool:
        yield pool


def test_local_pool_conforms(local: Pool, tmp_path: Path) -> None:
    check_pool(local, tmp_path)


def test_pool_at_an_address_conforms(local: Pool, tmp_path: Path) -> None:
    own = local._attached().client.security
    (tmp_path / "certificate.pem").write_text(own.tls_ca_file)
    (tmp_path / "key.pem").write_text(own.tls_client_key)
    site = SchedulerSite(
        address=local.address,
        tls_ca_file=tmp_path / "certificate.pem",
        tls_cert_file=tmp_path / "certificate.pem",
        tls_key_file=tmp_path / "key.pem",
    )
    with scheduler_pool("dask/test", site) as pool:
        check_pool(pool, tmp_path)


def test_threads_serve_the_domain(tmp_path: Path) -> None:
    with ThreadPoolExecutor(2) as executor:
        check_executor(executor, tmp_path)


def test_processes_serve_the_domain(tmp_path: Path) -> None:
    with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as executor:
        check_executor(executor, tmp_path)
