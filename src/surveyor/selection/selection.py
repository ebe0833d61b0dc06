"""The selectors: which of the candidates are labelled.

They are pure functions of the candidates, the model and a seed. Neither the order in which candidates arrive nor the
last bits of a machine's arithmetic change the result: scores are rounded to 1e-6, and ties are decided by name.
"""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, get_args

import numpy as np
from ase import Atoms

from surveyor.errors import InputError
from surveyor.potentials import Potential, Prediction
from surveyor.selection.errors import unserved
from surveyor.selection.farthest import committee, farthest
from surveyor.selection.informative import informative
from surveyor.selection.ranking import Chosen

Selector = Literal["walkers", "random", "informative", "committee", "farthest"]
SELECTORS: tuple[Selector, ...] = get_args(Selector)
WITH_POSTERIOR: tuple[Selector, ...] = ("informative", "farthest")  # whose model is trained with its posterior
FRAME = "-step-"  # in the names of frames of a trajectory, beside that of its end
N_CANDIDATES = 2000  # whose scores are computed; of more, some are drawn at random

Scored = Callable[[Any, Mapping[str, Atoms], Sequence[Atoms], int], list[Chosen]]  # Any: the potential that it needs
BY_MODEL: Mapping[str, Scored] = {"informative": informative, "committee": committee, "farthest": farthest}


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
    """Return n candidates to label, best first; all, if there are fewer.

    Args:
        selector: one of `SELECTORS`.
        potential: deployed potential of the newest model; `walkers` and `random` need none.
        candidates: structures by name of the sample or frame.
        requested: structures whose labels are requested, but which the model has not learned.
        n: number of labels.
        seed: seed of what is random.
        max_error_meV_per_A: root mean square error of the forces on a structure beyond which its label would be
            discarded. If the potential states an uncertainty, candidates with a larger predicted error are chosen only
            after all others; they have no score.

    Raises:
        InputError: there is no such selector, or the potential cannot serve it.
    """
    check_name(selector)
    if n < 1 or not candidates:
        return ()
    if selector == "walkers":
        return _named(sorted(candidates, key=lambda name: (FRAME in name, name)), n)
    drawn = sorted(candidates, key=lambda name: _lot(seed, name))
    if selector == "random":
        return _named(drawn, n)
    if potential is None:
        raise unserved(selector, "no model", "the newest one", "choose walkers or random")
    considered = {name: candidates[name] for name in sorted(drawn[:N_CANDIDATES])}
    within, beyond = _by_predicted_error(potential, considered, max_error_meV_per_A)
    found = BY_MODEL[selector](potential, within, requested, n) if within else []
    return (*found, *_named([*beyond, *drawn[N_CANDIDATES:]], n - len(found)))


def check_name(selector: str) -> None:
    """Check the name of a selector.

    Raises:
        InputError: there is none of this name.
    """
    if selector not in SELECTORS:
        raise InputError(f"select: found {selector!r}, expected one of {', '.join(SELECTORS)}")


def _named(names: Sequence[str], n: int) -> tuple[Chosen, ...]:
    return tuple(Chosen(name) for name in names[: max(n, 0)])


def _lot(seed: int, name: str) -> str:
    # Each name has a lot of its own, so that a candidate which comes or goes does not change the order of the others.
    return hashlib.sha256(f"{seed} {name}".encode()).hexdigest()


def _by_predicted_error(
    potential: Potential, candidates: Mapping[str, Atoms], limit: float | None
) -> tuple[dict[str, Atoms], list[str]]:
    """Return the candidates within the limit, and the names of the others, the smallest predicted error first."""
    if limit is None:
        return {**candidates}, []
    predictions = potential.evaluate([*candidates.values()])
    errors = dict(zip(candidates, map(predicted_error, predictions), strict=True))
    within = {name: atoms for name, atoms in candidates.items() if errors[name] <= limit}
    return within, sorted(candidates.keys() - within.keys(), key=lambda name: (errors[name], name))


def predicted_error(prediction: Prediction) -> float:
    """Return the predicted root mean square error of the force components in meV/Å.

    It is 0 without an uncertainty, and infinite if the prediction is no number.
    """
    if prediction.uncertainty is None:
        return 0.0
    error = float(1e3 * np.sqrt(np.mean(np.square(prediction.uncertainty)) / 3))
    return error if np.isfinite(error) else np.inf
