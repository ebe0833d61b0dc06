import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import ase.io
import pytest
from ase.build import bulk
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect_server import ended_at_last, prefect_environment
from processes import PATIENCE_S

PREFECT = (sys.executable, "-m", "prefect")
REPOSITORY = Path(__file__).parents[2]
Prefect = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="session")
def environment(prefect_home: Path, prefect_api_url: str) -> dict[str, str]:
    # The worker's processes have to find what is only there for tests.
    path = os.pathsep.join([str(REPOSITORY / "tests" / "support"), os.environ.get("PYTHONPATH", "")])
    return {**prefect_environment(prefect_home, prefect_api_url), "PYTHONPATH": path}


@pytest.fixture(scope="session")
def prefect(environment: dict[str, str]) -> Prefect:
    """Run the command `prefect`, where the deployment is."""

    def run(*arguments: str, timeout_s: float = PATIENCE_S) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*PREFECT, *arguments],
            env=environment,
            cwd=REPOSITORY / "deployments" / "local",
            capture_output=True,
            text=True,
            check=False,
            timeout=timeout_s,
        )

    return run


@pytest.fixture(scope="session")
def client(prefect_api_url: str) -> Iterator[SyncPrefectClient]:
    with get_client(sync_client=True) as client:
        yield client


@pytest.fixture(scope="module")  # it asks the server every second
def worker(prefect: Prefect, environment: dict[str, str], prefect_home: Path) -> Iterator[None]:
    """The deployment as README.md says, and a worker that serves it."""
    for arguments in (
        ("work-pool", "create", "local", "--type", "process", "--overwrite"),
        ("work-pool", "set-concurrency-limit", "local", "1"),
        ("deploy", "--all"),
    ):
        done = prefect(*arguments)
        assert done.returncode == 0, done.stdout + done.stderr
    command = [*PREFECT, "worker", "start", "--pool", "local"]
    with ended_at_last(command, log=prefect_home / "worker.log", environment=environment):
        yield


@pytest.fixture
def starts(tmp_path: Path) -> Path:
    path = tmp_path / "copper.extxyz"
    ase.io.write(path, bulk("Cu", cubic=True))
    return path
