"""Findings of `surveyor doctor` about Prefect and its server."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib import metadata
from threading import Thread

import prefect
import pytest
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.actions import DeploymentScheduleCreate
from prefect.client.schemas.schedules import CronSchedule
from prefect.settings import PREFECT_API_URL, temporary_settings

from surveyor.flows import server_checks
from surveyor.flows.server_checks import check_installed, check_server

LEAP_DAY = CronSchedule(cron="0 0 29 2 *", timezone="UTC")  # years ahead, so that the scheduler plans no run as yet


@pytest.mark.parametrize(
    ("there", "sqlalchemy", "n_faults"), [("3.8.8", "2.1.9", 1), ("3.8.8", "2.0.58", 0), ("3.9.1", "2.1.9", 0)]
)
def test_an_installed_pair_whose_schedules_make_no_runs_is_a_fault(
    there: str, sqlalchemy: str, n_faults: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prefect, "__version__", there)
    monkeypatch.setattr(metadata, "version", {"sqlalchemy": sqlalchemy}.__getitem__)
    findings = list(check_installed())
    assert [finding.remedy for finding in findings] == ["pip install 'prefect>=3.9.1'"] * n_faults


@pytest.fixture
def idle_schedule() -> Iterator[None]:
    """A deployment with an active schedule for which no run is planned."""
    with get_client(sync_client=True) as client:
        flow = client.create_flow_from_name("leaping")
        schedules = [DeploymentScheduleCreate(schedule=LEAP_DAY, active=True)]
        deployment = client.create_deployment(flow, "rarely", schedules=schedules)
        yield
        client.delete_deployment(deployment)


@pytest.mark.usefixtures("idle_schedule")
def test_an_active_schedule_without_a_planned_run_is_told(
    prefect_api_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert [finding.severity for finding in check_server(prefect_api_url)] == ["good"]  # it is new

    monkeypatch.setattr(server_checks, "SCHEDULER_S", -60)
    _, finding = check_server(prefect_api_url)
    assert finding.severity == "remark"
    assert "the schedule of leaping/rarely is active, but no run is planned" in finding.found

    monkeypatch.setattr(SyncPrefectClient, "api_version", lambda _: "3.8.8")
    version, finding = check_server(prefect_api_url)
    assert (version.severity, finding.severity) == ("remark", "fault")
    assert "makes no run for a schedule" in version.found


@pytest.mark.parametrize(
    ("there", "here", "severity", "remedy"),
    [
        ("2.20.1", "3.9.1", "fault", "pip install prefect==2.20.1"),
        ("3.10.2", "3.11.0", "remark", ""),
        ("3.11.0", "3.10.2", "good", ""),
    ],
)
def test_the_version_of_the_server_is_compared(
    there: str, here: str, severity: str, remedy: str, prefect_api_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prefect, "__version__", here)
    monkeypatch.setattr(SyncPrefectClient, "api_version", lambda _: there)
    finding, *_ = check_server(prefect_api_url)
    assert finding.severity == severity
    assert f"version {there}, here {here}" in finding.found
    assert (finding.remedy or "").startswith(remedy)


class RefusingNulls(BaseHTTPRequestHandler):
    """Answers as Prefect's server does with fastapi 0.151 or later."""

    def do_GET(self) -> None:
        self._answer(200 if self.path.endswith("/version") else 404, prefect.__version__)

    def do_POST(self) -> None:
        self._answer(422, {"exception_message": "Invalid request received."})

    def _answer(self, status: int, content: object) -> None:
        self.send_response(status)
        self.end_headers()
        self.wfile.write(json.dumps(content).encode())

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@contextmanager
def serving() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), RefusingNulls) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/api"
        server.shutdown()


def test_a_server_that_refuses_to_list_deployments_is_a_fault() -> None:
    with serving() as url, temporary_settings({PREFECT_API_URL: url}):
        _, finding = check_server(url)
    assert finding.severity == "fault"
    assert finding.remedy.startswith("pip install 'fastapi<0.151'")
