"""Checks of a selector against the model that is to serve it."""

from surveyor.errors import InputError
from surveyor.models.choice import ModelParameters
from surveyor.selection.selection import SELECTORS

WITHOUT_MODEL = ("walkers", "random")


def check_selector(selector: str, model: ModelParameters) -> None:
    """Check that a model can serve a selector.

    Args:
        selector: one of `SELECTORS`.
        model: parameters of the model of the campaign.

    Raises:
        InputError: it cannot; the message states the remedy.
    """
    if selector not in SELECTORS:
        raise InputError(f"select: found {selector!r}, expected one of {', '.join(SELECTORS)}")
    if selector in WITHOUT_MODEL:
        return
    raise InputError(f"select: {selector} is not available yet; choose one of {', '.join(WITHOUT_MODEL)}")
