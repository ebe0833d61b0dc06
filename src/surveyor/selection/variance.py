"""Greedy reduction of the posterior variance: each structure is chosen about which the most is still unknown.

All rows are whitened: multiplied by W, where W W^T is the posterior covariance P before anything is chosen. After some
structures with rows J are chosen, the covariance is (1 + sum J^T J)^-1, which equals the downdate
P - P J^T (1 + J P J^T)^-1 J P. With its Cholesky factor, the variance of each row is a sum of squares: no difference of
large numbers, whatever the scale of the features.
"""

from collections.abc import Iterable, Sequence

import numpy as np

from surveyor.selection.ranking import rounded


def reduced(rows: np.ndarray) -> np.ndarray:
    """Return rows R with the same R^T R, at most as many as there are features.

    Args:
        rows: shape (n_rows, n_features).
    """
    return np.asarray(np.linalg.qr(rows, mode="r")) if len(rows) > rows.shape[1] else rows


def information(n_features: int, rows: Iterable[np.ndarray]) -> np.ndarray:
    """Return 1 + sum J^T J, shape (n_features, n_features), the inverse of the whitened covariance.

    Args:
        n_features: number of features.
        rows: J of each structure, whitened, shape (n_rows, n_features).
    """
    return sum((each.T @ each for each in rows), start=np.eye(n_features))


def variances(rows: np.ndarray, known: np.ndarray) -> np.ndarray:
    """Return the variance of each row, shape (n_rows,), in units of sigma squared.

    Args:
        rows: whitened, shape (n_rows, n_features).
        known: the information, shape (n_features, n_features).
    """
    from scipy.linalg import solve_triangular

    factor = np.linalg.cholesky(known)
    return np.asarray(np.square(solve_triangular(factor, rows.T, lower=True)).sum(axis=0))


def greedy(
    rows: Sequence[np.ndarray], n_rows: Sequence[int], known: np.ndarray, n: int
) -> tuple[list[int], list[float]]:
    """Return the indices of structures in the order of choice, and the score of each when it was chosen.

    The score is the root mean square, over the rows of a structure, of the standard deviation in units of sigma. Ties
    are decided by the lower index.

    Args:
        rows: R of each structure, whitened; see `reduced`.
        n_rows: number of rows of each structure before they were reduced.
        known: information before the first choice, shape (n_features, n_features).
        n: number of structures to choose; all, if there are fewer.
    """
    begins = np.cumsum([0, *(len(each) for each in rows[:-1])])
    together, sizes = np.concatenate([*rows]), np.asarray(n_rows)
    order: list[int] = []
    scores: list[float] = []
    for _ in range(min(n, len(rows))):
        current = np.sqrt(np.add.reduceat(variances(together, known), begins) / sizes)
        ranks = rounded(current)
        left = [index for index in range(len(rows)) if index not in order]
        best = max(left, key=lambda index: (ranks[index], -index))
        order.append(best)
        scores.append(float(current[best]))
        known = known + rows[best].T @ rows[best]
    return order, scores
