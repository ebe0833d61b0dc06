"""Runs whose process died, and runs that were cancelled, where no worker of Prefect's watches."""

import subprocess
import sys
from pathlib import Path

import pytest
from processes import PATIENCE_S
from slow_campaign import N_BOOTSTRAP, N_LABELS, SlowCampaign, stored

from surveyor.testing.references import launches

AUTOMATIONS = Path(__file__).parents[2] / "deployments" / "automations.yaml"
WITHIN_S = 300  # as automations.yaml says

pytestmark = [pytest.mark.slow]


def prefect(campaign: SlowCampaign, *arguments: str) -> None:
    command = [sys.executable, "-m", "prefect", *arguments]
    done = subprocess.run(
        command, env=campaign.environment, capture_output=True, text=True, check=False, timeout=PATIENCE_S
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.long
def test_a_run_whose_process_died_is_crashed_by_the_automation(prefect_api_url: str, tmp_path: Path) -> None:
    dead, alive = (
        SlowCampaign(tmp_path / name, prefect_api_url, delay_s) for name, delay_s in (("dead", 1), ("alive", 60))
    )
    prefect(dead, "automation", "create", "--from-file", str(AUTOMATIONS))
    with alive.running():
        with dead.running() as process:
            dead.wait_for(lambda: dead.is_labelling(number=1))
            process.kill()
        assert [run["state_name"] for run in dead.runs()] == ["Running", "Completed", "Running"]

        dead.wait_for(lambda: dead.runs()[0]["state_name"] == "Crashed", WITHIN_S + 60)
        dead.wait_for(lambda: [run["state_name"] for run in dead.runs()] == ["Crashed", "Completed", "Crashed"], 60)
        assert "no heartbeat" in dead.runs()[0]["state"]["message"]
        assert [run["state_name"] for run in alive.runs()] == ["Running", "Running"]

    finished = stored(dead.log)
    assert len(finished) >= N_BOOTSTRAP
    with dead.running() as process:
        assert process.wait(PATIENCE_S) == 0, dead.output.read_text()
    begun = launches(dead.log)
    assert len(set(begun)) == N_LABELS
    assert all(begun.count(structure) == 1 for structure in finished)


def test_cancel_ends_a_campaign_that_no_worker_has_started(prefect_api_url: str, tmp_path: Path) -> None:
    campaign = SlowCampaign(tmp_path / "cancelled", prefect_api_url, delay_s=10)
    with campaign.running() as process:
        campaign.wait_for(lambda: bool(launches(campaign.log)))
        prefect(campaign, "flow-run", "cancel", str(campaign.run_id))

        campaign.wait_for(lambda: process.poll() is not None)
    assert not campaign.directory.lease.exists()  # so it ended in order
    assert "the run was cancelled" in campaign.output.read_text()
