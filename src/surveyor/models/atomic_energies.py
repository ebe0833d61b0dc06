"""Energies of isolated atoms (E0s), from which models learn the difference."""

from collections.abc import Mapping, Sequence

import numpy as np
from ase import Atoms

from surveyor.dataset import Dataset, label_of
from surveyor.errors import InputError
from surveyor.structures import elements_of
from surveyor.weights import weight_of

RANK_TOLERANCE = 1e-8  # singular values of the compositions below this fraction of the largest count as zero


def fit_atomic_energies(dataset: Sequence[Atoms]) -> dict[str, float]:
    """Return the energy in eV of each element that fits the total energies best, by weighted least squares per atom.

    Where the compositions do not tell the elements apart (one composition leaves all but their sum open), the solution
    closest to equal energies is taken, so that the result never depends on noise.

    Args:
        dataset: labelled structures; energies of weight 0 do not count.

    Raises:
        InputError: there are no structures, or none whose energy counts.

    Example:
        >>> from ase.build import molecule
        >>> water, hydrogen = molecule("H2O"), molecule("H2")
        >>> water.info["REF_energy"], hydrogen.info["REF_energy"] = -14.0, -2.0
        >>> water.arrays["REF_forces"], hydrogen.arrays["REF_forces"] = 0 * water.positions, 0 * hydrogen.positions
        >>> {symbol: round(energy, 6) for symbol, energy in fit_atomic_energies([water, hydrogen]).items()}
        {'H': -1.0, 'O': -12.0}
    """
    if not dataset:
        raise InputError(
            "atomic energies cannot be fitted without labelled structures; give data, or give the atomic energies"
        )
    symbols, counted = elements_of(dataset), [atoms for atoms in dataset if weight_of(atoms, "energy") > 0]
    if not counted:
        raise InputError("atomic energies cannot be fitted where all energies have weight 0; give the atomic energies")
    counts = np.array(
        [[np.count_nonzero(atoms.symbols == symbol) for symbol in symbols] for atoms in counted], dtype=float
    )
    n_atoms = counts.sum(axis=1)
    energies = np.array([label_of(atoms).energy for atoms in counted]) / n_atoms
    weights = np.array([weight_of(atoms, "energy") for atoms in counted])
    mean = float(np.average(energies, weights=weights))
    # Least squares of the deviations from the mean has the solution of smallest norm, which is closest to the mean.
    rows, targets = np.sqrt(weights)[:, None] * counts / n_atoms[:, None], np.sqrt(weights) * (energies - mean)
    deviations, *_ = np.linalg.lstsq(rows, targets, rcond=RANK_TOLERANCE)
    return {symbol: mean + float(deviation) for symbol, deviation in zip(symbols, deviations, strict=True)}


def resolve_atomic_energies(train: Dataset, given: Mapping[str, float] | None) -> dict[str, float]:
    """Return the atomic energies of the elements that a model knows: those given, or fitted where none are given.

    Args:
        train: labelled structures.
        given: energy in eV by chemical symbol, for at least the elements in the data.

    Raises:
        InputError: the data are empty, or hold elements for which no energy is given.
    """
    if not train:
        raise InputError("a model cannot be initialized without labelled structures; the training set is empty")
    if given is None:
        return fit_atomic_energies(train)
    missing = [symbol for symbol in elements_of(train) if symbol not in given]
    if missing:
        raise InputError(
            f"no atomic energy is given for {', '.join(missing)}, which the data hold; "
            f"found energies for {', '.join(given) or 'no element'}. Give one for each element, or none to fit all"
        )
    # Elements of structures that came to another set are known, too.
    return {symbol: float(energy) for symbol, energy in given.items()}
