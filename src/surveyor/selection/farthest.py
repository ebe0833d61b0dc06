"""Farthest-point sampling: each point is chosen that is farthest from all known and chosen ones."""

import numpy as np

from surveyor.selection.ranking import rounded


def farthest_points(points: np.ndarray, known: np.ndarray, n: int) -> tuple[list[int], list[float]]:
    """Return the indices of chosen points, and the distance of each to what was known or chosen before it.

    Without known points, the first one is the point with the lowest index, at an infinite distance. Ties are decided
    by the lower index.

    Args:
        points: shape (n_points, n_features).
        known: shape (n_known, n_features); it may be empty.
        n: how many points are chosen; all, if there are fewer.
    """
    nearest = np.full(len(points), np.inf)
    for each in known:
        nearest = np.minimum(nearest, np.linalg.norm(points - each, axis=1))
    order: list[int] = []
    distances: list[float] = []
    for _ in range(min(n, len(points))):
        scores = rounded(nearest)
        scores[order] = -np.inf
        index = next(i for i in np.argsort(-scores, kind="stable").tolist() if i not in order)
        order.append(index)
        distances.append(float(nearest[index]))
        nearest = np.minimum(nearest, np.linalg.norm(points - points[index], axis=1))
    return order, distances
