"""The error of a selector that a model cannot serve."""

from surveyor.errors import InputError


def unserved(selector: str, found: str, expected: str, remedy: str) -> InputError:
    """Return the error."""
    return InputError(f"select: {selector} found {found}, expected {expected}; {remedy}")
