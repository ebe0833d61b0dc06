"""Selection: which of the structures that walkers reached are labelled."""

from surveyor.selection.checks import check_selector
from surveyor.selection.ranking import Chosen
from surveyor.selection.selection import SELECTORS, WITH_POSTERIOR, Selector, choose

__all__ = ["SELECTORS", "WITH_POSTERIOR", "Chosen", "Selector", "check_selector", "choose"]
