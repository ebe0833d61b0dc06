"""Neighbour lists with a skin, which are kept while the atoms of a structure have not moved far.

A list holds all pairs within cutoff + skin. It contains all pairs within the cutoff as long as no pair can have come
closer by more than the skin, see `still_hold`. The order of the pairs depends on the pairs alone, so that a prediction
does not depend on when its list was made.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
from ase import Atoms
from ase.neighborlist import neighbor_list

MARGIN_A = 1e-6  # of the rounding of positions in single precision


@dataclass(frozen=True, slots=True, eq=False)
class NeighbourList:
    """The pairs of atoms of a structure that are closer than a reach, periodic images included.

    Attributes:
        atoms: the structure for which the list was made.
        edges: first and second atom, shape (2, n_edges); each pair is there in both directions.
        unit_shifts: number of cell vectors from the second atom to its image, shape (n_edges, 3).
    """

    atoms: Atoms
    edges: np.ndarray
    unit_shifts: np.ndarray

    @classmethod
    def in_order(cls, atoms: Atoms, edges: np.ndarray, unit_shifts: np.ndarray) -> Self:
        """Return the list of pairs that were found in any order."""
        order = np.lexsort([*unit_shifts.T, edges[1], edges[0]])
        return cls(atoms.copy(), edges[:, order], unit_shifts[order])

    def is_of(self, atoms: Atoms) -> bool:
        """Return whether a structure has the same atoms, and is periodic in the same directions."""
        return np.array_equal(self.atoms.numbers, atoms.numbers) and np.array_equal(self.atoms.pbc, atoms.pbc)


def neighbour_list(atoms: Atoms, reach_A: float) -> NeighbourList:
    """Return the pairs of a structure that are closer than a reach."""
    first, second, unit_shifts = neighbor_list("ijS", atoms, reach_A)
    return NeighbourList.in_order(atoms, np.stack([first, second]), unit_shifts)


def still_hold(
    lists: Sequence[NeighbourList], structures: Sequence[Atoms], cutoff_A: float, skin_A: float
) -> list[bool]:
    """Return for each list whether it has all pairs of its structure that are closer than the cutoff.

    A structure is the strained structure of its list, with displacements u of the atoms. A pair that was farther than
    cutoff + skin is now farther than s · (cutoff + skin) - 2 · max|u|, where s is the smallest singular value of the
    deformation. Without strain, the list holds until an atom has moved by half of the skin.

    Args:
        lists: of structures with the same atoms, see `NeighbourList.is_of`.
        structures: as they are now, wrapped into their cells or not.
        cutoff_A: of the pairs that are needed.
        skin_A: how much longer the reach of the lists is.
    """
    before = [each.atoms for each in lists]
    begins = np.cumsum([0, *map(len, structures[:-1])])
    is_strained = [not _has_same_cell(old, new) for old, new in zip(before, structures, strict=True)]
    moved = np.concatenate([new.positions for new in structures])
    places = [
        _deformed(old, new) if strained else (old.positions, 1.0)
        for old, new, strained in zip(before, structures, is_strained, strict=True)
    ]
    moved -= np.concatenate([positions for positions, _ in places])
    farthest = np.sqrt(np.maximum.reduceat((moved**2).sum(axis=1), begins))
    smallest = np.array([value for _, value in places])
    holds: list[bool] = (smallest * (cutoff_A + skin_A) - 2 * farthest > cutoff_A + MARGIN_A).tolist()
    return holds


def _has_same_cell(old: Atoms, new: Atoms) -> bool:
    return not new.pbc.any() or np.array_equal(old.cell.array, new.cell.array)


def _deformed(old: Atoms, new: Atoms) -> tuple[np.ndarray, float]:
    """Return where the atoms would be if they followed the cell alone, and the smallest stretch of a distance."""
    if not new.pbc.all() or abs(np.linalg.det(old.cell.array)) == 0:
        return old.positions, 0.0  # the directions without a period have no strain: the list is made again
    deformation = np.linalg.solve(old.cell.array, new.cell.array)
    return old.positions @ deformation, float(np.linalg.svd(deformation, compute_uv=False).min())
