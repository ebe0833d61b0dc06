"""Events of Prefect as its server has received them."""

from typing import Any
from uuid import UUID

import httpx
from prefect.settings import PREFECT_API_URL
from processes import PATIENCE_S


def heartbeats(run: UUID) -> list[str]:
    """Return the names of the flow in the heartbeats of a run."""
    events = _events("prefect.flow-run.heartbeat", resource={"id": [f"prefect.flow-run.{run}"]})
    return [event["related"][0]["prefect.resource.name"] for event in events]


def has_left_worker(run: UUID) -> bool:
    """Say whether the Prefect worker has done all that it does when the process of a run has ended."""
    return bool(_events("prefect.worker.executed-flow-run", related={"id": [f"prefect.flow-run.{run}"]}))


def _events(name: str, **filters: Any) -> list[dict[str, Any]]:
    wanted = {"event": {"name": [name]}, **filters}
    answer = httpx.post(f"{PREFECT_API_URL.value()}/events/filter", json={"filter": wanted}, timeout=PATIENCE_S)
    events: list[dict[str, Any]] = answer.raise_for_status().json()["events"]
    return events
