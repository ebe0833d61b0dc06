from pathlib import Path

import pytest
from metals import metals

from surveyor.dataset import Dataset

pytest.register_assert_rewrite("networks", "gradients")


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that the tests of a module share."""
    return tmp_path_factory.mktemp("workplace")


@pytest.fixture(scope="session")
def train() -> Dataset:
    return metals(12, seed=0)


@pytest.fixture(scope="session")
def valid() -> Dataset:
    return metals(6, seed=1)


@pytest.fixture(scope="session")
def unseen() -> Dataset:
    return metals(90, seed=2)
