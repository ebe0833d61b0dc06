from collections.abc import Iterator
from pathlib import Path

import pytest
from prefect.settings import PREFECT_API_URL, PREFECT_HOME, PREFECT_LOGGING_TO_API_ENABLED, temporary_settings


@pytest.fixture(scope="session", autouse=True)
def _prefect(prefect_home: Path, prefect_api_url: str) -> Iterator[None]:
    # The thread that sends logs would not see these settings, and start a server of its own.
    with temporary_settings(
        {PREFECT_HOME: prefect_home, PREFECT_API_URL: prefect_api_url, PREFECT_LOGGING_TO_API_ENABLED: False}
    ):
        yield
