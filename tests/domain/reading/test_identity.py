import time
from collections.abc import Sequence
from itertools import combinations
from typing import Any

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, fcc111, molecule
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from surveyor.reading import identity
from surveyor.reading.identity import SAME_A, copies

STRUCTURES = {
    "molecule": molecule("CH3CH2OH"),
    "crystal": bulk("NaCl", "rocksalt", a=5.6),
    "one atom": bulk("Cu"),
    "supercell": bulk("Cu", cubic=True).repeat(2),
    "slab": fcc111("Al", (2, 2, 3), vacuum=5.0),
    "chain": Atoms("H2", [[0, 0, 0], [0, 0, 0.8]], cell=[0, 0, 3], pbc=[False, False, True]),
}


def rattled(atoms: Atoms, generator: np.random.Generator, amplitude_A: float) -> Atoms:
    moved = atoms.copy()
    moved.positions += generator.normal(scale=amplitude_A, size=moved.positions.shape)
    if moved.pbc.any():
        periodic = moved.cell.array
        periodic[moved.pbc] *= 1 + generator.normal(scale=amplitude_A / 10)
        moved.set_cell(periodic)
    return moved


def written_with_four_decimals(atoms: Atoms, generator: np.random.Generator) -> Atoms:
    copy = atoms.copy()
    copy.translate(generator.normal(scale=5, size=3))
    shifts = generator.integers(-2, 3, size=(len(copy), 3)) * copy.pbc
    copy.positions += shifts @ copy.cell.array
    copy.positions = copy.positions.round(4)
    return copy


@settings(max_examples=60, deadline=None)
@given(name=st.sampled_from(sorted(STRUCTURES)), seed=st.integers(0, 10**6), n=st.integers(1, 8))
def test_copies_are_found_wherever_they_are_and_nothing_else_is_one(name: str, seed: int, n: int) -> None:
    generator = np.random.default_rng(seed)
    originals = [rattled(STRUCTURES[name], generator, 0.1) for _ in range(n)]
    # A crystal of one atom is its cell, and two of them may come out the same.
    cells = [atoms.cell.array for atoms in originals]
    assume(name != "one atom" or all(np.abs(a - b).max() > 2 * SAME_A for a, b in combinations(cells, 2)))
    order = generator.permutation(n)
    moved = [written_with_four_decimals(originals[index], generator) for index in order]
    found = copies(originals + moved)
    assert found[:n].tolist() == list(range(n))
    assert found[n:].tolist() == order.tolist()


@pytest.mark.parametrize("name", sorted(set(STRUCTURES) - {"one atom"}))
def test_a_small_displacement_of_one_atom_makes_another_structure(name: str) -> None:
    displaced = STRUCTURES[name].copy()
    displaced.positions[-1, 2] += 1e-3  # Å, the smallest displacement for force constants
    assert copies([STRUCTURES[name], displaced]).tolist() == [0, 1]


def test_a_small_strain_of_a_cell_with_one_atom_makes_another_structure() -> None:
    strained = STRUCTURES["one atom"].copy()
    strained.set_cell(strained.cell.array + np.diag([0, 0, 1e-3]))
    assert copies([STRUCTURES["one atom"], strained]).tolist() == [0, 1]


def test_copies_are_found_beside_an_earlier_structure_that_is_almost_the_same() -> None:
    generator = np.random.default_rng(0)
    for _ in range(60):
        first = rattled(STRUCTURES["molecule"], generator, 0.1)
        second, third = first.copy(), first.copy()
        second.positions[-1, 2] += 2.5 * SAME_A
        third.positions[-1, 2] += 3 * SAME_A
        assert copies([first, second, third]).tolist() == [0, 1, 1]


def changed(atoms: Atoms, **changes: Any) -> Atoms:
    other = atoms.copy()
    for name, value in changes.items():
        setattr(other, name, value)
    return other


def test_other_elements_periodic_directions_and_cells_make_another_structure() -> None:
    crystal = STRUCTURES["crystal"]
    strained = changed(crystal)
    strained.set_cell(1.001 * crystal.cell.array, scale_atoms=True)
    others = [changed(crystal, numbers=[11, 19]), changed(crystal, pbc=[True, True, False]), strained]
    assert copies([crystal, *others]).tolist() == [0, 1, 2, 3]


def test_the_cell_of_a_molecule_its_charge_and_the_order_of_elements_make_no_difference() -> None:
    water = molecule("H2O")
    boxed, ion = changed(water, cell=[9, 9, 9]), water.copy()
    ion.info["charge"] = 1
    assert copies([water, boxed, ion, water[[1, 2, 0]]]).tolist() == [0, 0, 0, 0]


def test_many_copies_of_one_structure_take_no_longer_than_others() -> None:
    generator = np.random.default_rng(0)
    many = [written_with_four_decimals(STRUCTURES["molecule"], generator) for _ in range(5000)]
    others = [rattled(STRUCTURES["molecule"], generator, 0.1) for _ in range(5000)]
    begin = time.process_time()
    assert set(copies(many)) == {0}
    assert copies(others).tolist() == list(range(5000))
    assert time.process_time() - begin < 5


@settings(max_examples=40, deadline=None)
@given(order=st.permutations(range(7)), step=st.sampled_from([0.3, 0.6, 0.9]))
def test_of_a_slow_series_only_structures_near_the_first_are_its_copies(order: list[int], step: float) -> None:
    series = []
    for number in order:
        atoms = STRUCTURES["molecule"].copy()
        atoms.positions[-1, 2] += step * SAME_A * number
        series.append(atoms)
    same = copies([*series, STRUCTURES["slab"], STRUCTURES["slab"]])
    for index, first in enumerate(same[:7]):
        assert same[first] == first <= index
        assert step * abs(order[index] - order[first]) <= 1
    assert len(set(same[:7])) < 7
    assert same[7:].tolist() == [7, 7]


def test_large_structures_are_compared_some_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    largest = 0
    coordinates = identity._fractions

    def watched(structures: Sequence[Atoms]) -> tuple[np.ndarray, np.ndarray]:
        nonlocal largest
        largest = max(largest, sum(len(atoms) for atoms in structures))
        return coordinates(structures)

    monkeypatch.setattr(identity, "_fractions", watched)
    monkeypatch.setattr(identity, "CHUNK", 100)
    generator = np.random.default_rng(0)
    originals = [rattled(STRUCTURES["supercell"], generator, 0.1) for _ in range(40)]
    moved = [written_with_four_decimals(atoms, generator) for atoms in originals[:30]]
    assert copies(originals + moved).tolist() == [*range(40), *range(30)]
    assert largest <= 100 + len(originals[0])


def test_no_structures_have_no_copies() -> None:
    assert copies([]).tolist() == []
