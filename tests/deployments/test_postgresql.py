"""Prefect's server with PostgreSQL as its database, as docs/how-to/server.md says."""

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

from surveyor.run_directory import RunDirectory

pytestmark = [pytest.mark.postgresql, pytest.mark.slow, pytest.mark.timeout(300)]


@pytest.fixture
def database() -> Iterator[PostgreSQL]:
    with postgresql_server() as server:
        yield server


@pytest.fixture
def environment(database: PostgreSQL, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, str]]:
    """Of processes that talk to a Prefect server on that database."""
    monkeypatch.setenv("PREFECT_SERVER_DATABASE_CONNECTION_URL", database.url)
    home, url = tmp_path / "prefect", free_address()
    home.mkdir()
    with prefect_server(home, url):
        yield prefect_environment(home, url)


def test_a_campaign_is_recorded_in_postgresql(
    database: PostgreSQL, environment: dict[str, str], tmp_path: Path
) -> None:
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

    def run(*command: str) -> str:
        done = subprocess.run(
            [sys.executable, "-m", *command],
            env=environment,
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    run("surveyor.flows.command_line", "run", "campaign.yaml")

    assert RunDirectory(tmp_path / "copper").n_complete() == 2
    listed = run("prefect", "flow-run", "ls")
    assert all(name in listed for name in ("campaign copper", "generation 0", "generation 1"))
    recorded = database.query("SELECT name, state_name FROM flow_run ORDER BY name", "prefect").splitlines()
    assert recorded == ["campaign copper|Completed", "generation 0|Completed", "generation 1|Completed"]
    assert not (tmp_path / "prefect" / "prefect.db").exists()
