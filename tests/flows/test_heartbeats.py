"""Heartbeats of flow runs within a campaign, which Prefect does not send: each run would wait for them at its end."""

from uuid import UUID

import pytest
from prefect import flow, runtime
from prefect.settings import PREFECT_FLOWS_HEARTBEAT_FREQUENCY, temporary_settings
from prefect_events import heartbeats
from processes import wait_until

from surveyor.flows.heartbeats import _interval_s, sending_heartbeats, without_heartbeats_of_prefect


@flow(name="generation")
@sending_heartbeats
def generation() -> UUID:
    assert PREFECT_FLOWS_HEARTBEAT_FREQUENCY.value() is None
    run = UUID(str(runtime.flow_run.id))
    wait_until(lambda: len(heartbeats(run)) > 2, lambda: str(heartbeats(run)))
    return run


@flow
def campaign() -> UUID:
    with without_heartbeats_of_prefect():
        assert _interval_s.get() == 30
        _interval_s.set(0.1)  # Prefect would not go below 30 s
        run = generation()
    assert PREFECT_FLOWS_HEARTBEAT_FREQUENCY.value() == 30
    return run


@pytest.mark.usefixtures("prefect_api_url")
def test_heartbeats_of_a_run_name_its_flow_and_are_sent_as_long_as_it_lasts() -> None:
    with temporary_settings({PREFECT_FLOWS_HEARTBEAT_FREQUENCY: 30}):
        sent = heartbeats(campaign())
    assert set(sent) == {"generation"}
