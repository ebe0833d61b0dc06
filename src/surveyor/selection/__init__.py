"""Selection: which of the structures that walkers reached are labelled."""

from surveyor.selection.checks import WITHOUT_MODEL, check_selector
from surveyor.selection.ranking import Chosen
from surveyor.selection.selection import SELECTORS, Selector, choose

__all__ = ["SELECTORS", "WITHOUT_MODEL", "Chosen", "Selector", "check_selector", "choose"]
