"""Checks of a selector against the model that is to serve it."""

from surveyor.models.choice import ModelParameters
from surveyor.selection.errors import unserved
from surveyor.selection.selection import WITH_POSTERIOR, check_name


def check_selector(selector: str, model: ModelParameters) -> None:
    """Check that a model can serve a selector.

    Args:
        selector: one of `SELECTORS`.
        model: parameters of the model.

    Raises:
        InputError: there is no such selector, or the model cannot serve it; the message states the remedy.
    """
    check_name(selector)
    is_committee = model.committee is not None
    if selector == "committee" and not is_committee:
        raise unserved(
            selector,
            "a single model",
            "a committee, whose members disagree",
            "give model.committee, or choose informative, which needs only one model",
        )
    if selector in WITH_POSTERIOR and is_committee:
        raise unserved(
            selector, "a committee", "a single model", "choose committee, or give the model of its members alone"
        )
