"""EC2 on loopback: requests go by real HTTP to moto, and the user data of instances runs as processes."""

import base64
import http.client
import json
import re
import secrets
import threading
import urllib.parse
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

from metal import SECRET, PlayedCloud, metal_of, processes_of, write_programs
from processes import kill_all, servers

from surveyor.pools.ec2.site import EC2Site

REGION = "eu-west-1"
ALIVE = ["pending", "running", "stopping", "stopped"]

SPOT = "Server.SpotInstanceTermination"  # why Amazon has ended an instance
MOTO = "moto"  # path at which moto itself is asked, beside all faults
ADDRESSES = re.compile(rb"<(ipAddress|privateIpAddress)>[^<]*<")
ENDED = '<TerminateInstancesResponse xmlns="http://ec2.amazonaws.com/doc/2016-11-15/"><requestId>r</requestId>{}{}'
ENDED = ENDED.format("<instancesSet/>", "</TerminateInstancesResponse>")


@dataclass
class Fault:
    """Faults that a proxy makes of requests.

    Attributes:
        action: of the requests, such as RunInstances.
        code: what EC2 answers; none where its answer gets lost, after it has done its work.
        message: its words.
        status: of the answer.
        times: how often it goes wrong.
        concerns: says of the parameters of a request whether it goes wrong.
    """

    action: str
    code: str | None
    message: str = "no"
    status: int = 400
    times: int = 10**6
    concerns: Callable[[dict[str, str]], bool] = lambda _: True


@dataclass
class SimulatedCloud(PlayedCloud):
    """EC2 on this machine.

    Attributes:
        folder: where its instances have their files.
        client: a client of moto itself, beside all faults.
        faults: what goes wrong at present.
        requests: parameters of all requests so far.
        ids: of an image, two subnets and a security group.
        hidden: folder that instances do not see; None if they see all of this machine.
        boot: beginning of the command that runs the script of an instance.
        address: address of all instances; None for those that moto invents, to which nothing may connect.
    """

    site_type: ClassVar[type[EC2Site]] = EC2Site

    folder: Path
    client: Any
    url: str = ""
    faults: list[Fault] = field(default_factory=list)
    requests: list[dict[str, str]] = field(default_factory=list)
    ids: dict[str, Any] = field(default_factory=dict)
    hidden: Path | None = None
    boot: Sequence[str] = ()
    address: str | None = None
    has_changed: threading.Event = field(default_factory=threading.Event)
    known: set[str] = field(default_factory=set)  # the instances that ran when it last changed
    notices: dict[str, str] = field(default_factory=dict)  # when instances are taken away, as their metadata say
    on_console: Callable[[str], str] = lambda text: text  # what the cloud shows of the text on a console
    answers: dict[str, tuple[int, bytes]] = field(default_factory=dict)  # by client token, which moto ignores

    @property
    def environment(self) -> dict[str, str]:
        """The variables by which processes find it and their credentials."""
        return {
            "AWS_ENDPOINT_URL_EC2": self.url,
            "AWS_ACCESS_KEY_ID": "me",
            "AWS_SECRET_ACCESS_KEY": SECRET,
            "AWS_EC2_METADATA_DISABLED": "true",
            "AWS_CONFIG_FILE": str(self.folder / "no-config"),
            "AWS_SHARED_CREDENTIALS_FILE": str(self.folder / "no-credentials"),
            "NO_PROXY": "127.0.0.1",
            "SIMULATED_FOLDER": str(self.folder),
            "PYTHONPATH": self.python_path,
        }

    def fields(self, **fields: Any) -> dict[str, Any]:
        """The fields of a block for it."""
        return {"region": REGION, "instance_types": ["g5.xlarge"], "interface": "lo", **self.ids, **fields}

    def instances(self, *states: str) -> list[dict[str, Any]]:
        """All instances that there are; of some states, or all that cost."""
        filters = [{"Name": "instance-state-name", "Values": list(states) or ALIVE}]
        pages = self.client.get_paginator("describe_instances").paginate(Filters=filters)
        return [each for page in pages for reservation in page["Reservations"] for each in reservation["Instances"]]

    def take_away(self, instance: str, code: str = SPOT, words: str = f"{SPOT}: Spot instance termination") -> None:
        """End an instance as Amazon does, by default that which wants a spot instance back."""
        from moto.core import DEFAULT_ACCOUNT_ID
        from moto.ec2.models import ec2_backends

        self.end(instance)
        reason = ec2_backends[DEFAULT_ACCOUNT_ID][REGION].get_instance(instance).state_reason
        reason.code, reason.message = code, words

    def end(self, instance: str) -> None:
        """End an instance."""
        self.client.terminate_instances(InstanceIds=[instance])
        self.has_changed.set()

    def reboot(self, instance: str) -> None:
        """Reboot an instance: its processes end, timers among them, and cloud-init does not run its script again."""
        kill_all(lambda: processes_of(instance))
        target = self.folder / f"{instance}.target"
        if target.exists() and target.read_text() == "poweroff.target\n":
            (self.folder / f"{instance}.off").touch()

    def announce(self, instance: str, in_s: float) -> None:
        """Let the metadata of an instance say that it is taken away."""
        self.notices[instance] = f"{datetime.now(UTC) + timedelta(seconds=in_s):%Y-%m-%dT%H:%M:%SZ}"

    def alive(self) -> list[str]:
        return [each["InstanceId"] for each in self.instances()]

    def running(self) -> set[str]:
        if self.has_changed.is_set():
            self.has_changed.clear()
            self.known = {each["InstanceId"] for each in self.instances("running")}
        return self.known

    def power_off(self, instance: str) -> None:
        self.end(instance)

    def metadata(self, instance: str) -> dict[str, str]:
        return {"AWS_EC2_METADATA_SERVICE_ENDPOINT": f"{self.url}/{instance}"}

    def n_requested(self) -> int:
        return len(self.requested("RunInstances"))

    def script_of(self, instance: str) -> str:
        return self.user_data(instance)

    def user_data(self, instance: str) -> str:
        answer = self.client.describe_instance_attribute(InstanceId=instance, Attribute="userData")
        return base64.b64decode(answer["UserData"]["Value"]).decode()

    def requested(self, action: str) -> list[dict[str, str]]:
        return [each for each in self.requests if each["Action"] == action]

    def fault_of(self, form: dict[str, str]) -> Fault | None:
        for fault in self.faults:
            if fault.action == form["Action"] and fault.times > 0 and fault.concerns(form):
                fault.times -= 1
                return fault
        return None


@contextmanager
def simulated_cloud(
    rooms: Sequence[Callable[[], AbstractContextManager[None]]] = (nullcontext,),
) -> Iterator[SimulatedCloud]:
    """Simulate EC2; in the end, no instance is left, also when the test run is killed.

    Args:
        rooms: enter the network namespaces in which it answers.
    """
    from moto.server import ThreadedMotoServer

    moto = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    moto.start()
    host, port = moto.get_host_and_port()
    client = client_at(f"http://{host}:{port}")
    with servers("/tmp/svy-cloud-") as started:
        cloud = SimulatedCloud(started.folder, client, ids=_ids(client))
        write_programs(cloud.folder)
        proxies: list[ThreadingHTTPServer] = []
        for room in rooms:
            with room():
                own = proxies[0].server_port if proxies else 0
                proxies.append(ThreadingHTTPServer(("127.0.0.1", own), _handler(cloud, port)))
        cloud.url = f"http://127.0.0.1:{proxies[0].server_port}"
        servings = [threading.Thread(target=each.serve_forever) for each in proxies]
        for thread in servings:
            thread.start()
        try:
            with metal_of(cloud):  # it asks the proxies
                yield cloud
        finally:
            for proxy, thread in zip(proxies, servings, strict=True):
                proxy.shutdown()
                thread.join()
                proxy.server_close()
            moto.stop()


def client_at(url: str) -> Any:
    """Return a client of moto itself."""
    import boto3

    return boto3.client("ec2", endpoint_url=url, region_name=REGION, aws_access_key_id="m", aws_secret_access_key="m")


class _Answering(BaseHTTPRequestHandler):
    def do_PUT(self) -> None:
        self._answer(200, b"token" if self.path.endswith("/latest/api/token") else b"")

    def _answer(self, status: int, content: bytes) -> None:
        with suppress(BrokenPipeError, ConnectionResetError):
            self.send_response(status)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

    def log_message(self, *_: Any) -> None:
        pass


def _handler(cloud: SimulatedCloud, port: int) -> type[BaseHTTPRequestHandler]:
    class Handler(_Answering):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            form = dict(urllib.parse.parse_qsl(body.decode()))
            if self.path == f"/{MOTO}":
                self._answer(*self._ask(body)())
            else:
                self._respond(form, body)

        def _respond(self, form: dict[str, str], body: bytes) -> None:
            cloud.requests.append(form)
            fault = cloud.fault_of(form)
            if fault is not None and fault.code is not None:
                self._answer(fault.status, _complaint(fault.code, fault.message))
                return
            status, content = _answered(cloud, form, self._ask(body))
            if fault is None:
                self._answer(status, content)
            else:
                self.close_connection = True

        def do_GET(self) -> None:
            self._answer(*_metadata(cloud, self.path, self.headers["X-aws-ec2-metadata-token"]))

        def _ask(self, body: bytes) -> Callable[[], tuple[int, bytes]]:
            def ask() -> tuple[int, bytes]:
                connection = http.client.HTTPConnection("127.0.0.1", port)
                connection.request("POST", "/", body, dict(self.headers))
                answer = connection.getresponse()
                content = answer.read()
                connection.close()
                return answer.status, content

            return ask

    return Handler


def _answered(cloud: SimulatedCloud, form: dict[str, str], ask: Callable[[], tuple[int, bytes]]) -> tuple[int, bytes]:
    """Return what EC2 answers where moto would not."""
    token, action = form.get("ClientToken"), form["Action"]
    if action == "GetConsoleOutput":
        path = cloud.folder / f"{form['InstanceId']}.console"
        on_console = cloud.on_console(path.read_text() if path.exists() else "")
        return 200, _console(form["InstanceId"], base64.b64encode(on_console.encode()).decode())
    if token is not None and token in cloud.answers:
        return cloud.answers[token]
    answer = ask()
    if cloud.address is not None:
        answer = answer[0], ADDRESSES.sub(rb"<\1>" + cloud.address.encode() + b"<", answer[1])
    if action in ("RunInstances", "TerminateInstances"):
        cloud.has_changed.set()
    if token is not None and answer[0] == 200:
        cloud.answers[token] = answer
    if action == "TerminateInstances" and answer[0] != 200 and b"InvalidInstanceID" not in answer[1]:
        return 200, ENDED.encode()  # moto does not end an instance twice
    return answer


def _metadata(cloud: SimulatedCloud, path: str, token: str | None) -> tuple[int, bytes]:
    """Return what the metadata service of an instance answers."""
    instance, _, rest = path[1:].partition("/")
    if token != "token":
        return 401, b""
    if rest != "latest/meta-data/spot/instance-action" or instance not in cloud.notices:
        return 404, b""
    return 200, json.dumps({"action": "terminate", "time": cloud.notices[instance]}).encode()


def _complaint(code: str, message: str) -> bytes:
    return (
        f"<Response><Errors><Error><Code>{code}</Code><Message>{message}</Message></Error></Errors>"
        "<RequestID>r</RequestID></Response>"
    ).encode()


def _console(instance: str, text: str) -> bytes:
    return (
        '<GetConsoleOutputResponse xmlns="http://ec2.amazonaws.com/doc/2016-11-15/"><requestId>r</requestId>'
        f"<instanceId>{instance}</instanceId><timestamp>2026-01-01T00:00:00.000Z</timestamp><output>{text}</output>"
        "</GetConsoleOutputResponse>"
    ).encode()


def _ids(client: Any) -> dict[str, Any]:
    subnets = client.describe_subnets()["Subnets"]
    group = client.create_security_group(
        GroupName=f"closed-{secrets.token_hex(4)}", Description="lets in itself", VpcId=subnets[0]["VpcId"]
    )
    return {
        "machine_image": client.describe_images()["Images"][0]["ImageId"],
        "subnets": [subnet["SubnetId"] for subnet in subnets[:2]],
        "security_groups": [group["GroupId"]],
    }
