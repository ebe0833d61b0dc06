"""Checks of a selector against the model that is to serve it."""

from collections.abc import Iterable

from surveyor.models.choice import ModelParameters
from surveyor.selection.errors import unserved
from surveyor.selection.selection import BY_MODEL, WITH_POSTERIOR, check_name


def features_for(field: str, selectors: Iterable[str]) -> str:
    """Return the setting that needs the features of a model; empty if none does.

    Args:
        field: name of the field with the selectors.
        selectors: names of the selectors.
    """
    by_model = [selector for selector in selectors if selector in BY_MODEL]
    return f"{field}: {', '.join(by_model)}" if by_model else ""


def check_selector(selector: str, model: ModelParameters) -> None:
    """Check that a model can serve a selector.

    Args:
        selector: one of `SELECTORS`.
        model: parameters of the model.

    Raises:
        InputError: there is no such selector, or the model cannot serve it; the message states the remedy.
    """
    check_name(selector)
    committee = model.committee
    is_committee = committee is not None
    if selector == "committee" and not is_committee:
        raise unserved(
            selector,
            "a single model",
            "a committee, whose members disagree",
            "give model.committee, or choose informative, which needs only one model",
        )
    are_equal = committee is not None and committee.member.pair is not None and not committee.resample
    if selector == "committee" and are_equal:
        raise unserved(
            selector,
            "pair models trained on the same data, which are all the same",
            "members that disagree",
            "give model.committee.resample: true, or other members",
        )
    if selector in WITH_POSTERIOR and is_committee:
        raise unserved(
            selector, "a committee", "a single model", "choose committee, or give the model of its members alone"
        )
