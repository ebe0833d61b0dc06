"""Near-duplicates: structures so close to a known one that a label of them would tell nothing new."""

from collections.abc import Iterable, Sequence

import numpy as np
from ase import Atoms
from ase.geometry import find_mic

# Of each atom in the order of atoms. Four distances would place an atom, were no four atoms in a plane, as they are in
# slabs and in conjugated molecules; so there are more, and some that reach far.
N_NEIGHBOURS = 16
N_SMALL = 64  # atoms, up to which all distances count


def fingerprint(atoms: Atoms) -> np.ndarray:
    """Return lengths that distinguish structures with the same atoms, independent of position and orientation.

    They are distances in Å to nearest images, between each atom and the following ones in the order of atoms and some
    further ones, and the lengths of the periodic cell vectors and of the diagonals between them. Each is a continuous
    function of the structure. For few atoms they are all distances; for many, n log n of the n² distances.

    Returns:
        Shape (n,), in float32, which suffices for near-duplicates within 1e-2 Å.
    """
    pairs = [atoms.positions[shift:] - atoms.positions[:-shift] for shift in _shifts(len(atoms))]
    lengths = [find_mic(vectors, atoms.cell, atoms.pbc)[1] for vectors in pairs]
    vectors = atoms.cell.array[atoms.pbc]
    diagonals = [vectors[i] + vectors[j] for i in range(len(vectors)) for j in range(i)]
    cell = np.linalg.norm(np.array([*vectors, *diagonals]).reshape(-1, 3), axis=1)
    found: np.ndarray = np.concatenate([*lengths, cell]).astype(np.float32)
    return found


def _shifts(n_atoms: int) -> list[int]:
    """Return how far apart in the order of atoms those are whose distance counts: 1 to 16, 32, 64 ... of many."""
    if n_atoms <= N_SMALL:
        return [*range(1, n_atoms)]
    far = range(5, (n_atoms - 1).bit_length())
    return [*range(1, N_NEIGHBOURS + 1), *(2**power for power in far)]


class KnownStructures:
    """Structures among which near-duplicates are looked for."""

    def __init__(self, structures: Iterable[Atoms] = ()) -> None:
        self._known: dict[tuple[bytes, bytes], list[np.ndarray]] = {}
        for atoms in structures:
            self.add(atoms)

    def add(self, atoms: Atoms) -> None:
        """Add a structure."""
        self._known.setdefault(_kind(atoms), []).append(fingerprint(atoms))

    def remove(self, atoms: Atoms) -> None:
        """Remove a structure that was added."""
        known, own = self._known[_kind(atoms)], fingerprint(atoms)
        known.pop(next(index for index, each in enumerate(known) if np.array_equal(each, own)))

    def difference_A(self, atoms: Atoms) -> float:
        """Return the largest difference between a structure's fingerprint and that of the nearest known one, in Å.

        Structures of other atoms, in another order, or with other periodic directions, are never near: then it is
        infinite.
        """
        known = self._known.get(_kind(atoms))
        if not known:
            return float("inf")
        own = fingerprint(atoms)
        return float(min(np.abs(each - own).max(initial=0.0) for each in known))


def _kind(atoms: Atoms) -> tuple[bytes, bytes]:
    return atoms.numbers.tobytes(), atoms.pbc.tobytes()


def without_near_duplicates(structures: Sequence[Atoms], tolerance_A: float) -> list[Atoms]:
    """Return the structures that are not near-duplicates of an earlier one, in order.

    Args:
        structures: the structures.
        tolerance_A: structures whose fingerprints differ by less are near-duplicates; 0 keeps all.
    """
    known, kept = KnownStructures(), []
    for atoms in structures:
        if known.difference_A(atoms) >= tolerance_A:
            known.add(atoms)
            kept.append(atoms)
    return kept
