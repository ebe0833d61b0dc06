"""A Prefect server whose database is locked for a moment: requests are repeated soon."""

import asyncio
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

import prefect.client.base
import pytest
from prefect.client.orchestration import get_client
from prefect.settings import PREFECT_API_URL, PREFECT_CLIENT_MAX_RETRIES, temporary_settings

import surveyor.flows.server
from surveyor.flows.server import outlasting_outages

N_REFUSED = 4


class Busy(BaseHTTPRequestHandler):
    """Refuses the first requests, as Prefect's server does while its SQLite database is locked."""

    n_asked = 0

    def do_GET(self) -> None:
        type(self).n_asked += 1
        self.send_response(503 if self.n_asked <= N_REFUSED else 200)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Print nothing."""


@pytest.fixture
def url() -> Iterator[str]:
    Busy.n_asked = 0
    with ThreadingHTTPServer(("127.0.0.1", 0), Busy) as server:
        thread = Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/api"
        server.shutdown()
        thread.join()


async def ask_in_a_loop() -> None:
    async with get_client() as client:
        await client.hello()


def ask() -> None:
    with get_client(sync_client=True) as client:
        client.hello()


@pytest.mark.parametrize("is_async", [False, True], ids=["in a thread", "in a loop"])
def test_a_refused_request_is_repeated_soon_and_later_as_prefect_does(
    url: str, is_async: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(surveyor.flows.server, "N_SOON", N_REFUSED - 1)
    waits: list[float] = []

    async def rest(seconds: float) -> None:
        waits.append(seconds)

    monkeypatch.setattr(prefect.client.base.time, "sleep", waits.append)
    monkeypatch.setattr(prefect.client.base.anyio, "sleep", rest)
    with outlasting_outages(), temporary_settings({PREFECT_API_URL: url, PREFECT_CLIENT_MAX_RETRIES: N_REFUSED}):
        if is_async:
            asyncio.run(ask_in_a_loop())
        else:
            ask()
    assert Busy.n_asked == N_REFUSED + 1
    *soon, last = waits
    assert len(soon) == N_REFUSED - 1
    assert max(soon) < 0.5
    assert last > 5
