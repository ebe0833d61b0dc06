"""Rigid motions, whose momenta the interactions within a structure conserve."""

import numpy as np
from ase import Atoms

DISPLACEMENT_A = 0.01  # takes structures out of special geometries, such as atoms in a line
NEGLIGIBLE = 1e-12  # squared singular values of fewer times the largest one are zero


def n_conserved_momenta(atoms: Atoms) -> int:
    """Return the number of momenta and angular momenta that the interactions within a structure conserve.

    The number does not depend on the current geometry, because a molecule that is linear at one moment bends, and then
    has one more rotation. Only constraints, or having two atoms, keep it linear.

    Args:
        atoms: the structure with its constraints; fixed atoms leave only rotations about them, or none.
    """
    copy, generator = atoms.copy(), np.random.default_rng(0)
    copy.set_positions(atoms.positions + generator.normal(0, DISPLACEMENT_A, (len(atoms), 3)))
    basis = _mass_weighted(copy, _conserved_motions(copy))
    return int(
        np.linalg.matrix_rank(basis.T @ basis, tol=NEGLIGIBLE * max(1.0, float((basis**2).sum())), hermitian=True)
    )


def without_rigid_motions(atoms: Atoms) -> np.ndarray:
    """Return the momenta of a structure without those that its interactions conserve, shape (n_atoms, 3)."""
    weights = np.sqrt(atoms.get_masses())[:, np.newaxis]
    basis, momenta = _mass_weighted(atoms, _conserved_motions(atoms)), atoms.get_momenta()
    inverse = np.linalg.pinv(basis.T @ basis, rcond=NEGLIGIBLE, hermitian=True)
    rigid = basis @ (inverse @ (basis.T @ (momenta / weights).ravel()))
    without: np.ndarray = momenta - weights * rigid.reshape(-1, 3)
    return without


def _mass_weighted(atoms: Atoms, motions: np.ndarray) -> np.ndarray:
    """Return motions times the square roots of the masses, as columns, shape (3 n_atoms, n_motions)."""
    weights = np.sqrt(atoms.get_masses())[:, np.newaxis]
    columns: np.ndarray = (motions * weights).reshape(len(motions), 3 * len(atoms)).T
    return columns


def _conserved_motions(atoms: Atoms) -> np.ndarray:
    """Return the velocities of translations and rotations that constraints let be, shape (n_motions, n_atoms, 3)."""
    motions = _rigid_motions(atoms)
    if not atoms.constraints:
        return motions
    changes = np.array([_change_by_constraints(atoms, motion) for motion in motions])
    sizes, combinations = np.linalg.eigh(changes @ changes.T)
    is_unchanged = sizes <= NEGLIGIBLE * max(1.0, float(sizes[-1]))
    return np.tensordot(combinations[:, is_unchanged].T, motions, 1)


def _change_by_constraints(atoms: Atoms, velocities: np.ndarray) -> np.ndarray:
    masses = atoms.get_masses()[:, np.newaxis]
    momenta = masses * velocities
    for constraint in atoms.constraints:
        constraint.adjust_momenta(atoms, momenta)
    return np.ravel(momenta / masses - velocities)


def _rigid_motions(atoms: Atoms) -> np.ndarray:
    centred = atoms.positions - atoms.positions.mean(axis=0)
    translations = np.repeat(np.eye(3)[:, np.newaxis], len(atoms), axis=1)
    rotations = np.cross(_axes(atoms)[:, np.newaxis], centred)
    return np.concatenate([translations, rotations])


def _axes(atoms: Atoms) -> np.ndarray:
    """Return the axes about which a structure turns into an equivalent one, shape (n_axes, 3)."""
    if not atoms.pbc.any():
        return np.eye(3)
    periodic = atoms.cell.array[atoms.pbc]
    return periodic / np.linalg.norm(periodic) if len(periodic) == 1 else np.zeros((0, 3))
