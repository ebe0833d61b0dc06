"""Pairs of atoms within a cutoff, and functions of their distances."""

from collections.abc import Sequence
from functools import cached_property
from itertools import combinations_with_replacement

import numpy as np
from ase import Atoms
from ase.data import atomic_numbers, covalent_radii

from surveyor.errors import InputError
from surveyor.models.neighbours import NeighbourList, neighbour_list
from surveyor.structures import elements_of, is_periodic

SHORTEST_A = 0.5  # where the first basis function has its centre
REPULSION_ENERGY = 1.0  # eV, at half the sum of the covalent radii; it keeps atoms apart where there are no data
VOIGT = ((0, 0), (1, 1), (2, 2), (1, 2), (0, 2), (0, 1))


class Bonds:
    """All ordered pairs of atoms within the cutoff, and the basis functions of their distances.

    Args:
        atoms: a structure.
        cutoff_A: atoms further apart make no bond.
        n_basis: number of basis functions.
        symbols: the elements of the model.
        neighbours: list with all pairs within the cutoff, among others; made if it is not given.

    Raises:
        InputError: the structure holds other elements.
    """

    def __init__(
        self,
        atoms: Atoms,
        *,
        cutoff_A: float,
        n_basis: int,
        symbols: Sequence[str],
        neighbours: NeighbourList | None = None,
    ) -> None:
        self.cutoff_A = cutoff_A
        self.n_basis = n_basis
        self.n_atoms = len(atoms)
        self.volume = atoms.get_volume() if is_periodic(atoms) else None
        self.first, second, self.vector = _pairs_within(cutoff_A, atoms, neighbours or neighbour_list(atoms, cutoff_A))
        self.distance = np.linalg.norm(self.vector, axis=1)
        elements = _element_indices(atoms, symbols)
        self.pair = pair_table(len(symbols))[elements[self.first], elements[second]]
        radii = covalent_radii[atoms.numbers]
        self.contact = 0.5 * (radii[self.first] + radii[second])  # Å

    @cached_property
    def basis(self) -> tuple[np.ndarray, np.ndarray]:
        """Values and derivatives (1/Å) of the basis functions, each of shape (n_bonds, n_basis)."""
        centres = np.linspace(SHORTEST_A, self.cutoff_A, self.n_basis, endpoint=False)
        width = (self.cutoff_A - SHORTEST_A) / self.n_basis
        shift = (self.distance[:, None] - centres) / width
        gaussian = np.exp(-0.5 * shift**2)
        fade, fade_slope = self._fade()
        return gaussian * fade[:, None], gaussian * (fade_slope[:, None] - shift / width * fade[:, None])

    @cached_property
    def repulsion(self) -> tuple[np.ndarray, np.ndarray]:
        """Values (eV) and derivatives (eV/Å) of the fixed short-range repulsion, each of shape (n_bonds,)."""
        value = REPULSION_ENERGY * (self.contact / self.distance) ** 12
        fade, fade_slope = self._fade()
        return value * fade, value * (fade_slope - 12 * fade / self.distance)

    def _fade(self) -> tuple[np.ndarray, np.ndarray]:
        # (1 - x²)³ goes to zero at the cutoff with two continuous derivatives.
        x = self.distance / self.cutoff_A
        return (1 - x**2) ** 3, -6 * x * (1 - x**2) ** 2 / self.cutoff_A

    def forces(self, slopes: np.ndarray) -> np.ndarray:
        """Return forces, shape (n_atoms, 3, n), from derivatives of the energy of each bond, shape (n_bonds, n)."""
        pulls = (self.vector / self.distance[:, None])[:, :, None] * slopes[:, None, :]
        forces = np.zeros((self.n_atoms, 3, slopes.shape[1]))
        np.add.at(forces, self.first, pulls)
        return forces

    def stress(self, slopes: np.ndarray) -> np.ndarray:
        """Return the stress, shape (6, n), of a periodic structure, from the same derivatives."""
        dyads = np.stack([self.vector[:, a] * self.vector[:, b] for a, b in VOIGT]) / self.distance
        stress: np.ndarray = 0.5 * dyads @ slopes / self.volume
        return stress


def _pairs_within(
    cutoff_A: float, atoms: Atoms, neighbours: NeighbourList
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the first and second atoms of the pairs of a list within a cutoff, and the vectors between them."""
    first, second = neighbours.edges
    vectors = atoms.positions[second] - atoms.positions[first] + neighbours.unit_shifts @ atoms.cell.array
    near = (vectors**2).sum(axis=1) < cutoff_A**2
    return first[near], second[near], vectors[near]


def pair_table(n_elements: int) -> np.ndarray:
    """Return the number of each unordered pair of elements, shape (n_elements, n_elements)."""
    table = np.zeros((n_elements, n_elements), dtype=int)
    for number, (a, b) in enumerate(combinations_with_replacement(range(n_elements), 2)):
        table[a, b] = table[b, a] = number
    return table


def _element_indices(atoms: Atoms, symbols: Sequence[str]) -> np.ndarray:
    unknown = [symbol for symbol in elements_of([atoms]) if symbol not in symbols]
    if unknown:
        raise InputError(f"the pair model knows {', '.join(symbols)}; the structure also holds {', '.join(unknown)}")
    index = {atomic_numbers[symbol]: number for number, symbol in enumerate(symbols)}
    return np.array([index[number] for number in atoms.numbers])
