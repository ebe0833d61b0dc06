"""A real Prefect server, for tests; it ends with them."""

import os
import shutil
import socket
import sqlite3
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from importlib.metadata import version
from pathlib import Path
from typing import Any

import httpx
from server_log import watched

START_S = 180
DATABASE = "prefect.db"
# A server takes 4 s of processor time to make the tables of a new database; each later one begins with a copy.
NEW_DATABASE = Path(__file__).parents[2] / "build" / f"prefect-{version('prefect')}.db"
POLL_S = 0.2
ANSWER_S = 60.0  # on a busy machine, more than the 5 s that httpx waits for an answer
# Services that tests wait for look more often than by default, others hardly ever. Each look costs CPU time: with one
# every 2 s, the servers took minutes of it while no test asked them anything.
SERVICES = {
    "PREFECT_SERVER_SERVICES_SCHEDULER_LOOP_SECONDS": "10",
    "PREFECT_SERVER_SERVICES_LATE_RUNS_LOOP_SECONDS": "10",
    "PREFECT_SERVER_SERVICES_LATE_RUNS_AFTER_SECONDS": "2",
    "PREFECT_SERVER_SERVICES_CANCELLATION_CLEANUP_LOOP_SECONDS": "10",
    "PREFECT_SERVER_SERVICES_FOREMAN_LOOP_SECONDS": "10",
    "PREFECT_SERVER_SERVICES_DB_VACUUM_LOOP_SECONDS": "20",
    "PREFECT_SERVER_SERVICES_PAUSE_EXPIRATIONS_LOOP_SECONDS": "600",
    "PREFECT_SERVER_SERVICES_REPOSSESSOR_LOOP_SECONDS": "600",
    "PREFECT_SERVER_SERVICES_CLEANUP_RECONCILER_LOOP_SECONDS": "600",
}
# A proxy has no business with a server on this machine.
OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}))


def post(api_url: str, path: str, body: Any) -> Any:  # Any: whatever JSON holds
    """Send a request to a server, and return its answer."""
    answer = httpx.post(f"{api_url}/{path}", json=body, trust_env=False, timeout=ANSWER_S)
    return answer.raise_for_status().json()


@contextmanager
def prefect_server(home: Path, url: str) -> Iterator[None]:
    """Run a server with a database of its own, and watch its log.

    Args:
        home: folder for the database and whatever else Prefect keeps.
        url: address of its API, as `free_address` gives it.
    """
    log = home / "server.log"
    if NEW_DATABASE.exists() and not (home / DATABASE).exists():
        shutil.copy(NEW_DATABASE, home / DATABASE)
    with (
        watched(log),
        ended_at_last(
            [sys.executable, "-m", "prefect", "server", "start", "--host", "127.0.0.1", "--port", url[17:-4]],
            log=log,
            environment={
                **prefect_environment(home, url),
                **SERVICES,
                "PREFECT_API_URL": "",
                "PREFECT_SERVER_UI_API_URL": url,
            },
        ),
    ):
        deadline = time.monotonic() + START_S
        while not _answers(url):
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(POLL_S)
        if not NEW_DATABASE.exists() and (home / DATABASE).exists():
            _keep(home / DATABASE)  # nobody has used it yet
        yield


def prefect_environment(home: Path, url: str) -> dict[str, str]:
    """Return the environment of processes that talk to the server and keep nothing outside of the folder."""
    settings = {
        "PREFECT_API_URL": url,
        "PREFECT_HOME": str(home),
        "PREFECT_CLI_COLORS": "false",
        "PREFECT_CLI_PROMPT": "false",
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "PREFECT_WORKER_QUERY_SECONDS": "1",
        "DO_NOT_TRACK": "1",
        "NO_PROXY": "127.0.0.1",
        "COLUMNS": "200",
    }
    return {**os.environ, **settings}


@contextmanager
def ended_at_last(command: list[str], *, log: Path, environment: dict[str, str]) -> Iterator[subprocess.Popen[bytes]]:
    """Run a program as long as this lasts.

    Args:
        command: the program and its arguments.
        log: file for what it prints.
        environment: its environment variables.
    """
    with log.open("wb") as output:
        process = subprocess.Popen(command, env=environment, cwd=log.parent, stdout=output, stderr=output)
    try:
        yield process
    finally:
        process.terminate()
        with suppress(subprocess.TimeoutExpired):
            process.wait(15)
        process.kill()
        process.wait()


def _keep(database: Path) -> None:
    """Keep a copy of a database that nobody has used yet."""
    NEW_DATABASE.parent.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=NEW_DATABASE.parent) as folder:
        path = Path(folder) / DATABASE
        with closing(sqlite3.connect(database)) as found, closing(sqlite3.connect(path)) as copy:
            found.backup(copy)
        path.replace(NEW_DATABASE)


def free_address() -> str:
    """Return the address of an API on a free port."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{probe.getsockname()[1]}/api"


def _answers(url: str) -> bool:
    try:
        with OPENER.open(f"{url}/health", timeout=5) as response:
            return bool(response.status == 200)
    except (urllib.error.URLError, ConnectionError, TimeoutError):
        return False
