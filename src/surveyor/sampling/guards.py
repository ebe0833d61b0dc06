"""Guards: they stop a walker that the potential leads to where no chemistry is."""

import numpy as np
from ase import Atoms

from surveyor.sampling.walkers import Rejection, Walkers, shortest_distance


def check(atoms: Atoms, forces: np.ndarray, conditions: Walkers, *, step: int) -> Rejection | None:
    """Check what is known at every step: that numbers are finite, the largest force, and the temperature.

    Args:
        atoms: the structure as the walker has it, with its momenta.
        forces: on its atoms in eV/Å, shape (n_atoms, 3).
        conditions: of the walker; they hold the limits.
        step: of the propagation, for the record.

    Returns:
        Why the walker has to be stopped, or None.
    """
    values = np.concatenate([atoms.positions, atoms.get_momenta(), forces, atoms.cell.array])
    n_not_finite = int(np.count_nonzero(~np.isfinite(values)))
    if n_not_finite:
        return Rejection("not_finite", step, n_not_finite, 0)
    largest = float(np.linalg.norm(forces, axis=1).max())
    if largest > conditions.max_force_eV_per_A:
        return Rejection("force", step, largest, conditions.max_force_eV_per_A)
    temperature = float(atoms.get_temperature())
    hottest = conditions.max_temperature_factor * conditions.temperature_K
    return Rejection("temperature", step, temperature, hottest) if temperature > hottest else None


def check_distances(atoms: Atoms, conditions: Walkers, *, step: int) -> Rejection | None:
    """Check that no two atoms, periodic images included, are closer than the limit.

    Args:
        atoms: the structure.
        conditions: of the walker; they hold the limit.
        step: of the propagation, for the record.

    Returns:
        Why the walker has to be stopped, or None.
    """
    shortest = shortest_distance(atoms, conditions.min_distance_A)
    return None if shortest is None else Rejection("distance", step, shortest, conditions.min_distance_A)
