"""Selection: which of the structures that walkers reached are labelled."""

from surveyor.selection.checks import check_selector, features_for
from surveyor.selection.ranking import Chosen
from surveyor.selection.rule import SelectionRule
from surveyor.selection.selection import BY_MODEL, SELECTORS, WITH_POSTERIOR, Selector, choose

__all__ = [
    "BY_MODEL",
    "SELECTORS",
    "WITH_POSTERIOR",
    "Chosen",
    "SelectionRule",
    "Selector",
    "check_selector",
    "choose",
    "features_for",
]
