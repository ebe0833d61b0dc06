"""The events of a campaign, passed on to its event file, to the log of its run, and to Weights & Biases."""

import logging
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from surveyor.events.kinds import CampaignBegins
from surveyor.events.recording import announce
from surveyor.flows.opening import relayed
from surveyor.flows.paths import of_run, run_url
from surveyor.reading import announce_readings
from surveyor.works.campaign import Campaign

logger = logging.getLogger(__name__)


@contextmanager
def followed(campaign: Campaign) -> Iterator[None]:
    """Relay events of this process and of the pools to the campaign's events and to the log of the flow run."""
    with ExitStack() as opened:
        curves = None
        if campaign.parameters.wandb is not None:
            from surveyor.tasks.wandb_trainings import TrainingCurves

            curves = TrainingCurves(campaign.directory, campaign.parameters.wandb)
            opened.callback(curves.close)
        opened.enter_context(
            relayed(campaign.directory, campaign.pools, also=None if curves is None else curves.on_event)
        )
        url = run_url()
        announce(logger, CampaignBegins(message=f"{campaign.directory.path}{of_run(url)}", url=url))
        announce_readings(campaign.checked.reports)
        yield
