"""The watch on connections to other machines, which every test has."""

import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import foreign_connections
import psutil
import pytest
from prefect_form import open_browser
from processes import wait_until

ELSEWHERE = "192.0.2.1"  # an address for documentation, which nobody has


def by_address() -> None:
    socket.create_connection((ELSEWHERE, 80), 1)


def by_name() -> None:
    socket.create_connection(("surveyor.example.org", 80), 1)


def in_a_child() -> None:
    program = f"import socket; socket.create_connection(({ELSEWHERE!r}, 80), 1)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    raise OSError(done.stderr)


def by_a_library_that_is_not_in_python() -> None:
    import obstore  # it is not in the environment of NequIP
    from obstore.exceptions import BaseError
    from obstore.store import S3Store

    settings = {"aws_access_key_id": "me", "aws_secret_access_key": "mine", "region": "eu-west-1"}
    store = S3Store("surveyor-nobody", **settings, retry_config={"max_retries": 0})
    try:
        obstore.get(store, "x")
    except BaseError as error:
        raise OSError("s3.eu-west-1.amazonaws.com:443 is not on this machine") from error


def by_a_program() -> None:
    done = subprocess.run(["curl", "-fsS", "http://surveyor.example.org/x"], capture_output=True, check=False)
    raise OSError(f"http://surveyor.example.org/x is not on this machine: {done.returncode}")


def by_a_page_in_a_browser() -> None:
    with tempfile.TemporaryDirectory() as profile, open_browser(Path(profile)) as browser:
        browser.get("data:text/html,<img src=http://surveyor.example.org/picture.png>")
    raise OSError("http://surveyor.example.org/picture.png is not on this machine")


@pytest.mark.parametrize(
    ("attempt", "target"),
    [
        (by_address, ELSEWHERE),
        (by_name, "surveyor.example.org"),
        (in_a_child, ELSEWHERE),
        (by_a_library_that_is_not_in_python, "s3.eu-west-1.amazonaws.com:443"),
        (by_a_program, "http://surveyor.example.org/x"),
        pytest.param(
            by_a_page_in_a_browser, "http://surveyor.example.org/picture.png", marks=pytest.mark.browser, id="browser"
        ),
    ],
)
def test_an_attempt_to_reach_another_machine_is_noted_and_fails(attempt: Callable[[], None], target: str) -> None:
    with pytest.raises(OSError, match=f"{target} is not on this machine"):
        attempt()
    noted: list[str] = []

    def is_noted() -> bool:
        noted.append(foreign_connections.noted())
        return target in noted[-1]

    wait_until(is_noted, lambda: str(noted), 20)
    assert foreign_connections.noted() == ""


def test_this_machine_may_be_reached_by_all_of_its_addresses() -> None:
    own = [
        each.address for of_one in psutil.net_if_addrs().values() for each in of_one if each.family == socket.AF_INET
    ]
    with socket.create_server(("", 0)) as server:
        for address in ("localhost", *own):
            socket.create_connection((address, server.getsockname()[1]), 5).close()
