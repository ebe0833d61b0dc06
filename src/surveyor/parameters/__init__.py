"""Parameters: the base of their classes, and the files in which users write them."""

from surveyor.parameters.parameters import (
    Choice,
    Fraction,
    Parameters,
    at_most_one_of,
    exactly_one_of,
)

__all__ = [
    "Choice",
    "Fraction",
    "Parameters",
    "at_most_one_of",
    "exactly_one_of",
]
