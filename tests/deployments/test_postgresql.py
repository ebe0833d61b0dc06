"""Prefect's server with PostgreSQL as its database and with a password, as docs/how-to/server.md says."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import ase.io
import pytest
import yaml
from ase.build import bulk
from postgresql import PostgreSQL, postgresql_server
from prefect_server import free_address, prefect_environment, prefect_server
from processes import PATIENCE_S

from surveyor.run_directory import RunDirectory

PASSWORD = "group:secret"

pytestmark = [pytest.mark.long, pytest.mark.postgresql]


@pytest.fixture(scope="module")
def database() -> Iterator[PostgreSQL]:
    with postgresql_server() as server:
        yield server


@pytest.fixture(scope="module")
def environment(database: PostgreSQL, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """Of processes that talk to a Prefect server on that database."""
    home, url = tmp_path_factory.mktemp("prefect"), free_address()
    with pytest.MonkeyPatch.context() as settings:
        settings.setenv("PREFECT_SERVER_DATABASE_CONNECTION_URL", database.url)
        settings.setenv("PREFECT_SERVER_API_AUTH_STRING", PASSWORD)
        settings.setenv("PREFECT_API_AUTH_STRING", PASSWORD)
        with prefect_server(home, url):
            yield prefect_environment(home, url)
    assert not (home / "prefect.db").exists()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with a small campaign."""
    ase.io.write(tmp_path / "copper.extxyz", bulk("Cu", cubic=True))
    campaign = {
        "run_directory": "copper",
        "walkers": [{"start": "copper.extxyz", "n_walkers": 2, "n_steps": 10, "max_temperature_factor": 100}],
        "reference": {"emt": {}},
        "model": {"pair": {}},
        "bootstrap": {"n_structures": 8},
        "learning": {"n_generations": 1},
    }
    (tmp_path / "campaign.yaml").write_text(yaml.safe_dump(campaign))
    return tmp_path


def run(*command: str, environment: dict[str, str], folder: Path) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", *command],
        env=environment,
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
        timeout=PATIENCE_S,
    )


def test_a_campaign_is_recorded_in_postgresql(database: PostgreSQL, environment: dict[str, str], folder: Path) -> None:
    done = run("surveyor.flows.command_line", "run", "campaign.yaml", environment=environment, folder=folder)
    assert done.returncode == 0, done.stdout + done.stderr
    assert RunDirectory(folder / "copper").n_complete() == 2

    listed = run("prefect", "flow-run", "ls", environment=environment, folder=folder).stdout
    assert all(name in listed for name in ("campaign copper", "generation 0", "generation 1"))
    recorded = database.query("SELECT name, state_name FROM flow_run ORDER BY name", "prefect").splitlines()
    assert recorded == ["campaign copper|Completed", "generation 0|Completed", "generation 1|Completed"]


def test_a_missing_password_is_named(environment: dict[str, str], folder: Path) -> None:
    without = {name: value for name, value in environment.items() if name != "PREFECT_API_AUTH_STRING"}
    refused = run("surveyor.flows.command_line", "run", "campaign.yaml", environment=without, folder=folder)
    assert refused.returncode == 1
    assert f"the Prefect server at {environment['PREFECT_API_URL']} requires a password" in refused.stderr
    assert "set PREFECT_API_AUTH_STRING" in refused.stderr
