"""Energies of isolated atoms (E0s), from which models learn the difference."""

from collections.abc import Mapping, Sequence

import numpy as np
from ase import Atoms
from ase.data import atomic_numbers

from surveyor.dataset import Dataset, label_of
from surveyor.errors import InputError
from surveyor.isolated_atoms import check_agreement, energies_of, named, without_isolated_atoms
from surveyor.structures import elements_of
from surveyor.weights import weight_of

RANK_TOLERANCE = 1e-8  # singular values of the compositions below this fraction of the largest count as zero


def fit_atomic_energies(dataset: Sequence[Atoms], known: Mapping[str, float] | None = None) -> dict[str, float]:
    """Return the energy in eV of each element that fits the total energies best, by weighted least squares.

    Where the compositions do not tell the elements apart (one composition leaves all but their sum open), the solution
    closest to equal energies is taken, so that the result never depends on noise.

    Args:
        dataset: labelled structures; energies of weight 0 do not count.
        known: energies in eV by chemical symbol, which are kept; those of the other elements are fitted.

    Raises:
        InputError: there are no structures, or none whose energy counts.

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
    symbols, counted = elements_of(dataset), [atoms for atoms in dataset if weight_of(atoms, "energy") > 0]
    if not counted:
        raise InputError("atomic energies cannot be fitted where all energies have weight 0; give the atomic energies")
    kept = {symbol: float(energy) for symbol, energy in (known or {}).items() if symbol in symbols}
    fitted = [symbol for symbol in symbols if symbol not in kept]
    energies = np.array([label_of(atoms).energy / len(atoms) for atoms in counted])
    energies -= _fractions(counted, list(kept)) @ np.array(list(kept.values()))
    weights = np.array([weight_of(atoms, "energy") for atoms in counted])
    found = kept | dict(zip(fitted, _least_squares(_fractions(counted, fitted), energies, weights), strict=True))
    return {symbol: found[symbol] for symbol in symbols}


def _fractions(dataset: Sequence[Atoms], symbols: Sequence[str]) -> np.ndarray:
    """Return the fraction of each element among the atoms of each structure, shape (n_structures, n_symbols)."""
    numbers = np.array([atomic_numbers[symbol] for symbol in symbols], dtype=int)
    rows = [np.mean(atoms.numbers[:, None] == numbers, axis=0) for atoms in dataset]
    return np.array(rows).reshape(len(dataset), len(symbols))


def _least_squares(fractions: np.ndarray, energies: np.ndarray, weights: np.ndarray) -> list[float]:
    """Return the energies of elements in eV, of all solutions the one closest to equal energies."""
    if not fractions.any():
        return [0.0] * fractions.shape[1]
    shares = fractions.sum(axis=1)
    equal = float((weights * shares) @ energies / ((weights * shares) @ shares))
    # Least squares of the deviations from equal energies has the solution of smallest norm, which is closest to them.
    roots = np.sqrt(weights)
    deviations, *_ = np.linalg.lstsq(
        roots[:, None] * fractions, roots * (energies - equal * shares), rcond=RANK_TOLERANCE
    )
    return [equal + float(deviation) for deviation in deviations]


def resolve_atomic_energies(train: Dataset, given: Mapping[str, float] | None) -> dict[str, float]:
    """Return the atomic energies of the elements that a model knows.

    They are those given and those of isolated atoms in the data; those of other elements are fitted to the other
    structures, if none are given.

    Args:
        train: labelled structures.
        given: energy in eV by chemical symbol, for the elements in the data of which there is no isolated atom.

    Raises:
        InputError: there is nothing but isolated atoms, they contradict each other or what is given, or the data hold
            elements for which no energy is given.
    """
    rows, isolated = without_isolated_atoms(train), energies_of(named(dict(enumerate(train))))
    if not rows:
        raise InputError(
            "a model cannot be initialized without labelled structures; the training set is empty, or holds isolated "
            "atoms alone"
        )
    if given is None:
        return fit_atomic_energies(rows, isolated)
    check_agreement(given, isolated, "atomic energies", "correct what is given, or remove the isolated atom")
    present = elements_of(rows)
    supplied = {symbol: energy for symbol, energy in isolated.items() if symbol in present} | dict(given)
    missing = [symbol for symbol in present if symbol not in supplied]
    if missing:
        raise InputError(
            f"no atomic energy is given for {', '.join(missing)}, which the data hold; "
            f"found energies for {', '.join(supplied) or 'no element'}. Give one for each element, or none to fit all"
        )
    # Elements of structures that came to another set are known, too.
    return {symbol: float(energy) for symbol, energy in supplied.items()}
