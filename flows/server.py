"""The Prefect server that `surveyor run` talks to: the configured one, or one on this machine."""

import logging
import os
import shlex
import subprocess
import sys
import threading
import time
import urllib.request
from asyncio import to_thread
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache, wraps
from http.client import HTTPException
from pathlib import Path
from typing import Any

import httpx
from prefect.client.base import PrefectHttpxAsyncClient, PrefectHttpxSyncClient
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.exceptions import ObjectNotFound, PrefectHTTPStatusError, TerminationSignal
from prefect.settings import (
    PREFECT_API_URL,
    PREFECT_CLIENT_MAX_RETRIES,
    PREFECT_FLOWS_HEARTBEAT_FREQUENCY,
    PREFECT_HOME,
    PREFECT_SERVER_SERVICES_EVENT_PERSISTER_BATCH_SIZE,
    PREFECT_SERVER_SERVICES_TASK_RUN_RECORDER_BATCH_SIZE,
    PREFECT_SERVER_SERVICES_TASK_RUN_RECORDER_FLUSH_INTERVAL,
    temporary_settings,
)

from surveyor.errors import SurveyorError
from surveyor.flows.termination import Terminated

HOST = "127.0.0.1"
PORT = 4200
ANSWER_S = 30.0  # a server on a busy machine takes its time; where there is none, that is known at once
START_S = 180.0  # the first start on a new database migrates it, which takes more than 20 s
PATIENCE_S = 1800.0
LOOK_S = 5.0
LAST_LINES = 20
PID_FILE = "server.pid"  # the one in Prefect's folder by which `prefect server stop` finds a server
N_RETRIES = 2  # of Prefect's own, after 2 and 4 s; then a run looks for the server every few seconds
# The server refuses a request for which its SQLite database is locked: for milliseconds, but again and again while it
# records many tasks. Prefect waits for 2 s before it repeats the request, and for twice as long each further time.
RETRY_AFTER_S, N_SOON = 0.1, 30
# As the job variables of deployments/*/prefect.yaml have it; what the user has set holds.
SETTINGS = {PREFECT_FLOWS_HEARTBEAT_FREQUENCY: 30}  # seconds: by it deployments/automations.yaml tells who is dead
# For a server that is started here: it records changes of tasks together, after a second at the latest. One by one,
# they cost more than twice the processor time. Prefect rounds an interval below 1 s down to 0, which keeps a core busy.
SERVER_SETTINGS = {
    PREFECT_SERVER_SERVICES_TASK_RUN_RECORDER_BATCH_SIZE: 100,
    PREFECT_SERVER_SERVICES_TASK_RUN_RECORDER_FLUSH_INTERVAL: 1.0,
    PREFECT_SERVER_SERVICES_EVENT_PERSISTER_BATCH_SIZE: 200,
}
AWAY = (httpx.codes.BAD_GATEWAY, httpx.codes.SERVICE_UNAVAILABLE, httpx.codes.GATEWAY_TIMEOUT)
# Nobody waits for records of the log, and what a request needs before it waits with that.
IMPATIENT = ("/logs/", "/csrf-token")

logger = logging.getLogger(__name__)


class ServerUnreachable(SurveyorError):
    """The Prefect server does not answer."""


def find_or_start_server(meanwhile: Callable[[], object] = lambda: None) -> tuple[str, bool]:
    """Return the address of the API of a server that answers, and whether this call started it.

    It is the server that Prefect is configured for; where none is configured, one on this machine, which is started in
    the background when it does not answer, and stays. Its log is the file `log_file` returns.

    Args:
        meanwhile: called while a server that was started here starts.

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
    _start(url, meanwhile)
    return url, True


def log_file() -> Path:
    """Return the log of the server that is started here."""
    return Path(PREFECT_HOME.value()) / "server.log"


@contextmanager
def using_server(meanwhile: Callable[[], object] = lambda: None) -> Iterator[str]:
    """Connect flows of this process to a running server; provide a line with the address of its UI.

    Args:
        meanwhile: called while a new server starts.

    Raises:
        ServerUnreachable: there is no server, or it went away and did not come back.
    """
    url, is_new = find_or_start_server(meanwhile)
    with temporary_settings({PREFECT_API_URL: url}, set_defaults=SETTINGS), outlasting_outages():
        how = f"started here; `prefect server stop` ends it; log: {log_file()}" if is_new else "running"
        try:
            yield f"Prefect UI: {url.removesuffix('/api')} ({how})"
        except httpx.TransportError as error:
            raise _cause_of_end(error) or _gone(url, error) from error
        except PrefectHTTPStatusError as error:
            # Not the error itself, which has the body of the request.
            raise _refusal(url, error.response) from None
        except ObjectNotFound as error:
            raise _not_found(url, error) from error


class ServerRefused(SurveyorError):
    """The Prefect server does not take a request."""


def _refusal(url: str, response: httpx.Response) -> SurveyorError:
    if response.status_code == httpx.codes.UNAUTHORIZED:
        return ServerUnreachable(
            f"the Prefect server at {url} requires a password: set PREFECT_API_AUTH_STRING to the value of "
            "PREFECT_SERVER_API_AUTH_STRING on the server"
        )
    address = response.request.url.path
    return ServerRefused(
        f"the Prefect server at {url} refused a request ({response.status_code} at {address}): {_reason(response)}"
    )


def _not_found(url: str, error: ObjectNotFound) -> SurveyorError:
    """Return the error for a server that does not know an object of the run, as it has another database than before."""
    request = getattr(error.http_exc, "request", None)
    name = "a run of this process" if request is None else request.url.path
    return ServerRefused(
        f"the Prefect server at {url} does not know {name}: it is another server, or has another database than when "
        "the run began; the same command continues the work"
    )


def _reason(response: httpx.Response) -> str:
    """Return why a server refused a request, without its quotations from the request."""
    try:
        body = response.json()
    except ValueError:
        return response.reason_phrase
    details = body.get("exception_detail") or body.get("detail") or response.reason_phrase
    if not isinstance(details, list):
        return str(details)
    return "; ".join(f"{'.'.join(map(str, each['loc']))}: {each['msg']}" for each in details)


@contextmanager
def outlasting_outages() -> Iterator[None]:
    """Make requests to the Prefect server wait while it is away, for up to `PATIENCE_S`, instead of failing.

    Tasks continue meanwhile. Prefect repeats a failed connection only for clients that were connected before, and
    frequently creates new clients, for example to begin a child run. After one wait in vain, requests no longer wait
    until the server answers. Requests of a run that is being stopped do not wait either.
    """
    _make_clients_patient()
    token = _OUTLASTS.set(True)
    try:
        with temporary_settings({PREFECT_CLIENT_MAX_RETRIES: min(N_RETRIES, PREFECT_CLIENT_MAX_RETRIES.value())}):
            yield
    finally:
        _OUTLASTS.reset(token)


_OUTLASTS = ContextVar("outlasts outages", default=False)
Send = Callable[..., httpx.Response]
AsyncSend = Callable[..., Coroutine[Any, Any, httpx.Response]]  # Any: as coroutines have it


def _cause_of_end(error: BaseException | None) -> BaseException | None:
    """Return the termination of the run, if that is why a request failed."""
    while error is not None and not isinstance(error, TerminationSignal | Terminated | KeyboardInterrupt):
        error = error.__context__
    return Terminated() if isinstance(error, TerminationSignal) else error


def end_patience() -> None:
    """End all waits for the server, as the run ends; there are none until it answers again."""
    _PATIENCE.is_over.set()


@cache  # once in a process
def _make_clients_patient() -> None:
    PrefectHttpxSyncClient.send = _patient(PrefectHttpxSyncClient.send)  # type: ignore[method-assign]
    PrefectHttpxAsyncClient.send = _patient_async(PrefectHttpxAsyncClient.send)  # type: ignore[method-assign]


class _Patience:
    """The patience of all clients of a process.

    Attributes:
        is_over: set after a wait in vain, and at the end of a run, until the server answers again.
    """

    def __init__(self) -> None:
        self.is_over = threading.Event()

    def deadline(self, request: httpx.Request) -> float:
        """Return until when a request may wait; the past for one that does not wait."""
        if _cause_of_end(sys.exception()) is not None:  # whoever has sent a signal waits
            self.is_over.set()
        is_for_once = PREFECT_CLIENT_MAX_RETRIES.value() == 0 or request.url.path.endswith(IMPATIENT)
        may_wait = _OUTLASTS.get() and not (is_for_once or self.is_over.is_set())
        return time.monotonic() + PATIENCE_S if may_wait else 0.0

    def wait(self, error: httpx.HTTPError, deadline: float) -> None:
        """Wait for the server, or raise why a request failed if that helps no more."""
        is_away = not isinstance(error, httpx.HTTPStatusError) or error.response.status_code in AWAY
        if not is_away or time.monotonic() > deadline:
            raise error
        try:
            wait_for_server(deadline - time.monotonic())
        except ServerUnreachable:
            self.is_over.set()
            raise


_PATIENCE = _Patience()


def _patient(send: Send) -> Send:
    @wraps(send)
    def send_patiently(client: httpx.Client, request: httpx.Request, *args: Any, **kwargs: Any) -> httpx.Response:
        deadline = _PATIENCE.deadline(request)
        _add_hook(client, _repeat_soon)
        while True:
            try:
                response = send(client, request, *args, **kwargs)
            except (httpx.TransportError, httpx.HTTPStatusError) as error:
                _PATIENCE.wait(error, deadline)
            else:
                _PATIENCE.is_over.clear()
                return response

    return send_patiently


def _patient_async(send: AsyncSend) -> AsyncSend:
    @wraps(send)
    async def send_patiently(
        client: httpx.AsyncClient, request: httpx.Request, *args: Any, **kwargs: Any
    ) -> httpx.Response:
        deadline = _PATIENCE.deadline(request)
        _add_hook(client, _repeat_soon_async)
        while True:
            try:
                response = await send(client, request, *args, **kwargs)
            except (httpx.TransportError, httpx.HTTPStatusError) as error:
                await to_thread(_PATIENCE.wait, error, deadline)
            else:
                _PATIENCE.is_over.clear()
                return response

    return send_patiently


def _add_hook(client: httpx.Client | httpx.AsyncClient, hook: Callable[[httpx.Response], object]) -> None:
    hooks = client.event_hooks
    if hook not in hooks["response"]:
        client.event_hooks = {**hooks, "response": [*hooks["response"], hook]}


def _repeat_soon(response: httpx.Response) -> None:
    """Have Prefect soon repeat a request that the server was too busy for, a few times."""
    repeats = response.request.extensions
    n_repeats = repeats.get(_repeat_soon.__name__, 0)
    if response.status_code == httpx.codes.SERVICE_UNAVAILABLE and n_repeats < N_SOON:
        response.headers.setdefault("Retry-After", f"{RETRY_AFTER_S}")
        repeats[_repeat_soon.__name__] = n_repeats + 1


async def _repeat_soon_async(response: httpx.Response) -> None:
    _repeat_soon(response)


def wait_for_server(patience_s: float = PATIENCE_S) -> None:
    """Wait until the Prefect server answers; without it no flow run can begin or end, while tasks continue.

    Args:
        patience_s: maximum time to wait.

    Raises:
        ServerUnreachable: the server stays away for longer.
    """
    with temporary_settings({PREFECT_CLIENT_MAX_RETRIES: 0}), get_client(sync_client=True) as client:
        if (error := client.api_healthcheck()) is None:
            return
        url = str(client.api_url).rstrip("/")
        logger.warning(
            "the Prefect server at %s does not answer (%s); the run waits for it, for %.0f min at most",
            *(url, error, patience_s / 60),
        )
        _wait_for(client, patience_s)
        logger.warning("the Prefect server at %s answers again", url)


def _wait_for(client: SyncPrefectClient, patience_s: float) -> None:
    deadline = time.monotonic() + patience_s
    while (error := client.api_healthcheck()) is not None:
        if time.monotonic() > deadline or _PATIENCE.is_over.wait(LOOK_S):
            raise _gone(str(client.api_url).rstrip("/"), error) from error


def _gone(url: str, error: Exception) -> ServerUnreachable:
    return ServerUnreachable(
        f"the Prefect server at {url} went away and did not come back in time ({error}); start it again "
        "(`prefect server start`), then give the same command, or press Retry: the campaign continues, and nothing is "
        "computed again"
    )


def answers(url: str) -> bool:
    """Return whether a Prefect API answers at an address."""
    # A proxy of the environment has no business with a server on this machine.
    opener = urllib.request.build_opener(
        urllib.request.ProxyHandler({}) if HOST in url else urllib.request.ProxyHandler()
    )
    try:
        with opener.open(f"{url}/health", timeout=ANSWER_S) as response:
            return bool(response.status == 200)
    except (OSError, HTTPException, ValueError):  # nobody there, somebody else, or no address at all
        return False


def _start(url: str, meanwhile: Callable[[], object]) -> None:
    """Start a server that outlives this process, do something else, and wait until it answers.

    `prefect server start --background` is not used, because it discards the log, the only place where failing services
    show.
    """
    command = [sys.executable, "-m", "prefect", "server", "start", "--host", HOST, "--port", str(PORT)]
    log_file().parent.mkdir(parents=True, exist_ok=True)
    with log_file().open("ab") as output:
        process = subprocess.Popen(
            command,
            env=server_environment(),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,  # Ctrl-C ends the campaign, not the server
        )
    deadline = time.monotonic() + START_S
    meanwhile()
    while not answers(url):
        if process.poll() is not None or time.monotonic() > deadline:
            raise ServerUnreachable(f"a Prefect server could not be started: {shlex.join(command)}\n{_last_words()}")
        time.sleep(0.5)
    if process.poll() is None:  # else another process was faster, and the server is that one's
        log_file().with_name(PID_FILE).write_text(str(process.pid))


def server_environment() -> dict[str, str]:
    """Return the environment of a server on this machine; settings of the user hold."""
    with temporary_settings(set_defaults=SERVER_SETTINGS):
        settings = {each.name: str(each.value()) for each in SERVER_SETTINGS}
    return {**os.environ, **settings, "PREFECT_API_URL": ""}


def _last_words() -> str:
    """Return the end of the server's log."""
    return "\n".join(log_file().read_text(errors="replace").splitlines()[-LAST_LINES:])
