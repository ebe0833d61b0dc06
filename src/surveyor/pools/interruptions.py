"""Count of machines that were taken away from a pool while nothing got finished."""

from dataclasses import dataclass


@dataclass(slots=True)
class Interruptions:
    """Interruptions in a row.

    Attributes:
        n: number of machines taken away since a function of the pool last returned.
        n_finished: number of functions that had returned at the last one.
    """

    n: int = 0
    n_finished: int = 0

    def note(self, n_finished: int) -> None:
        """Count a machine that is taken away.

        Args:
            n_finished: number of functions that have returned so far.
        """
        self.n = 1 if n_finished > self.n_finished else self.n + 1
        self.n_finished = n_finished

    def are_many(self, limit: int | None, n_finished: int) -> bool:
        """Return whether as many machines as a limit were taken away, and nothing has returned since the last one.

        Args:
            limit: number of machines; None for no limit.
            n_finished: number of functions that have returned so far.
        """
        return limit is not None and self.n >= limit and n_finished == self.n_finished
