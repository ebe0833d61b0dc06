"""Cost of the jobs of a pool, counted by their time, and the budget that bounds it."""

from dataclasses import dataclass

from surveyor.pools.site import Price


@dataclass(slots=True)
class Spending:
    """The cost of a pool so far.

    Attributes:
        price: price and budget.
        spent: cost so far, in the currency of the price.
        counted: until when it was counted, in seconds of any clock.
    """

    price: Price
    spent: float
    counted: float

    @classmethod
    def continued(cls, price: Price, spent: float, n_left: int, unwatched_s: float, now: float) -> "Spending":
        """Continue from the cost that a former process has counted.

        Args:
            price: price and budget.
            spent: what was counted.
            n_left: number of jobs that the process left behind.
            unwatched_s: time since it counted last. Jobs end themselves when nobody watches them.
            now: time from which it is counted on.
        """
        unwatched = max(0.0, min(unwatched_s, price.unwatched_s))
        return cls(price, spent + price.per_hour * n_left * unwatched / 3600, now)

    def count(self, n_jobs: int, now: float) -> None:
        """Count the time of some jobs since it was counted last."""
        self.spent += self.price.per_hour * n_jobs * (now - self.counted) / 3600
        self.counted = now

    @property
    def complaint(self) -> str | None:
        """Reason why no more jobs are allowed; None while they are."""
        budget = self.price.budget
        if budget is None or self.spent < budget:
            return None
        return (
            f"it has cost {self.spent:.2f}, and its budget is {budget:g}; labels and checkpoints are kept: "
            "raise budget in the block, and start the campaign again to continue it"
        )
