"""Atomic energies (E0s) that a training fits when it starts from a foundation model.

Total energies are not suitable for this fit: bond energies, which the network already contains, would count twice.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from ase import Atoms
from ase.data import atomic_numbers, chemical_symbols

from surveyor.dataset import ENERGY, FORCES
from surveyor.dataset.weights import PROPERTY_WEIGHTS
from surveyor.files import write_atomically
from surveyor.models.atomic_energies import fit_atomic_energies

FITTED = "atomic_energies.json"  # in the directory of a training, by atomic number in eV: fitted and known ones


def fit_beside(begin: Mapping[str, float], fits: Sequence[str], rests: Sequence[Atoms]) -> dict[str, float]:
    """Return atomic energies in eV, some of them fitted to the residual energies of a network.

    Where the compositions do not tell the elements apart, the energies stay as close to those of the network as the
    data allow.

    Args:
        begin: in eV by chemical symbol: those of the network for elements that are fitted, known ones for others.
        fits: elements whose energies are fitted; those of the others stay.
        rests: the training data, labelled with their energies less those of the network with the energies `begin`.

    Raises:
        InputError: no energy counts.
    """
    kept = {symbol: 0.0 for symbol in begin if symbol not in fits}
    shifts = fit_atomic_energies(rests, kept, near=dict.fromkeys(fits, 0.0))
    return {symbol: energy + shifts.get(symbol, 0.0) for symbol, energy in begin.items()}


def with_rest(numbers: Sequence[int], rest: float, weight: float) -> Atoms:
    """Return atoms labelled with their residual energy in eV, for `fit_beside`, and the weight of that energy."""
    atoms = Atoms(numbers)
    atoms.info |= {ENERGY: rest, PROPERTY_WEIGHTS["energy"]: weight}
    atoms.arrays[FORCES] = np.zeros((len(atoms), 3))
    return atoms


def save_energies(path: Path, energies: Mapping[str, float]) -> None:
    """Write the file of a training's atomic energies, in eV by chemical symbol."""
    write_atomically(path, json.dumps({atomic_numbers[symbol]: energy for symbol, energy in energies.items()}))


def load_energies(path: Path) -> dict[str, float]:
    """Return the atomic energies of a training's file, in eV by chemical symbol."""
    return {chemical_symbols[int(number)]: float(energy) for number, energy in json.loads(path.read_text()).items()}


def energies_after(directory: Path) -> dict[str, float] | None:
    """Return the atomic energies of a training that has fitted some, in eV by chemical symbol; None if it fits none."""
    return load_energies(directory / FITTED) if (directory / FITTED).exists() else None
