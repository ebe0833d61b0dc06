"""Random perturbation of a structure."""

import numpy as np
from ase import Atoms

from surveyor.structures import at_rest


def perturb(atoms: Atoms, *, amplitude_A: float, amplitude_strain: float, generator: np.random.Generator) -> Atoms:
    """Return a copy with displaced atoms and, if it is periodic, a strained cell.

    The strain is symmetric. It acts within the space spanned by the periodic cell vectors: a bulk structure is strained
    in all directions, a slab in its plane, a molecule not at all. Atoms follow the strain; atoms fixed by ASE
    constraints are not displaced otherwise. The copy has neither constraints nor momenta.

    Args:
        atoms: a structure.
        amplitude_A: standard deviation of the Gaussian displacement of each coordinate, in Å.
        amplitude_strain: each component of the strain is uniform between minus and plus this number.
        generator: random generator; the same numbers are drawn for any periodicity.

    Returns:
        The perturbed structure in canonical coordinates.
    """
    components = generator.uniform(-amplitude_strain, amplitude_strain, size=6)
    displacements = generator.normal(scale=amplitude_A, size=(len(atoms), 3))
    copy = atoms.copy()
    deformation = np.eye(3) + _within_periodic_space(_symmetric(components), atoms)
    cell = copy.cell.array
    cell[atoms.pbc] = cell[atoms.pbc] @ deformation
    copy.set_cell(cell, scale_atoms=False)
    copy.positions = copy.positions @ deformation
    copy.set_positions(copy.positions + displacements)
    return at_rest(copy)


def _symmetric(components: np.ndarray) -> np.ndarray:
    xx, yy, zz, yz, xz, xy = components
    return np.array([[xx, xy, xz], [xy, yy, yz], [xz, yz, zz]])


def _within_periodic_space(strain: np.ndarray, atoms: Atoms) -> np.ndarray:
    if atoms.pbc.all():
        return strain
    periodic = atoms.cell.array[atoms.pbc]
    projector: np.ndarray = np.linalg.pinv(periodic) @ periodic
    projected: np.ndarray = projector @ strain @ projector
    return projected
