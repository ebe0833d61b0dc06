"""The selectors: which of the candidates are labelled.

They are pure functions of the candidates, the model and a seed: neither the order in which candidates arrive nor the
last bits of a machine's arithmetic change what is chosen. Scores are rounded to 1e-6, and ties are decided by name.
"""

import hashlib
from collections.abc import Mapping, Sequence
from typing import Literal, get_args

import numpy as np
from ase import Atoms

from surveyor.errors import InputError
from surveyor.potentials import Potential
from surveyor.selection.farthest import farthest_points
from surveyor.selection.ranking import Chosen, chosen

Selector = Literal["walkers", "random", "informative", "committee", "farthest"]
SELECTORS: tuple[Selector, ...] = get_args(Selector)
FRAME = "-step-"  # in the names of frames of a trajectory, beside that of its end


def choose(
    selector: str,
    potential: Potential | None,
    candidates: Mapping[str, Atoms],
    requested: Sequence[Atoms],
    n: int,
    *,
    seed: int,
    max_error_meV_per_A: float | None = None,
) -> tuple[Chosen, ...]:
    """Return the candidates to label, best first; all of them if there are no more than n.

    Args:
        selector: one of `SELECTORS`.
        potential: deployed potential of the newest model; None is enough for `walkers` and `random`.
        candidates: structures by name of the sample or frame.
        requested: structures whose labels are requested, and which the model has not learned.
        n: number of labels.
        seed: seed of what is random.
        max_error_meV_per_A: root mean square error of forces beyond which a label would be discarded. Candidates with
            a larger predicted error are chosen only after all others, where the model predicts its error.

    Raises:
        InputError: there is no such selector, or the potential cannot serve it.
    """
    if selector not in SELECTORS:
        raise InputError(f"select: found {selector!r}, expected one of {', '.join(SELECTORS)}")
    names = sorted(candidates)
    if selector == "walkers":
        return tuple(map(Chosen, sorted(names, key=lambda name: (FRAME in name, name))[: max(n, 0)]))
    if selector == "random":
        return tuple(map(Chosen, sorted(names, key=lambda name: _lot(seed, name))[: max(n, 0)]))
    if selector == "farthest" and potential is not None:
        means = mean_features(potential, [candidates[name] for name in names])
        order, distances = farthest_points(means, mean_features(potential, requested), n)
        return tuple(chosen(names, order, distances))
    raise InputError(f"select: {selector} is not available yet")


def _lot(seed: int, name: str) -> str:
    # Each name has a lot of its own, so that a candidate which comes or goes does not change the order of the others.
    return hashlib.sha256(f"{seed} {name}".encode()).hexdigest()


def mean_features(potential: Potential, structures: Sequence[Atoms]) -> np.ndarray:
    """Return the features of each structure, averaged over its atoms, shape (n_structures, n_features)."""
    if not hasattr(potential, "features"):
        raise InputError("the potential shows no features")
    if not structures:
        return np.zeros((0, 0))
    return np.array([each.mean(axis=0) for each in potential.features(structures)], dtype=np.float64)
