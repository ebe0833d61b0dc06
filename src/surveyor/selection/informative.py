"""The selector `informative`: greedy posterior variance in the last-layer features of a single model."""

from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np
from ase import Atoms

from surveyor.models.posterior import FILE, GradientPotential, Posterior, gradients_of
from surveyor.selection.errors import unserved
from surveyor.selection.ranking import Chosen, best_first, chosen
from surveyor.selection.variance import greedy, information, reduced, variances

SHORTLIST = 4  # times as many candidates as are chosen
Rows = tuple[np.ndarray, int]  # whitened and reduced rows of a structure, and their number before


def informative(
    potential: GradientPotential, candidates: Mapping[str, Atoms], requested: Sequence[Atoms], n: int
) -> list[Chosen]:
    """Return the candidates whose labels reduce the posterior variance most, one after the other.

    Only a shortlist has its posterior variance computed: the candidates with an atom that is farthest, in its features,
    from the atoms of the training set and of the requested structures.

    Args:
        potential: of a model with a posterior.
        candidates: structures by name, in the order that decides ties.
        requested: structures that the model has not learned, but whose labels are requested.
        n: number of labels.
    """
    posterior = posterior_of(potential)
    names, structures = [*candidates], [*candidates.values()]
    far = best_first(farthest_atoms(potential, posterior, structures, requested))
    shortlist = sorted(far[: SHORTLIST * n])
    rows = rows_of(potential, posterior, [*(structures[index] for index in shortlist), *requested])
    known = information(len(posterior.whitening), (each for each, _ in rows[len(shortlist) :]))
    reduced_rows, n_rows = zip(*rows[: len(shortlist)], strict=True)
    order, scores = greedy(reduced_rows, n_rows, known, n)
    return chosen(names, [shortlist[index] for index in order], scores)


def posterior_of(potential: GradientPotential) -> Posterior:
    """Return the posterior of the model of a potential.

    Raises:
        InputError: there is none.
    """
    posterior: Posterior | None = getattr(potential, "posterior", None)
    if posterior is None:
        raise unserved(
            "informative",
            f"a model without {FILE}",
            "a single model that was trained for this selector",
            "train it with this selector, or choose walkers or random until then",
        )
    return posterior


def farthest_atoms(
    potential: GradientPotential, posterior: Posterior, structures: Sequence[Atoms], requested: Sequence[Atoms]
) -> np.ndarray:
    """Return the largest distance of an atom of each structure to known atoms, shape (n_structures,)."""
    features = [each @ posterior.atoms_whitening for each in potential.features([*structures, *requested])]
    known = information(len(posterior.atoms_whitening), features[len(structures) :])
    own = features[: len(structures)]
    begins = np.cumsum([0, *(len(each) for each in own[:-1])])
    return np.asarray(np.sqrt(np.maximum.reduceat(variances(np.concatenate(own), known), begins)))


def rows_of(potential: GradientPotential, posterior: Posterior, structures: Sequence[Atoms]) -> list[Rows]:
    """Return the rows of each structure; those of an earlier call with the same model are not computed again."""
    path = potential.posterior_file
    known = {} if path is None else _kept(path, path.stat().st_mtime_ns)
    keys = [_key(atoms) for atoms in structures]
    missing = {key: atoms for key, atoms in zip(keys, structures, strict=True) if key not in known}
    for key, (_, features, gradients) in zip(missing, gradients_of(potential, [*missing.values()]), strict=True):
        rows = posterior.rows(features, gradients)
        known[key] = reduced(rows @ posterior.whitening), len(rows)
    for key in known.keys() - {*keys}:
        del known[key]
    return [known[key] for key in keys]


@lru_cache(maxsize=1)
def _kept(_path: Path, _modified_ns: int) -> dict[bytes, Rows]:
    return {}


def _key(atoms: Atoms) -> bytes:
    arrays = (atoms.numbers, atoms.positions, atoms.cell.array, atoms.pbc)
    return b"".join(array.tobytes() for array in arrays)
