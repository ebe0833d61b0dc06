"""The server that `surveyor run` starts where none is configured."""

import logging
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import pytest
from prefect import flow
from prefect.client.orchestration import get_client
from prefect.settings import PREFECT_API_URL, temporary_settings
from prefect_server import ANSWER_S, free_address, prefect_environment
from processes import wait_until
from server_log import watched

from surveyor.events.kinds import Event
from surveyor.events.recording import announce
from surveyor.flows.opening import relayed
from surveyor.flows.server import ServerRefused, answers, using_server
from surveyor.run_directory import RunDirectory

START = """
import sys
from surveyor.flows import server
server.PORT = int(sys.argv[1])
print(*server.find_or_start_server())
"""


@pytest.fixture
def environment(tmp_path: Path) -> Iterator[dict[str, str]]:
    """Of processes for which no server is configured; the one that they start ends with the test."""
    yield {**prefect_environment(tmp_path, ""), "PREFECT_API_URL": ""}
    with suppress(FileNotFoundError, ProcessLookupError):
        os.kill(int((tmp_path / "server.pid").read_text()), signal.SIGKILL)


def call(*arguments: str, environment: dict[str, str]) -> str:
    done = subprocess.run([sys.executable, *arguments], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_a_server_that_is_started_here_keeps_a_log_and_is_stopped_by_prefect(
    environment: dict[str, str], tmp_path: Path
) -> None:
    url, log = free_address(), tmp_path / "server.log"
    port = url[17:-4]
    environment["PREFECT_SERVER_SERVICES_EVENT_PERSISTER_BATCH_SIZE"] = "7"
    with watched(log):
        urls = call("-c", START, port, environment=environment)
        assert urls.split() == [url, "True"]
        assert answers(url)
        assert f"http://127.0.0.1:{port}" in log.read_text()
        settings = httpx.get(f"{url}/admin/settings", trust_env=False, timeout=ANSWER_S).json()["server"]["services"]
        assert (
            settings["task_run_recorder"] | {"batch_size": 100, "flush_interval": 1.0} == settings["task_run_recorder"]
        )
        assert settings["event_persister"]["batch_size"] == 7  # the user's

        assert "Server stopped" in call("-m", "prefect", "server", "stop", environment=environment)
        wait_until(lambda: not answers(url), log.read_text)


def test_a_server_that_cannot_be_started_is_told_with_its_last_words(environment: dict[str, str]) -> None:
    with socket.socket() as somebody:
        somebody.bind(("127.0.0.1", 0))
        command = [sys.executable, "-c", START, str(somebody.getsockname()[1])]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert "ServerUnreachable: a Prefect server could not be started: " in done.stderr
    assert "is already in use" in done.stderr


def test_a_server_with_another_database_is_named(prefect_api_url: str) -> None:
    with (
        temporary_settings({PREFECT_API_URL: prefect_api_url}),
        pytest.raises(ServerRefused, match=r"does not know /api/flow_runs/.* the same command continues the work"),
        using_server(),
        get_client(sync_client=True) as client,
    ):
        client.read_flow_run(uuid4())


def test_events_are_told_to_the_server_of_the_run_and_not_to_the_configured_one(
    prefect_api_url: str, tmp_path: Path
) -> None:
    here = prefect_api_url.replace("127.0.0.1", "localhost")  # the same server, by the name that the run knows
    urls: list[str | None] = []

    def note(event: Mapping[str, Any]) -> None:  # Any: whatever JSON holds
        urls.append(PREFECT_API_URL.value())

    @flow
    def run() -> None:
        with relayed(RunDirectory(tmp_path), [], also=note):
            announce(logging.getLogger("surveyor.test"), Event(message="something happens"))
            wait_until(lambda: bool(urls), lambda: "nothing is told")

    with temporary_settings({PREFECT_API_URL: here}):
        run()
    assert urls == [here]
