"""Ranking of candidates by scores that are rounded, so that the last bits of a machine decide nothing."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

DECIMALS = 6  # of scores


@dataclass(frozen=True, slots=True)
class Chosen:
    """A chosen candidate.

    Attributes:
        name: name of the candidate.
        score: score by which it was chosen, rounded to 1e-6; None if it has none.
    """

    name: str
    score: float | None = None


def rounded(scores: np.ndarray) -> np.ndarray:
    """Return scores rounded to 1e-6; those that are no number become minus infinity, the worst."""
    return np.asarray(np.nan_to_num(np.round(scores, DECIMALS), nan=-np.inf, posinf=np.inf, neginf=-np.inf))


def best_first(scores: np.ndarray) -> list[int]:
    """Return indices by decreasing rounded score, ties by index."""
    return [int(index) for index in np.argsort(-rounded(scores), kind="stable")]


def chosen(names: Sequence[str], order: Sequence[int], scores: Sequence[float] | np.ndarray) -> list[Chosen]:
    """Return the candidates of an order, each with its score.

    Args:
        names: of all candidates.
        order: indices of those that are chosen.
        scores: of those that are chosen, in their order; infinite and undefined ones are left out.
    """
    found = rounded(np.asarray(scores, dtype=float)).tolist()
    return [
        Chosen(names[index], score if np.isfinite(score) else None) for index, score in zip(order, found, strict=True)
    ]
