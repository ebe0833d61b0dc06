"""Compute Engine on loopback: it checks what it is asked against Google's description of an instance.

The description, compute_engine_instance.json, is the part of Google's discovery document (compute.v1, of the revision
that it names) that an instance needs, without its texts. There is no imitation of Compute Engine to install.
"""

import json
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from metal import SECRET

SCHEMAS = json.loads((Path(__file__).parent / "compute_engine_instance.json").read_text())["schemas"]
METADATA = re.compile(r"(?:/(?P<name>[^/]+))?/computeMetadata/v1/instance/(?P<what>.*)")
PATH = re.compile(r"/projects/p-1/(?:zones/(?P<zone>[^/]+)|aggregated)/(?P<kind>instances|operations)/?(?P<rest>.*)")


@dataclass
class SimulatedCompute:
    """Compute Engine on this machine.

    Attributes:
        url: where it answers.
        instances: bodies of the instances that there are, by zone and name.
        bodies: bodies of all requests to create one.
        request_ids: of these requests.
        complaints: what is wrong with the bodies, by Google's description.
        failures: errors of operations, by zone; `None` for those that go well.
        n_slow: so many requests about an operation are answered while it goes on.
        status: HTTP status and error of all answers, if they are refusals.
        serial: output of the serial ports.
        preempted: names of the instances that were taken away, by zone; their instances are gone.
        protected: names of instances that cannot be deleted.
        may_list_operations: whether the credentials may ask for these.
        notices: names of the instances whose metadata say that they are taken away; empty for one without a name.
        boot: is given name and script of each new instance.
        shown: returns what is on the serial port of an instance, unless `serial` is.
        address: public address of all instances.
    """

    url: str = ""
    instances: dict[tuple[str, str], dict[str, Any]] = field(default_factory=dict)
    bodies: list[dict[str, Any]] = field(default_factory=list)
    request_ids: list[str] = field(default_factory=list)
    complaints: list[str] = field(default_factory=list)
    failures: dict[str, dict[str, Any]] = field(default_factory=dict)
    n_slow: int = 0
    status: tuple[int, dict[str, Any]] | None = None
    serial: str = ""
    preempted: dict[str, list[str]] = field(default_factory=dict)
    protected: set[str] = field(default_factory=set)
    may_list_operations: bool = True
    notices: set[str] = field(default_factory=set)
    boot: Callable[[str, str], None] = lambda *_: None
    on_console: Callable[[str], str] = lambda _: ""
    address: str = "192.0.2.2"

    def environment(self, folder: Path) -> dict[str, str]:
        """The variables by which Google's client finds it, and credentials that it accepts."""
        key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        account = {
            "type": "service_account",
            "client_email": "surveyor@p-1.iam.gserviceaccount.com",
            "private_key": key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode(),
            "token_uri": f"{self.url}/token",
        }
        (folder / "account.json").write_text(json.dumps(account))
        return {
            "CLOUDSDK_API_ENDPOINT_OVERRIDES_COMPUTE": self.url,
            "GOOGLE_APPLICATION_CREDENTIALS": str(folder / "account.json"),
            "GCE_METADATA_HOST": self.url.removeprefix("http://"),
            "NO_PROXY": "127.0.0.1",
        }

    def answer(self, method: str, path: str, query: dict[str, list[str]], body: Any) -> tuple[int, Any]:
        if path == "/token":
            return 200, {"access_token": SECRET, "expires_in": 3600, "token_type": "Bearer"}
        if found := METADATA.fullmatch(path):
            return self._metadata(found["name"] or "", found["what"])
        if self.status is not None:
            return self.status[0], {"error": self.status[1]}
        found = PATH.fullmatch(path)
        assert found is not None, path
        zone, rest = found["zone"], found["rest"]
        match method, found["kind"], zone:
            case "POST", "instances", str():
                return 200, self._create(zone, body, query["requestId"][0])
            case "POST" | "GET", "operations", str() if rest:
                return self._operation(zone, rest.removesuffix("/wait"))
            case "GET", "operations", str():
                return self._operations(zone, *query["filter"])
            case "GET", "instances", None:
                return 200, self._listed(*query["filter"][0].removeprefix("labels.").split("="))
            case "GET", "instances", str():
                return 200, {"contents": self.serial or self.on_console(rest.partition("/")[0])}
        if rest in self.protected:
            return 400, {"error": {"message": "Resource cannot be deleted if it's protected against deletion."}}
        is_there = self.instances.pop((zone, rest), None) is not None
        return (200, {"name": "op", "status": "RUNNING"}) if is_there else (404, {"error": {"message": "not found"}})

    def _metadata(self, name: str, what: str) -> tuple[int, Any]:
        """Return what the metadata service of an instance answers; of one without a name it knows but the notice."""
        zone = next((zone for zone, each in self.instances if each == name), "")
        match what:
            case "preempted":
                return 200, "TRUE" if name in self.notices else "FALSE"
            case "zone":
                return 200, f"projects/p-1/zones/{zone}"
            case "name":
                return 200, name
            case "service-accounts/default/token" if "serviceAccounts" in self.instances.get((zone, name), {}):
                return 200, {"access_token": SECRET, "expires_in": 3599, "token_type": "Bearer"}
        return 404, ""

    def _create(self, zone: str, body: dict[str, Any], request_id: str) -> dict[str, Any]:
        self.complaints += complaints(body, {"$ref": "Instance"})
        self.bodies.append(body)
        is_new = request_id not in self.request_ids
        self.request_ids.append(request_id)
        if is_new and zone not in self.failures:
            on_console = {"status": "RUNNING", "zone": f"{self.url}/zones/{zone}"}
            interfaces = [self._with_addresses(each) for each in body["networkInterfaces"]]
            self.instances[zone, body["name"]] = {**body, **on_console, "networkInterfaces": interfaces}
            (script,) = (each["value"] for each in body["metadata"]["items"] if each["key"] == "startup-script")
            self.boot(body["name"], script)
        return {"name": "op", "status": "RUNNING"}

    def preempt(self, job: str) -> None:
        """Take an instance away, without a notice."""
        zone, _, name = job.partition("/")
        del self.instances[zone, name]
        self.preempted.setdefault(zone, []).append(name)

    def _operation(self, zone: str, name: str) -> tuple[int, dict[str, Any]]:
        assert name == "op"
        if self.n_slow:
            self.n_slow -= 1
            return 200, {"name": name, "status": "RUNNING"}
        failure = self.failures.get(zone)
        return 200, {"name": name, "status": "DONE"} | ({"error": failure} if failure else {})

    def _operations(self, zone: str, wanted: str) -> tuple[int, dict[str, Any]]:
        if not self.may_list_operations:
            message = "Required 'compute.zoneOperations.list' permission for 'projects/p-1'"
            return 403, {"error": {"message": message}}
        kind = "compute.instances.preempted"
        assert wanted == f'operationType="{kind}"'
        links = [f"{self.url}/zones/{zone}/instances/{name}" for name in self.preempted.get(zone, ())]
        return 200, {"items": [{"operationType": kind, "targetLink": link} for link in links]} if links else {}

    def _with_addresses(self, interface: dict[str, Any]) -> dict[str, Any]:
        public = [{**each, "natIP": self.address} for each in interface.get("accessConfigs", [])]
        return {**interface, "networkIP": "10.0.0.2", **({"accessConfigs": public} if public else {})}

    def _listed(self, label: str, value: str) -> dict[str, Any]:
        zones: dict[str, dict[str, Any]] = {"zones/empty": {"warning": {"code": "NO_RESULTS_ON_PAGE"}}}
        for (zone, _), each in self.instances.items():
            if each["labels"].get(label) == value:
                zones.setdefault(f"zones/{zone}", {"instances": []})["instances"].append(each)
        return {"items": zones}


def complaints(value: Any, schema: dict[str, Any], at: str = "Instance") -> list[str]:
    """Return what is wrong with a value by Google's description: unknown fields and words, and wrong types."""
    if "$ref" in schema:
        return complaints(value, SCHEMAS[schema["$ref"]], at)
    kinds = {"object": dict, "array": list, "string": str, "boolean": bool, "integer": int, "number": float}
    if not isinstance(value, kinds[schema["type"]]):
        return [f"{at}: {value!r} is no {schema['type']}"]
    if isinstance(value, list):
        return [each for item in value for each in complaints(item, schema["items"], at)]
    if isinstance(value, dict):
        known = {key: schema.get("properties", {}).get(key, schema.get("additionalProperties")) for key in value}
        unknown = [f"{at}.{key}: unknown" for key, of_key in known.items() if of_key is None]
        return unknown + [
            each for key, of_key in known.items() if of_key for each in complaints(value[key], of_key, f"{at}.{key}")
        ]
    return [f"{at}: {value!r} not in {schema['enum']}"] if "enum" in schema and value not in schema["enum"] else []


@contextmanager
def simulated_compute() -> Iterator[SimulatedCompute]:
    """Simulate Compute Engine."""
    simulated = SimulatedCompute()

    class Handler(BaseHTTPRequestHandler):
        def _handle(self) -> None:
            content = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            url = urlsplit(self.path)
            is_json = content[:1] == b"{"
            status, said = simulated.answer(
                self.command, url.path, parse_qs(url.query), json.loads(content) if is_json else None
            )
            body = said.encode() if isinstance(said, str) else json.dumps(said).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        do_GET = do_POST = do_DELETE = _handle

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    simulated.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield simulated
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
