"""A campaign while the Prefect server is away."""

import time
from contextlib import ExitStack
from pathlib import Path

import httpx
import pytest
from prefect.settings import PREFECT_API_URL, temporary_settings
from prefect_server import free_address, prefect_server
from processes import PATIENCE_S
from slow_campaign import N_GENERATIONS, N_LABELS, SlowCampaign

from surveyor.flows.server import ServerUnreachable, using_server, wait_for_server
from surveyor.testing.references import launches

AWAY_S = 180


@pytest.mark.long
def test_a_campaign_bears_three_minutes_without_the_server(tmp_path: Path) -> None:
    url = free_address()
    (home := tmp_path / "prefect").mkdir()
    campaign = SlowCampaign(tmp_path / "copper", url)
    with ExitStack() as started:
        with prefect_server(home, url):
            process = started.enter_context(campaign.running())
            campaign.wait_for(lambda: campaign.is_labelling(number=1))

        away = time.monotonic()
        campaign.wait_for(lambda: campaign.directory.n_complete() == 2)  # a generation that has begun needs no server
        campaign.wait_for(lambda: process.poll() is not None or time.monotonic() > away + AWAY_S)
        assert process.poll() is None, campaign.output.read_text()

        with prefect_server(home, url):
            assert process.wait(PATIENCE_S) == 0, campaign.output.read_text()
            ended = [(run["name"], run["state_name"]) for run in campaign.runs()]

    names = ["campaign copper", *(f"generation {number}" for number in range(N_GENERATIONS + 1))]
    assert ended == [(name, "Completed") for name in names]
    structures = launches(campaign.log)
    assert len(structures) == len(set(structures)) == N_LABELS
    said = campaign.output.read_text()
    assert f"the Prefect server at {url} does not answer" in said
    assert f"the Prefect server at {url} answers again" in said


def test_a_server_that_stays_away_is_named_with_the_remedy() -> None:
    url = free_address()
    with (
        temporary_settings({PREFECT_API_URL: url}),
        pytest.raises(ServerUnreachable, match=f"{url} went away .* start it again .* continues"),
    ):
        wait_for_server(patience_s=0)


def test_a_lost_connection_is_told_as_a_server_that_went_away(prefect_api_url: str) -> None:
    with pytest.raises(ServerUnreachable, match=f"{prefect_api_url} went away"), using_server():
        raise httpx.ConnectError("refused")
