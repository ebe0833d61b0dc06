"""Words in messages to people."""


def number_of(n: int, singular: str, plural: str | None = None) -> str:
    """Return a number with its noun, such as "1 structure" or "3 structures"; the plural ends in s by default."""
    return f"{n} {singular}" if n == 1 else f"{n} {plural or singular + 's'}"


def since_the_start(seconds: float) -> str:
    """Return the time since work was started, such as "0:01:20 since the start"."""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{rest:02d} since the start"


def generation_name(number: int) -> str:
    """Return the number of a generation for display, which says of 0 that it is the bootstrap."""
    return str(number) if number else "0 (bootstrap)"
