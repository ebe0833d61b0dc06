"""Checks of the Prefect server by `surveyor doctor`: versions that work, and schedules that make runs."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from importlib import metadata

import httpx
import prefect
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.filters import DeploymentFilter, FlowRunFilter
from prefect.client.schemas.responses import DeploymentResponse

from surveyor.doctor.preflight import HERE
from surveyor.doctor.results import CheckResult, fault, remark

CHECK = "Prefect server"
# Earlier versions of Prefect make no run for a schedule with SQLAlchemy 2.1 or later.
SOUND_PREFECT, SQLALCHEMY_TOO_NEW = [3, 9], [2, 1]
SOUND = f"pip install 'prefect>={SOUND_PREFECT[0]}.{SOUND_PREFECT[1]}.1'"
# The scheduler looks every minute, so an older schedule has runs.
SCHEDULER_S = 180
N_DEPLOYMENTS = 200  # the server gives no more at once


def check_installed() -> Iterator[CheckResult]:
    """Find versions of Prefect and SQLAlchemy here with which a server starts, but makes no run for a schedule."""
    there, sqlalchemy = prefect.__version__, metadata.version("sqlalchemy")
    if _numbers(there) < SOUND_PREFECT and _numbers(sqlalchemy) >= SQLALCHEMY_TOO_NEW:
        found = f"Prefect {there} with SQLAlchemy {sqlalchemy}: a server started here makes no run for a schedule"
        yield fault("Prefect", HERE, found, SOUND)


def check_server(url: str) -> Iterator[CheckResult]:
    """Find whether the server suits the client, and whether its active schedules have runs to come.

    Args:
        url: of its API, for the findings; the server is the one that Prefect is configured for.
    """
    with get_client(sync_client=True) as client:
        try:
            there = client.api_version()
        except httpx.HTTPError as error:
            yield fault(CHECK, HERE, f"{url} says no version: {error}", "prefect server start  # a newer one")
            return
        yield _compare(url, there)
        try:
            yield from _check_schedules(client, url, there)
        except httpx.HTTPStatusError as error:
            yield _refused(url, error)


def _compare(url: str, there: str) -> CheckResult:
    here = prefect.__version__
    found = f"{url}: version {there}, here {here}"
    if _numbers(there)[0] != _numbers(here)[0]:
        return fault(CHECK, HERE, found, f"pip install prefect=={there}  # or bring the server to {here}")
    if _numbers(there) < SOUND_PREFECT:
        return remark(CHECK, HERE, f"{found}; with SQLAlchemy 2.1 such a server makes no run for a schedule")
    if _numbers(there) < _numbers(here):
        return remark(CHECK, HERE, f"{found}; an older server may not know all that is asked of it")
    return CheckResult(CHECK, HERE, found)


def _check_schedules(client: SyncPrefectClient, url: str, there: str) -> Iterator[CheckResult]:
    deployments = client.read_deployments(limit=N_DEPLOYMENTS)
    idle = [each for each in deployments if _has_settled_schedule(each) and not _has_planned_run(client, each)]
    if not idle:
        return
    names = ", ".join(sorted(f"{client.read_flow(each.flow_id).name}/{each.name}" for each in idle))
    found = f"{url}: the schedule of {names} is active, but no run is planned"
    if _numbers(there) < SOUND_PREFECT:
        yield fault(CHECK, HERE, found, f"{SOUND}  # where the server runs; then start it again")
    else:
        yield remark(CHECK, HERE, f"{found}; unless it is due in months only, look for errors in the server's log")


def _has_settled_schedule(deployment: DeploymentResponse) -> bool:
    """Return whether a schedule has been active long enough for the scheduler to notice it."""
    before = datetime.now(UTC) - timedelta(seconds=SCHEDULER_S)
    changes = [each.updated for each in deployment.schedules if each.active]
    return not deployment.paused and any(changed is None or changed < before for changed in changes)


def _has_planned_run(client: SyncPrefectClient, deployment: DeploymentResponse) -> bool:
    planned = {"next_scheduled_start_time": {"after_": datetime.now(UTC)}, "state": {"type": {"any_": ["SCHEDULED"]}}}
    runs = client.read_flow_runs(
        deployment_filter=DeploymentFilter.model_validate({"id": {"any_": [deployment.id]}}),
        flow_run_filter=FlowRunFilter.model_validate(planned),
        limit=1,
    )
    return bool(runs)


def _refused(url: str, error: httpx.HTTPStatusError) -> CheckResult:
    found = f"{url} does not list deployments: {error}"
    if error.response.status_code == httpx.codes.UNPROCESSABLE_ENTITY:
        remedy = "pip install 'fastapi<0.151'  # where the server runs; then start it again"
    else:
        remedy = "look for errors in the server's log"
    return fault(CHECK, HERE, found, remedy)


def _numbers(version: str) -> list[int]:
    """Return the first two numbers of a version."""
    return [int(number) for number in version.split(".")[:2]]
