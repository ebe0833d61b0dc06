"""Campaigns: parameters, checks before the start, beginning and continuation."""

from surveyor.works.campaign.campaign import (
    CAMPAIGN,
    Campaign,
    freeze_atomic_energies,
    freeze_theory,
    is_model_checked,
    labeller_of,
    note_checked_model,
)
from surveyor.works.campaign.checks import CheckedCampaign, check_elements, check_theory
from surveyor.works.campaign.first_generation import GivenData, given_data, inherit
from surveyor.works.campaign.learning_checks import advice_on_ahead, warning_of_ramps, warning_of_stop
from surveyor.works.campaign.parameters import CampaignParameters, Origin, WandB

__all__ = [
    "CAMPAIGN",
    "Campaign",
    "CampaignParameters",
    "CheckedCampaign",
    "GivenData",
    "Origin",
    "WandB",
    "advice_on_ahead",
    "check_elements",
    "check_theory",
    "freeze_atomic_energies",
    "freeze_theory",
    "given_data",
    "inherit",
    "is_model_checked",
    "labeller_of",
    "note_checked_model",
    "warning_of_ramps",
    "warning_of_stop",
]
