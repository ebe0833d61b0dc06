"""Outliers among the energies of structures, found by robust statistics."""

from collections.abc import Sequence

import numpy as np
from ase import Atoms

# Structures of one composition differ by the bonds that are broken and by their distortion. The strongest bond, that of
# CO, takes 11.2 eV; in large structures, whose bonds do not all break, 1 eV/atom is ten times the heat of a melt.
BOND_EV = 12.0
PER_ATOM_EV = 1.0
# Compositions of few structures are compared with a fit of atomic energies, from which oxides are up to 6 eV/atom off.
OF_FIT_EV = 10.0
N_OF_ONE = 8  # structures, from which on a composition has a median and a spread of its own
N_SPREADS = 20.0  # skewed tails of thermal and of random structures end earlier
SPREAD = 1.4826  # standard deviations of a normal distribution in one median absolute deviation
# A structure E above a minimum, at the distance x from it, has forces of about 2 E / x; atoms move by 2 Å or less.
DISTORTION_A = 1.0
N_ITERATIONS = 50
SMALLEST_EV = 1e-3  # residual whose weight in the robust fit is the largest
RANK_TOLERANCE = 1e-8


def deviations(structures: Sequence[Atoms], energies: np.ndarray, forces: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return how far energies are from those expected, and which are further than is plausible.

    Structures of a frequent composition are compared with their median; others with a sum of atomic energies that
    minimizes absolute residuals (least absolute deviations, which outliers do not move). An energy that is too high is
    plausible where the forces are large in proportion.

    Args:
        structures: labelled.
        energies: in eV/atom, shape (n_structures,).
        forces: root mean square over the atoms of each structure in eV/Å, shape (n_structures,).

    Returns:
        Deviations in eV/atom, and whether they are implausible, each of shape (n_structures,).
    """
    n_atoms = np.array([len(atoms) for atoms in structures])
    kinds, fractions = _compositions(structures)
    sizes = np.bincount(kinds)
    members = np.split(np.argsort(kinds, kind="stable"), np.cumsum(sizes)[:-1])
    medians = np.array([np.median(energies[each]) for each in members])
    residuals = energies - (fractions @ _robust_energies(fractions, medians, sizes))[kinds]
    by = residuals - np.median(residuals)
    limits = np.full(len(energies), max(OF_FIT_EV, N_SPREADS * _spread(residuals)))
    for kind in np.flatnonzero(sizes >= N_OF_ONE):
        each = members[kind]
        by[each] = energies[each] - medians[kind]
        limits[each] = max(PER_ATOM_EV, N_SPREADS * _spread(energies[each]))
    limits = np.maximum(limits, BOND_EV / n_atoms)
    is_explained = (by > 0) & (by <= DISTORTION_A * forces)
    return by, (np.abs(by) > limits) & ~is_explained


def _compositions(structures: Sequence[Atoms]) -> tuple[np.ndarray, np.ndarray]:
    """Return the number of each structure's composition, and the fraction of each element in each composition."""
    known: dict[bytes, int] = {}
    first: list[np.ndarray] = []
    kinds = []
    for atoms in structures:
        numbers = np.sort(atoms.numbers)
        kind = known.setdefault(numbers.tobytes(), len(known))
        if kind == len(first):
            first.append(numbers)
        kinds.append(kind)
    elements = np.unique(np.concatenate(first))
    return np.array(kinds), np.array([np.mean(numbers[:, None] == elements, axis=0) for numbers in first])


def _robust_energies(fractions: np.ndarray, energies: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """Return energies of elements in eV with the smallest sum of absolute residuals, by reweighted least squares."""
    weights = np.sqrt(sizes.astype(float))
    found = np.zeros(fractions.shape[1])
    for _ in range(N_ITERATIONS):
        found, *_ = np.linalg.lstsq(weights[:, None] * fractions, weights * energies, rcond=RANK_TOLERANCE)
        weights = np.sqrt(sizes / np.maximum(np.abs(energies - fractions @ found), SMALLEST_EV))
    return found


def _spread(values: np.ndarray) -> float:
    """Return a robust estimate of the standard deviation, which outliers hardly change."""
    return SPREAD * float(np.median(np.abs(values - np.median(values))))
