import pytest


@pytest.fixture(autouse=True)
def _prefect(prefect_api_url: str) -> None:
    """All tests here talk to the server."""
