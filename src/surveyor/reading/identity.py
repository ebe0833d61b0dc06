"""Copies: structures that are identical to a model, up to translation, charge and periodic images of their atoms."""

from collections.abc import Iterator, Sequence
from functools import lru_cache

import numpy as np
from ase import Atoms
from ase.geometry import complete_cell
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from scipy.spatial import KDTree

# Files with four decimals move an atom by half of 1e-4 Å, and so the one from which it is measured; displacements for
# force constants, the smallest on purpose, are of 1e-3 Å and more.
SAME_A = 2e-4
N_PROJECTIONS = 6
EXACT = 6  # decimals of projections that exact copies share, but for the last digits of their coordinates
SEED = 20
CHUNK = 1_000_000  # atoms of pairs that are compared at once


def copies(structures: Sequence[Atoms]) -> np.ndarray:
    """Return a number for each structure that only its copies share.

    Copies have the same periodic directions, the same periodic cell vectors, and the same atoms of each element in the
    same order, at the same positions up to a common translation and lattice vectors, within `SAME_A`. Charge and
    multiplicity are ignored, because models do not depend on them. A copy is compared with the first structure, not
    with other copies, so that a slowly moving series does not count as one structure. The time grows as n log n.

    Args:
        structures: structures with at least one atom each.

    Returns:
        Shape (n_structures,): the index of the first copy of each.
    """
    classes = np.arange(len(structures))
    for members in _alike(structures):
        if len(members) > 1:
            classes[members] = members[_copies_among([structures[index] for index in members])]
    return classes


def copies_that_share(same: np.ndarray, *others: np.ndarray) -> np.ndarray:
    """Return the index of the first copy of each structure that shares further numbers with it.

    Args:
        same: as `copies` returns it, shape (n_structures,).
        others: such as the number of the set that a structure is in, each of shape (n_structures,).
    """
    _, first, inverse = np.unique(np.column_stack([same, *others]), axis=0, return_index=True, return_inverse=True)
    found: np.ndarray = first[inverse.ravel()]
    return found


def _alike(structures: Sequence[Atoms]) -> Iterator[np.ndarray]:
    """Give the indices of structures of the same atoms and periodic directions, in ascending order."""
    groups: dict[tuple[bytes, bytes], list[int]] = {}
    for index, atoms in enumerate(structures):
        groups.setdefault((np.sort(atoms.numbers).tobytes(), atoms.pbc.tobytes()), []).append(index)
    yield from (np.array(members) for members in groups.values())


def _copies_among(structures: Sequence[Atoms]) -> np.ndarray:
    """Return the index of the first copy for each of several structures of the same atoms and periodic directions."""
    projections, radius = _projected(structures), _radius(structures)
    if np.diff(np.sort(projections[:, 0])).min() > radius:  # as in most small groups, and quick
        return np.arange(len(structures))
    # Rounding to another side gives copies of one structure a few different projections, however many they are.
    unique, first, inverse = np.unique(projections.round(EXACT), axis=0, return_index=True, return_inverse=True)
    exact = np.column_stack([np.arange(len(structures)), first[inverse.ravel()]])
    # Of many copies that differ by rounding, each would be near each. Those in one box are compared with its first.
    _, boxes = np.unique(np.floor(unique / radius), axis=0, return_inverse=True)
    lowest = np.full(len(unique), len(structures))
    np.minimum.at(lowest, boxes.ravel(), first)
    boxed = np.column_stack([first, lowest[boxes.ravel()]])
    is_first = boxed[:, 0] == boxed[:, 1]
    is_like_first = is_first.copy()
    is_like_first[~is_first] = _are_same(structures, boxed[~is_first])
    kept = np.flatnonzero(~is_like_first | is_first)
    near = first[kept[KDTree(unique[kept]).query_pairs(radius, output_type="ndarray")]]
    links = [exact, boxed[is_like_first], near[_are_same(structures, near)]]
    return _near_firsts(structures, _linked(links, len(structures)))


def _near_firsts(structures: Sequence[Atoms], linked: np.ndarray) -> np.ndarray:
    """Return the index of the first copy of each structure, among those that are linked by others.

    Args:
        structures: of the same atoms and periodic directions.
        linked: the lowest index among those that are linked to each, shape (n_structures,).
    """
    found, rest = np.arange(len(linked)), np.flatnonzero(np.bincount(linked)[linked] > 1)
    while len(rest):
        _, begins, groups = np.unique(linked[rest], return_index=True, return_inverse=True)
        firsts = rest[begins[groups]]
        is_copy = _are_same(structures, np.column_stack([firsts, rest]))
        found[rest[is_copy]] = firsts[is_copy]
        rest = rest[~is_copy]
    return found


def _linked(links: Sequence[np.ndarray], n_structures: int) -> np.ndarray:
    """Return the lowest index among those that are linked to each structure, directly or by others.

    Args:
        links: pairs of indices, each of shape (n, 2).
        n_structures: how many there are.
    """
    one, other = np.concatenate(links).T
    graph = coo_array((np.ones(len(one)), (one, other)), shape=(n_structures, n_structures))
    labels = connected_components(graph, directed=False)[1]
    found: np.ndarray = np.unique(labels, return_index=True)[1][labels]
    return found


def _cell(atoms: Atoms) -> np.ndarray:
    """Return the periodic vectors of a cell, and unit vectors that complete them, shape (3, 3), in Å."""
    cell: np.ndarray = complete_cell(np.where(atoms.pbc[:, None], atoms.cell.array, 0.0))
    return cell


@lru_cache(maxsize=256)
def _weights(n_atoms: int) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(SEED)
    return generator.normal(size=(n_atoms, 3, N_PROJECTIONS)), generator.normal(size=(3, 3, N_PROJECTIONS))


def _fractions(structures: Sequence[Atoms]) -> tuple[np.ndarray, np.ndarray]:
    """Return coordinates of atoms, in the order of their elements, in units of the cell vectors; and these, in Å.

    Args:
        structures: of the same atoms and periodic directions.

    Returns:
        Shapes (n_structures, n_atoms, 3), measured from the first atom, and (n_structures, 3, 3).
    """
    cells = np.stack([_cell(atoms) for atoms in structures])
    ordered = np.stack([atoms.positions[np.argsort(atoms.numbers, kind="stable")] for atoms in structures])
    return (ordered - ordered[:, :1]) @ np.linalg.inv(cells), cells


def _some_at_once(structures: Sequence[Atoms], items: np.ndarray) -> list[np.ndarray]:
    """Divide items on structures of the same atoms into parts of `CHUNK` atoms or fewer, at least one part."""
    return np.array_split(items, len(items) * len(structures[0]) // CHUNK + 1)


def _projected(structures: Sequence[Atoms]) -> np.ndarray:
    """Return numbers that copies share, shape (n_structures, N_PROJECTIONS)."""
    parts = _some_at_once(structures, np.arange(len(structures)))
    return np.concatenate([_projections([structures[index] for index in part]) for part in parts])


def _projections(structures: Sequence[Atoms]) -> np.ndarray:
    """Return numbers that copies share: random sums of coordinates, shape (n_structures, N_PROJECTIONS).

    Along periodic directions the coordinates enter as sines, shifted by a phase of each atom, which no lattice vector
    changes.
    """
    fractions, cells = _fractions(structures)
    pbc = structures[0].pbc
    atoms, cell = _weights(fractions.shape[1])
    phases = atoms[..., 0]
    coordinates = np.where(pbc, np.sin(2 * np.pi * fractions + phases), fractions)
    periodic = np.where(pbc[:, None], cells, 0.0)
    found: np.ndarray = np.tensordot(coordinates, atoms, 2) + np.tensordot(periodic, cell, 2)
    return found


def _radius(structures: Sequence[Atoms]) -> float:
    """Return how far apart the projections of copies may be: errors of many coordinates add up as their root."""
    cells = np.stack([_cell(atoms) for atoms in structures])
    slopes = 2 * np.pi * np.linalg.norm(np.linalg.inv(cells), axis=1)[:, structures[0].pbc]
    return 2 * SAME_A * float(np.sqrt(3 * len(structures[0]) + 9)) * max(1.0, float(slopes.max(initial=0.0)))


def _are_same(structures: Sequence[Atoms], pairs: np.ndarray) -> np.ndarray:
    """Return for each of many pairs of structures whether they are copies, shape (n_pairs,).

    Args:
        structures: of the same atoms and periodic directions, as far as they are paired.
        pairs: of indices, shape (n_pairs, 2).
    """
    if not len(pairs):
        return np.zeros(0, dtype=bool)
    parts = _some_at_once([structures[pairs[0, 0]]], pairs)
    return np.concatenate([_is_same(*([structures[index] for index in each] for each in part.T)) for part in parts])


def _is_same(first: Sequence[Atoms], second: Sequence[Atoms]) -> np.ndarray:
    """Return for each structure whether it is a copy of its counterpart."""
    (fractions, cells), (others, other_cells) = _fractions(first), _fractions(second)
    pbc, difference = first[0].pbc, fractions - others
    difference -= np.where(pbc, np.rint(difference), 0.0)
    distance = np.linalg.norm(difference @ cells, axis=2).max(axis=1)
    strain = np.abs(np.where(pbc[:, None], cells - other_cells, 0.0)).max(axis=(1, 2))
    same: np.ndarray = (distance <= SAME_A) & (strain <= SAME_A)
    return same
