"""The selectors `committee` and `farthest`: farthest points in the mean features of structures.

Farthest-point sampling chooses one point after the other: that which is farthest from all known and chosen ones.
"""

from collections.abc import Mapping, Sequence

import numpy as np
from ase import Atoms

from surveyor.models.committee import CommitteePotential
from surveyor.models.posterior import Posterior
from surveyor.models.uncertainty import FeaturePotential
from surveyor.potentials import Potential
from surveyor.selection.errors import unserved
from surveyor.selection.ranking import Chosen, best_first, chosen, rounded

SHORTLIST = 4  # times as many candidates as are chosen


def farthest(potential: Potential, candidates: Mapping[str, Atoms], requested: Sequence[Atoms], n: int) -> list[Chosen]:
    """Return the candidates that are farthest from the training set, the requested structures and each other.

    Args:
        potential: shows features. The training set is known if its model has a posterior.
        candidates: structures by name, in the order that decides ties.
        requested: structures that the model has not learned, but whose labels are requested.
        n: number of labels.
    """
    encoder = _with_features("farthest", potential)
    posterior: Posterior | None = getattr(potential, "posterior", None)
    points, known = _mean_features(encoder, [*candidates.values()]), _mean_features(encoder, requested)
    if posterior is not None:
        known = np.concatenate([posterior.means, known.reshape(-1, posterior.means.shape[1])])
    order, distances = farthest_points(points, known, n)
    return chosen([*candidates], order, distances)


def committee(
    potential: Potential, candidates: Mapping[str, Atoms], requested: Sequence[Atoms], n: int
) -> list[Chosen]:
    """Return candidates on which the members of a committee disagree, far from each other and from requested ones.

    They come from a shortlist: the candidates with the largest calibrated disagreement on the force on an atom, which
    is their score, in eV/Å. Without requested structures, the first one is that of the largest disagreement.

    Args:
        potential: of a committee whose members show features.
        candidates: structures by name, in the order that decides ties.
        requested: structures that the model has not learned, but whose labels are requested.
        n: number of labels.
    """
    if not isinstance(potential, CommitteePotential):
        raise unserved("committee", "a single model", "a committee", "train one, or choose informative")
    encoder = _with_features("committee", potential.members[0])
    names, structures = [*candidates], [*candidates.values()]
    disagreements = np.array([_largest(each.uncertainty) for each in potential.evaluate(structures)])
    shortlist = best_first(disagreements)[: SHORTLIST * n]  # ties among distances go to the larger disagreement
    points = _mean_features(encoder, [structures[index] for index in shortlist])
    order, _ = farthest_points(points, _mean_features(encoder, requested), n)
    indices = [shortlist[index] for index in order]
    return chosen(names, indices, disagreements[indices])


def farthest_points(points: np.ndarray, known: np.ndarray, n: int) -> tuple[list[int], list[float]]:
    """Return the indices of chosen points, and the distance of each to the nearest point known or chosen before it.

    Without known points, the first one is the point with the lowest index, at an infinite distance. Ties are decided
    by the lower index.

    Args:
        points: shape (n_points, n_features).
        known: shape (n_known, n_features); may be empty.
        n: number of points to choose; all, if there are fewer.
    """
    nearest = np.full(len(points), np.inf)
    for each in known:
        nearest = np.minimum(nearest, np.linalg.norm(points - each, axis=1))
    order: list[int] = []
    distances: list[float] = []
    for _ in range(min(n, len(points))):
        ranks = rounded(nearest)
        left = [index for index in range(len(points)) if index not in order]
        best = max(left, key=lambda index: (ranks[index], -index))
        order.append(best)
        distances.append(float(nearest[best]))
        nearest = np.minimum(nearest, np.linalg.norm(points - points[best], axis=1))
    return order, distances


def _with_features(selector: str, potential: Potential) -> FeaturePotential:
    if not hasattr(potential, "features"):
        raise unserved(
            selector,
            "a potential without features",
            "a potential of MACE, NequIP or the pair model",
            "choose walkers or random",
        )
    return potential  # type: ignore[return-value]  # it has features


def _mean_features(potential: FeaturePotential, structures: Sequence[Atoms]) -> np.ndarray:
    """Return the features of structures, averaged over their atoms, shape (n_structures, n_features)."""
    found = potential.features(structures) if structures else []
    return np.array([each.mean(axis=0, dtype=np.float64) for each in found])


def _largest(uncertainty: np.ndarray | None) -> float:
    return np.nan if uncertainty is None else float(uncertainty.max())
