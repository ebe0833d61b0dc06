"""Campaigns: their parameters, what is checked before they begin, how they begin and go on."""

from surveyor.campaign.beginnings import GivenData, check_given_label, given_data, inherit
from surveyor.campaign.campaign import (
    Campaign,
    freeze_atomic_energies,
    freeze_theory,
    is_model_checked,
    note_checked_model,
    open_campaign,
)
from surveyor.campaign.checks import check_campaign, check_elements, check_theory
from surveyor.campaign.continuation import check_continuation, recorded_parameters
from surveyor.campaign.parameters import (
    CampaignParameters,
    Origin,
    WandB,
    load_campaign,
    parse_campaign,
)
from surveyor.works.provenance import installed_versions

__all__ = [
    "Campaign",
    "CampaignParameters",
    "GivenData",
    "Origin",
    "WandB",
    "check_campaign",
    "check_continuation",
    "check_elements",
    "check_given_label",
    "check_theory",
    "freeze_atomic_energies",
    "freeze_theory",
    "given_data",
    "inherit",
    "installed_versions",
    "is_model_checked",
    "load_campaign",
    "note_checked_model",
    "open_campaign",
    "parse_campaign",
    "recorded_parameters",
]
