from collections.abc import Iterator
from pathlib import Path

import pytest
from prefect.settings import PREFECT_API_URL, PREFECT_HOME, PREFECT_SERVER_ANALYTICS_ENABLED, temporary_settings


@pytest.fixture(scope="session", autouse=True)
def _prefect(prefect_home: Path, prefect_api_url: str) -> Iterator[None]:
    settings = {PREFECT_HOME: prefect_home, PREFECT_API_URL: prefect_api_url, PREFECT_SERVER_ANALYTICS_ENABLED: False}
    with temporary_settings(settings):
        yield
