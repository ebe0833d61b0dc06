"""The Prefect server that `surveyor run` talks to: the configured one, or one on this machine."""

import os
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPException

from prefect.settings import PREFECT_API_URL, temporary_settings

from surveyor.errors import SurveyorError

HOST = "127.0.0.1"
PORT = 4200
START_S = 180.0  # the first start on a new database migrates it, which takes more than 20 s


class ServerUnreachable(SurveyorError):
    """The Prefect server does not answer."""


def find_or_start_server() -> tuple[str, bool]:
    """Return the address of the API of a server that answers, and whether it was started by this.

    It is the server that Prefect is configured for; where none is configured, one on this machine, which is started in
    the background when it does not answer, and stays.

    Raises:
        ServerUnreachable: the configured server does not answer, or the local one does not start.
    """
    configured = PREFECT_API_URL.value()
    url = configured or f"http://{HOST}:{PORT}/api"
    if answers(url):
        return url, False
    if configured:
        raise ServerUnreachable(
            f"the Prefect server at {url} does not answer; start it, or unset PREFECT_API_URL "
            "(`prefect config unset PREFECT_API_URL`) to have one started on this machine"
        )
    _start()
    deadline = time.monotonic() + START_S
    while not answers(url):
        if time.monotonic() > deadline:
            raise ServerUnreachable(f"the Prefect server did not answer at {url} within {START_S:.0f} s of its start")
        time.sleep(0.5)
    return url, True


@contextmanager
def using_server() -> Iterator[str]:
    """Have flows of this process talk to a server that answers; give a line that says where its UI is.

    Raises:
        ServerUnreachable: there is none.
    """
    url, is_new = find_or_start_server()
    with temporary_settings({PREFECT_API_URL: url}):
        how = "started here; `prefect server stop` ends it" if is_new else "running"
        yield f"Prefect UI: {url.removesuffix('/api')} ({how})"


def answers(url: str) -> bool:
    """Say whether a Prefect API answers at an address."""
    # A proxy of the environment has no business with a server on this machine.
    opener = urllib.request.build_opener(
        urllib.request.ProxyHandler({}) if HOST in url else urllib.request.ProxyHandler()
    )
    try:
        with opener.open(f"{url}/health", timeout=5) as response:
            return bool(response.status == 200)
    except (OSError, HTTPException, ValueError):  # nobody there, somebody else, or no address at all
        return False


def _start() -> None:
    command = [sys.executable, "-m", "prefect", "server", "start", "--background", "--host", HOST, "--port", str(PORT)]
    result = subprocess.run(
        command, env={**os.environ, "PREFECT_API_URL": ""}, capture_output=True, text=True, check=False
    )
    if result.returncode != 0:
        raise ServerUnreachable(
            f"a Prefect server could not be started: {' '.join(command)}\n{result.stdout}{result.stderr}"
        )
