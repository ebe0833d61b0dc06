"""Real object stores on loopback: S3 simulated by moto, Azure Blob Storage by Azurite; and faults in between."""

import base64
import hashlib
import hmac
import logging
import os
import secrets
import shutil
import socket
import subprocess
import tempfile
import threading
import time
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from email.utils import formatdate
from pathlib import Path
from typing import Any
from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

from processes import PATIENCE_S, wait_until

from surveyor.storage.buckets import AzureAccess, S3Access
from surveyor.storage.object_storage import ObjectStorage, storage_at

ROOT = Path(__file__).parents[2]
SECRET = "planted-secret-4711"  # what S3's access key is here, and what must be found nowhere
AZURITE_ACCOUNT = "devstoreaccount1"
AZURITE_KEY = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="  # public
UNDER_WAY_S = 0.2  # a request at a service that is not atomic
OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # a proxy has no business with loopback


@dataclass
class Fault:
    """A proxy between a client and the service.

    Attributes:
        removed: headers that get lost, as WSGI names them.
        ignored: headers that are ignored while other requests for the object are under way, as WSGI names them.
        status: what is answered in place of an answer that gets lost; None for the service's own answer.
        is_lost: says of a method and a path whether its answer gets lost, after the service has done its work.
        is_refused: says of a method and a path whether it is answered by `status` and never reaches the service.
    """

    removed: tuple[str, ...] = ()
    ignored: tuple[str, ...] = ()
    status: str = "500 Internal Server Error"
    is_lost: Callable[[str, str], bool] = lambda *_: False
    is_refused: Callable[[str, str], bool] = lambda *_: False


@dataclass
class S3:
    """S3 on loopback.

    Attributes:
        url: its address.
        fault: what goes wrong at present.
        requests: method and path of each request so far.
        tokens: session tokens that requests came with.
        under_way: number of requests that are under way, by path, at a service that is not atomic.
    """

    url: str = ""
    fault: Fault = field(default_factory=Fault)
    requests: list[tuple[str, str]] = field(default_factory=list)
    tokens: set[str] = field(default_factory=set)
    under_way: "Counter[str]" = field(default_factory=Counter)

    @property
    def access(self) -> S3Access:
        return S3Access(endpoint=self.url, region="us-east-1", access_key_id="me", secret_access_key=SECRET)

    @property
    def environment(self) -> dict[str, str]:
        """The variables by which processes find it and their credentials."""
        return {
            "AWS_ENDPOINT_URL": self.url,
            "AWS_REGION": "us-east-1",
            "AWS_ACCESS_KEY_ID": "me",
            "AWS_SECRET_ACCESS_KEY": SECRET,
        }

    def new_bucket(self) -> str:
        """Make a bucket, and return its address."""
        name = f"bucket-{secrets.token_hex(6)}"
        OPENER.open(urllib.request.Request(f"{self.url}/{name}", method="PUT"))
        return f"s3://{name}"

    def storage(self, prefix: str = "labels") -> ObjectStorage:
        """Return a storage in a new bucket."""
        return storage_at(f"{self.new_bucket()}/{prefix}", self.access)

    @contextmanager
    def failing(self, fault: Fault) -> Iterator[None]:
        self.fault = fault
        try:
            yield
        finally:
            self.fault = Fault()


def _between(service: WSGIApplication, s3: S3) -> WSGIApplication:
    one_at_a_time = threading.Lock()  # moto may serve another request between a condition and what depends on it

    def application(environment: WSGIEnvironment, start: StartResponse) -> Iterable[bytes]:
        request = environment["REQUEST_METHOD"], environment["PATH_INFO"]
        s3.requests.append(request)
        s3.tokens |= {environment["HTTP_X_AMZ_SECURITY_TOKEN"]} if "HTTP_X_AMZ_SECURITY_TOKEN" in environment else set()
        fault = s3.fault
        for name in fault.removed:
            environment.pop(name, None)
        if fault.is_refused(*request):
            environment["wsgi.input"].read(int(environment.get("CONTENT_LENGTH") or 0))
            return _answer(start, fault.status)
        if fault.is_lost(*request):
            list(service(environment, lambda *_: lambda _: None))
            return _answer(start, fault.status)
        if fault.ignored:
            _meet_others(environment, s3.under_way, fault.ignored)
        with one_at_a_time:
            return list(service(environment, start))

    return application


def _meet_others(environment: WSGIEnvironment, under_way: "Counter[str]", ignored: Iterable[str]) -> None:
    """Have a request take its time, and lose headers if another one for the object is under way."""
    path = environment["PATH_INFO"]
    under_way[path] += 1
    time.sleep(UNDER_WAY_S)
    if under_way[path] > 1:
        for name in ignored:
            environment.pop(name, None)
    under_way[path] -= 1


def _answer(start: StartResponse, status: str) -> Iterable[bytes]:
    start(status, [("Content-Length", "0")])
    return [b""]


@contextmanager
def s3_server() -> Iterator[S3]:
    """Run S3 in a thread; its buckets end with it."""
    from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
    from werkzeug.serving import make_server

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    s3 = S3()
    application = DomainDispatcherApplication(create_backend_app)
    server = make_server("127.0.0.1", 0, _between(application, s3), threaded=True)
    s3.url = f"http://127.0.0.1:{server.port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield s3
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def azurite_program() -> str | None:
    """Return Azurite's program; None where it is not installed."""
    folders = os.pathsep.join([str(ROOT / ".venv" / "azurite" / "node_modules" / ".bin"), os.environ["PATH"]])
    return shutil.which("azurite-blob", path=folders)


@dataclass(frozen=True)
class Azure:
    """Azure Blob Storage on loopback.

    Attributes:
        url: address of its account.
    """

    url: str

    @property
    def access(self) -> AzureAccess:
        return AzureAccess(account_name=AZURITE_ACCOUNT, account_key=AZURITE_KEY, endpoint=self.url)

    def new_container(self) -> str:
        """Make a container, and return its address."""
        name, date = f"container-{secrets.token_hex(6)}", formatdate(usegmt=True)
        headers = f"x-ms-date:{date}\nx-ms-version:2021-08-06\n"
        resource = f"/{AZURITE_ACCOUNT}/{AZURITE_ACCOUNT}/{name}\nrestype:container"
        to_sign = "PUT\n" + 11 * "\n" + headers + resource
        digest = hmac.new(base64.b64decode(AZURITE_KEY), to_sign.encode(), hashlib.sha256).digest()
        request = urllib.request.Request(f"{self.url}/{name}?restype=container", b"", method="PUT")
        request.add_header("x-ms-date", date)
        request.add_header("x-ms-version", "2021-08-06")
        request.add_header("Content-Type", "")
        request.add_header("Authorization", f"SharedKey {AZURITE_ACCOUNT}:{base64.b64encode(digest).decode()}")
        OPENER.open(request)
        return f"az://{name}"

    def storage(self, prefix: str = "labels") -> ObjectStorage:
        """Return a storage in a new container."""
        return storage_at(f"{self.new_container()}/{prefix}", self.access)


@contextmanager
def azure_server() -> Iterator[Azure]:
    """Run Azurite; its containers end with it."""
    program = azurite_program()
    assert program is not None, "npm install --prefix .venv/azurite azurite"
    with tempfile.TemporaryDirectory(prefix="surveyor-azurite-") as folder:
        port = _free_port()
        command = [program, "--silent", "--inMemoryPersistence", "--skipApiVersionCheck", "--disableTelemetry"]
        command += ["--blobHost", "127.0.0.1", "--blobPort", str(port)]
        with (Path(folder) / "log").open("wb") as log:
            process = subprocess.Popen(command, cwd=folder, stdout=log, stderr=log)
        try:
            wait_until(lambda: _listens(port), lambda: (Path(folder) / "log").read_text())
            yield Azure(f"http://127.0.0.1:{port}/{AZURITE_ACCOUNT}")
        finally:
            process.terminate()
            process.wait()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _listens(port: int) -> bool:
    time.sleep(0.05)
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def race(n: int, act: Callable[[int], Any]) -> list[Any]:
    """Let threads act at the same moment, and return what each got."""
    from concurrent.futures import ThreadPoolExecutor

    barrier = threading.Barrier(n, timeout=PATIENCE_S)

    def go(number: int) -> Any:
        barrier.wait()
        return act(number)

    with ThreadPoolExecutor(n) as threads:
        return list(threads.map(go, range(n)))
