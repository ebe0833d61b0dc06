"""Words in messages to people."""


def number_of(n: int, singular: str) -> str:
    """Return a number with its regular noun, such as "1 structure" or "3 structures"."""
    return f"{n} {singular}" if n == 1 else f"{n} {singular}s"
