"""SIGTERM says what Ctrl-C says, and what was finished counts from the first second of the next run."""

import signal
import threading
from pathlib import Path

import pytest
from processes import PATIENCE_S
from slow_campaign import N_BOOTSTRAP, SlowCampaign

from surveyor.flows.termination import Terminated, raising_at_sigterm
from surveyor.progress import read_progress

pytestmark = [pytest.mark.slow]


@pytest.mark.parametrize(
    ("number", "status"), [(signal.SIGTERM, 143), pytest.param(signal.SIGINT, 130, marks=pytest.mark.long)]
)
def test_a_command_that_is_told_to_end_says_how_to_go_on(
    prefect_api_url: str, tmp_path: Path, number: signal.Signals, status: int
) -> None:
    campaign = SlowCampaign(tmp_path / "ended", prefect_api_url, delay_s=2)
    with campaign.running() as process:
        campaign.wait_for(lambda: campaign.is_labelling(0))
        process.send_signal(number)
        assert process.wait(PATIENCE_S) == status, campaign.output.read_text()
    assert campaign.output.read_text().splitlines()[-1] == "stopped; the same command continues where this stopped"
    before = read_progress(campaign.directory)
    assert 0 < before.n_labelled < N_BOOTSTRAP
    if number == signal.SIGTERM:
        check_that_finished_labels_count_at_once(campaign, before.n_labelled)


def check_that_finished_labels_count_at_once(campaign: SlowCampaign, n_labelled: int) -> None:
    seen = []

    def is_labelled() -> bool:
        progress = read_progress(campaign.directory)
        if progress.state == "running" and progress.generation == 0:
            seen.append(progress.n_labelled)
        return progress.n_complete > 0

    with campaign.running():
        campaign.wait_for(is_labelled)
    assert min(seen) >= n_labelled


def test_the_signal_is_handled_as_before_afterwards() -> None:
    former = signal.getsignal(signal.SIGTERM)
    with pytest.raises(Terminated), raising_at_sigterm():
        signal.raise_signal(signal.SIGTERM)
    assert signal.getsignal(signal.SIGTERM) is former


def test_other_threads_leave_signals_alone() -> None:
    entered = []

    def enter() -> None:
        with raising_at_sigterm():
            entered.append(signal.getsignal(signal.SIGTERM))

    thread = threading.Thread(target=enter)
    thread.start()
    thread.join()
    assert entered == [signal.getsignal(signal.SIGTERM)]
