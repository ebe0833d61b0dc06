import pytest

from surveyor.blocks.pools import LocalPool


@pytest.fixture(scope="session", autouse=True)
def _prefect(prefect_api_url: str) -> None:
    """All tests here talk to the server."""


@pytest.fixture(scope="session")
def one_worker(prefect_api_url: str) -> str:
    """The name of a pool of this machine with one worker, where another would only import torch and MACE, too."""
    LocalPool(cores=1).save("one-worker")
    return "local/one-worker"
