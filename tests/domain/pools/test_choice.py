import psutil
import pytest
from distributed import LocalCluster
from pydantic import ValidationError

from surveyor.pools.address import pool_at
from surveyor.pools.choice import Pools, open_pools


def test_stages_that_name_one_pool_share_it() -> None:
    with open_pools(Pools(training="tcp://10.0.0.1:8786")) as pools:
        assert pools.sampling is pools.labelling
        assert pools.training is not pools.labelling


def test_no_pool_starts_before_it_is_used() -> None:
    before = psutil.Process().children(recursive=True)
    with open_pools(Pools()):
        assert psutil.Process().children(recursive=True) == before


def test_pools_are_closed_whatever_the_end_is() -> None:
    used = []

    def end_early(address: str) -> None:
        with open_pools(Pools(labelling=address)) as pools:
            pools.labelling.open()
            used.append(pools.labelling)
            raise SystemExit

    with LocalCluster(n_workers=1, processes=False, protocol="tcp", dashboard_address="127.0.0.1:0") as cluster:
        with pytest.raises(SystemExit):
            end_early(cluster.scheduler_address)
        with pytest.raises(RuntimeError, match="was shut down"):
            used[0].submit(abs, -1)
        with pool_at(cluster.scheduler_address) as again:  # what was only attached to lives on
            assert again.submit(abs, -1).result() == 1


@pytest.mark.parametrize(
    "name",
    ["", "slurm", "moon/base", "slurm/Genoa", "http://10.0.0.1:8786", "tcp://10.0.0.1", "tcp://:1", "tcp://host:99999"],
)
def test_names_that_are_no_pool_are_refused(name: str) -> None:
    with pytest.raises(ValidationError, match='expected "local", the kind and name of a block'):
        Pools(sampling=name)


@pytest.mark.parametrize("name", ["local", "slurm/genoa", "dask/ours", "tcp://10.0.0.1:8786", "tls://[::1]:8786"])
def test_names_of_pools_are_accepted(name: str) -> None:
    assert Pools(sampling=name).sampling == name
