"""Events of Prefect as its server has received them."""

from uuid import UUID

import httpx
from prefect.settings import PREFECT_API_URL


def heartbeats(run: UUID) -> list[str]:
    """Return the names of the flow in the heartbeats of a run."""
    wanted = {"event": {"name": ["prefect.flow-run.heartbeat"]}, "resource": {"id": [f"prefect.flow-run.{run}"]}}
    answer = httpx.post(f"{PREFECT_API_URL.value()}/events/filter", json={"filter": wanted}, timeout=60)
    return [event["related"][0]["prefect.resource.name"] for event in answer.raise_for_status().json()["events"]]
