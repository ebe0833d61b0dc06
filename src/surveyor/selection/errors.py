"""What a selector says of a model that cannot serve it."""

from surveyor.errors import InputError


def unserved(selector: str, found: str, expected: str, remedy: str) -> InputError:
    """Return the error."""
    return InputError(f"select: {selector} found {found}, expected {expected}; {remedy}")
