"""Selection: which of the structures that walkers reached are labelled."""

from surveyor.selection.checks import check_selector
from surveyor.selection.selection import SELECTORS, Chosen, Selector, choose

__all__ = ["SELECTORS", "Chosen", "Selector", "check_selector", "choose"]
