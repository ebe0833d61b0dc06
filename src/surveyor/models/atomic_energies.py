"""Energies of isolated atoms (E0s), from which models learn the difference."""

from collections.abc import Mapping, Sequence

import numpy as np
from ase import Atoms
from ase.data import atomic_numbers

from surveyor.dataset import Dataset, label_of
from surveyor.dataset.isolated_atoms import check_agreement, energies_of, named, without_isolated_atoms
from surveyor.dataset.weights import weight_of
from surveyor.errors import InputError
from surveyor.structures import elements_of

RANK_TOLERANCE = 1e-8  # singular values of the compositions below this fraction of the largest count as zero


def fit_atomic_energies(
    dataset: Sequence[Atoms], known: Mapping[str, float] | None = None, *, near: Mapping[str, float] | None = None
) -> dict[str, float]:
    """Return the energy in eV of each element that fits the total energies best, by weighted least squares.

    Where the compositions do not tell the elements apart (one composition leaves all but their sum open), the solution
    of least squared distance to expected energies is taken, so that the result never depends on noise.

    Args:
        dataset: labelled structures; energies of weight 0 do not count.
        known: energies in eV by chemical symbol, which are kept; those of the other elements are fitted.
        near: expected energies in eV of the other elements; None expects one energy for all of them.

    Raises:
        InputError: there are no structures, or energies are to be fitted and none counts.

    Example:
        >>> from ase.build import molecule
        >>> water, hydrogen = molecule("H2O"), molecule("H2")
        >>> water.info["REF_energy"], hydrogen.info["REF_energy"] = -14.0, -2.0
        >>> water.arrays["REF_forces"], hydrogen.arrays["REF_forces"] = 0 * water.positions, 0 * hydrogen.positions
        >>> {symbol: round(energy, 6) for symbol, energy in fit_atomic_energies([water, hydrogen]).items()}
        {'H': -1.0, 'O': -12.0}
        >>> {symbol: round(energy, 6) for symbol, energy in fit_atomic_energies([water], {"H": -0.5}).items()}
        {'H': -0.5, 'O': -13.0}
    """
    if not dataset:
        raise InputError(
            "atomic energies cannot be fitted without labelled structures; give data, or give the atomic energies"
        )
    symbols = elements_of(dataset)
    kept = {symbol: float(energy) for symbol, energy in (known or {}).items() if symbol in symbols}
    open_ = [symbol for symbol in symbols if symbol not in kept]
    found = kept | (_fitted(dataset, kept, open_, near) if open_ else {})
    return {symbol: found[symbol] for symbol in symbols}


def _fitted(
    dataset: Sequence[Atoms], kept: Mapping[str, float], open_: Sequence[str], near: Mapping[str, float] | None
) -> dict[str, float]:
    """Return the energies in eV of the elements that are open, with those of the others kept."""
    counted = [atoms for atoms in dataset if weight_of(atoms, "energy") > 0]
    if not counted:
        raise InputError("atomic energies cannot be fitted where all energies have weight 0; give the atomic energies")
    rests = np.array([label_of(atoms).energy / len(atoms) for atoms in counted])
    rests -= _fractions(counted, list(kept)) @ np.array(list(kept.values()))
    fractions, weights = _fractions(counted, open_), np.array([weight_of(atoms, "energy") for atoms in counted])
    expected = _equal(fractions, rests, weights) if near is None else np.array([near[symbol] for symbol in open_])
    return dict(zip(open_, _least_squares(fractions, rests, weights, expected).tolist(), strict=True))


def _fractions(dataset: Sequence[Atoms], symbols: Sequence[str]) -> np.ndarray:
    """Return the fraction of each element among the atoms of each structure, shape (n_structures, n_symbols)."""
    numbers = np.array([atomic_numbers[symbol] for symbol in symbols], dtype=int)
    rows = [np.mean(atoms.numbers[:, None] == numbers, axis=0) for atoms in dataset]
    return np.array(rows).reshape(len(dataset), len(symbols))


def _equal(fractions: np.ndarray, energies: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Return the one energy in eV that fits best for all elements, shape (n_symbols,); 0 where no structure has one."""
    shares = fractions.sum(axis=1)
    norm = (weights * shares) @ shares
    return np.full(fractions.shape[1], (weights * shares) @ energies / norm if norm else 0.0)


def _least_squares(
    fractions: np.ndarray, energies: np.ndarray, weights: np.ndarray, expected: np.ndarray
) -> np.ndarray:
    """Return the energies of elements in eV, shape (n_symbols,): of all solutions the one closest to those expected."""
    # Least squares of the deviations has the solution of smallest norm.
    roots = np.sqrt(weights)
    deviations, *_ = np.linalg.lstsq(
        roots[:, None] * fractions, roots * (energies - fractions @ expected), rcond=RANK_TOLERANCE
    )
    found: np.ndarray = expected + deviations
    return found


def known_atomic_energies(train: Dataset, given: Mapping[str, float] | None) -> dict[str, float]:
    """Return the atomic energies that need no fit: those given, and those of isolated atoms in the data.

    Args:
        train: labelled structures.
        given: energies in eV by chemical symbol, including those of elements that occur only in another set.

    Raises:
        InputError: all structures are isolated atoms, or their energies contradict each other or the given ones.
    """
    rows, isolated = without_isolated_atoms(train), energies_of(named(dict(enumerate(train))))
    if not rows:
        raise InputError(
            "a model cannot be initialized without labelled structures; the training set is empty, or holds isolated "
            "atoms alone"
        )
    given = {symbol: float(energy) for symbol, energy in (given or {}).items()}
    check_agreement(given, isolated, "atomic energies", "correct what is given, or remove the isolated atom")
    present = elements_of(rows)
    return {symbol: energy for symbol, energy in isolated.items() if symbol in present} | given
