"""Words in messages to people."""


def number_of(n: int, singular: str, plural: str | None = None) -> str:
    """Return a number with its noun, such as "1 structure" or "3 structures"; the plural ends in s by default."""
    return f"{n} {singular}" if n == 1 else f"{n} {plural or singular + 's'}"
