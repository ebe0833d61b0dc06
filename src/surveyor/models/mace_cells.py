"""Cells for MACE's neighbour lists.

If the first, second or third direction is not periodic, MACE replaces its cell vector by a multiple of the x, y or z
axis. In a slab whose third vector is not periodic but points along y, the periodic vectors lie in the plane of x and z;
the cell then has no volume, and MACE fails to build a neighbour list. For a potential of finite range, a periodic
direction with more vacuum than the cutoff is equivalent to a non-periodic one, in any setting of the axes.
"""

import numpy as np
from ase import Atoms

from surveyor.dataset import STRESS
from surveyor.models.neighbours import NeighbourList

VACUUM_A = 50.0  # more than any cutoff


def with_vacuum(atoms: Atoms) -> Atoms:
    """Return a slab or chain as a crystal with vacuum; other structures as they are.

    Energy and forces are those of the structure. A stress would be that of the cell with the vacuum, and is left out.
    """
    if atoms.pbc.all() or not atoms.pbc.any():
        return atoms
    cell = atoms.cell.array.copy()
    _, _, directions = np.linalg.svd(cell[atoms.pbc])
    normals = directions[atoms.pbc.sum() :]  # of the plane or the line in which the structure repeats
    cell[~atoms.pbc] = [normal * (VACUUM_A + np.ptp(atoms.positions @ normal)) for normal in normals]
    crystal = atoms.copy()
    crystal.set_cell(cell)
    crystal.pbc = True
    crystal.info.pop(STRESS, None)
    return crystal


def neighbour_list(atoms: Atoms, reach_A: float) -> NeighbourList:
    """Return the pairs of a structure that are closer than a reach, as MACE finds them."""
    edges, _, unit_shifts, _ = pairs_within(with_vacuum(atoms), reach_A)
    return NeighbourList.in_order(atoms, edges, unit_shifts)


def pairs_within(atoms: Atoms, reach_A: float) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Return the pairs of a molecule or crystal that are closer than a reach, in MACE's order, and its completed cell.

    The pairs are edges, shape (2, n_edges), with shifts in Å and in cell vectors, each of shape (n_edges, 3).
    """
    from mace.data.neighborhood import get_neighborhood

    found: tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray] = get_neighborhood(
        positions=atoms.positions, cutoff=reach_A, pbc=tuple(atoms.pbc.tolist()), cell=atoms.cell.array.copy()
    )
    return found
