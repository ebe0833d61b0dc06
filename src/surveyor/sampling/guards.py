"""Guards, which stop a walker where its structure makes no chemical sense or its potential is uncertain."""

from dataclasses import dataclass
from functools import cache

import numpy as np
from ase import Atoms
from ase.data import covalent_radii
from ase.neighborlist import neighbor_list
from scipy.special import gammainccinv

from surveyor.potentials import Contact, Potential
from surveyor.sampling.conditions import MOVING_CELL, Walkers
from surveyor.sampling.integrators import temperature_of
from surveyor.sampling.walkers import Rejection

AUTO_FACTOR, AUTO_LEAST = 3.0, 100.0  # typical largest errors, and meV/Å: the limit `auto` of the uncertainty
# meV/Å: of committees, and `auto` of those of earlier versions, which do not know their error
DEFAULT_LIMIT = 500.0
UNHEARD_OF = 1e-12  # a temperature that is less probable than this at equilibrium is none of equilibrium


@dataclass(frozen=True, slots=True, eq=False)
class Readings:
    """The quantities of a walker at a step that are available without further computation.

    Attributes:
        step: step of the propagation.
        forces: forces in eV/Å, shape (n_atoms, 3).
        energy: potential and kinetic energy, including the bias, in eV.
        n_degrees: number of degrees of freedom that share the kinetic energy.
        uncertainty: of the force on each atom in eV/Å, shape (n_atoms,), or None; see `Prediction`.
    """

    step: int
    forces: np.ndarray
    energy: float
    n_degrees: int
    uncertainty: np.ndarray | None = None


def check(
    atoms: Atoms, readings: Readings, conditions: Walkers, *, volume: float, energy: float | None
) -> Rejection | None:
    """Check the guards that cost nothing, at every step.

    Args:
        atoms: the structure as the walker has it, with its momenta.
        readings: at this step.
        conditions: of the walker; they hold the limits.
        volume: of its start, in Å³.
        energy: at the beginning of the propagation, in eV; None where it is not known.

    Returns:
        Why the walker has to be stopped, or None.
    """
    step = readings.step
    values = np.concatenate([atoms.positions, atoms.get_momenta(), readings.forces, atoms.cell.array])
    n_not_finite = int(np.count_nonzero(~np.isfinite(values)))
    if n_not_finite or not np.isfinite(readings.energy):
        return Rejection("not_finite", step, max(1, n_not_finite), 0)
    return (
        _check_motion(atoms, readings, conditions)
        or _check_volume(atoms, conditions, volume, step)
        or _check_energy(atoms, readings, conditions, energy)
    )


def _check_motion(atoms: Atoms, readings: Readings, conditions: Walkers) -> Rejection | None:
    if conditions.is_optimisation:
        return None  # it begins where forces are large, and nothing moves
    largest = float(np.linalg.norm(readings.forces, axis=1).max())
    if largest > conditions.max_force_eV_per_A:
        return Rejection("force", readings.step, largest, conditions.max_force_eV_per_A)
    temperature, hottest = temperature_of(atoms, readings.n_degrees), hottest_K(conditions, readings.n_degrees)
    return Rejection("temperature", readings.step, temperature, hottest) if temperature > hottest else None


def hottest_K(conditions: Walkers, n_degrees: int) -> float:
    """Return the highest temperature that the guard allows.

    The fewer degrees of freedom there are, the further their temperature fluctuates: the guard allows what a canonical
    distribution of kinetic energies may bring.
    """
    target = max(conditions.temperature_K, conditions.final_temperature_K or 0.0)
    fluctuation = _largest_fluctuation(n_degrees) if n_degrees > 0 else 0.0
    return target * max(conditions.max_temperature_factor, fluctuation)


@cache
def _largest_fluctuation(n_degrees: int) -> float:
    """Return how many times its mean the kinetic energy may be at equilibrium."""
    return float(gammainccinv(n_degrees / 2, UNHEARD_OF) * 2 / n_degrees)  # of a gamma distribution


def _check_volume(atoms: Atoms, conditions: Walkers, volume: float, step: int) -> Rejection | None:
    if conditions.method not in MOVING_CELL:
        return None
    ratio = float(atoms.get_volume()) / volume
    factor = max(ratio, 1 / ratio) if ratio > 0 else np.inf
    return (
        Rejection("volume", step, factor, conditions.max_volume_factor)
        if factor > conditions.max_volume_factor
        else None
    )


def _check_energy(atoms: Atoms, readings: Readings, conditions: Walkers, energy: float | None) -> Rejection | None:
    is_isolated = conditions.plumed is None and not (conditions.has_moving_centres and conditions.ramp_by == "steps")
    if conditions.method != "nve" or not is_isolated or energy is None:
        return None
    drift = 1e3 * abs(readings.energy - energy) / len(atoms)
    limit = conditions.max_energy_drift_meV_per_atom
    return Rejection("energy_drift", readings.step, drift, limit) if drift > limit else None


def check_distances(
    atoms: Atoms, conditions: Walkers, *, step: int, contact: Contact | None = None
) -> Rejection | None:
    """Check that no two atoms, periodic images included, are closer than the limit.

    Args:
        atoms: the structure.
        conditions: of the walker; they hold the limits.
        step: of the propagation.
        contact: how close the atoms come, if the potential has said so; a structure that passes by it needs no
            neighbour list.
    """
    longest = _longest_limit(atoms, conditions)
    if contact is not None and _passes(contact, conditions, longest):
        return None
    first, second, distances = neighbor_list("ijd", atoms, longest)
    radii = covalent_radii[atoms.numbers]
    limits = np.maximum(conditions.min_distance_A, conditions.min_distance_factor * (radii[first] + radii[second]))
    is_close = distances < limits
    if not is_close.any():
        return None
    worst = np.argmin(np.where(is_close, distances - limits, np.inf))
    return Rejection("distance", step, float(distances[worst]), float(limits[worst]))


def _passes(contact: Contact, conditions: Walkers, longest_A: float) -> bool:
    is_far = contact.distance_A > conditions.min_distance_A and contact.in_radii > conditions.min_distance_factor
    return is_far and longest_A < contact.reach_A


def _longest_limit(atoms: Atoms, conditions: Walkers) -> float:
    """Return the longest limit there may be between two atoms of a structure, in Å."""
    largest = 2 * conditions.min_distance_factor * float(covalent_radii[atoms.numbers].max())
    return max(conditions.min_distance_A, largest)


def uncertainty_limit(conditions: Walkers, potential: Potential | None) -> float:
    """Return the largest uncertainty that the guard allows, in meV/Å.

    Args:
        conditions: of the walker.
        potential: on which it moves. Its attribute `typical_error` in eV/Å, if it has one, is that on its validation
            set, see `surveyor.dataset.metrics.typical_error`; with an attribute `coverage`, its uncertainty is a bound.
    """
    error, coverage = (getattr(potential, name, None) for name in ("typical_error", "coverage"))
    wanted = conditions.max_uncertainty_meV_per_A or (DEFAULT_LIMIT if coverage is None else "auto")
    if wanted != "auto":
        return wanted
    return DEFAULT_LIMIT if error is None else max(AUTO_LEAST, AUTO_FACTOR * 1e3 * error)


def check_uncertainty(readings: Readings, limit: float) -> Rejection | None:
    """Check that the potential is certain of the force on each atom.

    Args:
        readings: at this step.
        limit: largest uncertainty allowed, in meV/Å.
    """
    if readings.uncertainty is None:
        return None
    largest = float(1e3 * readings.uncertainty.max())
    return Rejection("uncertainty", readings.step, largest, limit) if largest > limit else None


def check_wall_time(seconds: float, conditions: Walkers, *, step: int) -> Rejection | None:
    """Check how long a propagation has taken."""
    minutes, limit = seconds / 60, conditions.max_wall_time_minutes
    return Rejection("wall_time", step, minutes, limit) if minutes > limit else None
