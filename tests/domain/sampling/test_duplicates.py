import numpy as np
import pytest
from ase import Atoms
from ase.build import add_adsorbate, bulk, fcc111, molecule

from surveyor.sampling.duplicates import KnownStructures, fingerprint, without_near_duplicates


def moved(atoms: Atoms) -> Atoms:
    copy = atoms.copy()
    copy.rotate(37, "x", rotate_cell=True)
    copy.rotate(120, (1, 2, 3), rotate_cell=True)
    copy.positions += [0.3, -5.1, 2]
    return copy


def mirrored(atoms: Atoms) -> Atoms:
    copy = atoms.copy()
    copy.positions[:, 0] *= -1
    copy.set_cell(copy.cell.array * [-1, 1, 1])
    return copy


@pytest.fixture(params=["molecule", "bulk", "slab"])
def structure(request) -> Atoms:
    if request.param == "molecule":
        return molecule("CH3CH2OH")
    atoms = bulk("Cu", cubic=True) * (2, 1, 1)
    atoms.rattle(0.1, seed=1)
    atoms.pbc = [True, True, request.param == "bulk"]
    return atoms


@pytest.mark.parametrize("change", [moved, mirrored])
def test_place_and_orientation_do_not_matter(structure, change):
    assert KnownStructures([structure]).difference_A(change(structure)) < 1e-5


def test_images_do_not_matter(structure):
    wrapped = structure.copy()
    wrapped.positions[2] += 2 * structure.cell[0] * structure.pbc[0] - structure.cell[1] * structure.pbc[1]
    assert KnownStructures([structure]).difference_A(wrapped) < 1e-5


def test_every_atom_and_every_direction_matters(structure):
    known = KnownStructures([structure])
    for index in range(len(structure)):
        displaced = structure.copy()
        displaced.positions[index] += 0.1
        assert known.difference_A(displaced) > 0.01


def test_sites_of_an_adsorbate_differ_by_the_layers_below():
    # Seen from the four atoms of the top layer alone, both hollow sites are the same.
    slab = fcc111("Cu", (2, 2, 3), vacuum=6)
    slab.pbc = [True, True, False]
    add_adsorbate(slab, "O", 1.2, "fcc")
    other = slab.copy()
    other.positions[-1, :2] = 2 * slab.positions[-2, :2] - slab.positions[-1, :2]
    assert KnownStructures([slab]).difference_A(other) > 0.5


def test_both_ends_of_a_planar_chain_matter():
    chain = [[0, 0, 0], [1.4, 0, 0], [2.1, 1.2, 0], [3.5, 1.2, 0], [4.2, 2.4, 0]]
    above, below = (Atoms("HC5H", positions=[[-0.5, 0.3, 1.3], *chain, [5, 2.6, z]]) for z in (1.2, -1.2))
    assert KnownStructures([above]).difference_A(below) > 0.4


def test_the_cell_matters():
    copper = bulk("Cu", cubic=True)
    strained = copper.copy()
    strained.set_cell(copper.cell * [1, 1, 1.01], scale_atoms=True)
    assert KnownStructures([copper]).difference_A(strained) == pytest.approx(0.0361, abs=1e-3)
    sheared = copper.copy()
    sheared.set_cell([[3.61, 0, 0], [0.1, 3.61, 0], [0, 0, 3.61]], scale_atoms=True)
    assert KnownStructures([copper]).difference_A(sheared) > 0.03


def test_other_atoms_are_never_near():
    known = KnownStructures([molecule("H2O"), molecule("CO")])
    periodic = molecule("H2O")
    periodic.pbc = True
    for other in (molecule("CH4"), molecule("H2O")[::-1], periodic):
        assert known.difference_A(other) == np.inf
    assert KnownStructures().difference_A(molecule("H2O")) == np.inf


def test_one_atom_is_its_own_duplicate():
    assert KnownStructures([Atoms("H")]).difference_A(Atoms("H", positions=[[1, 2, 3]])) == 0


def test_the_first_of_near_ones_is_kept():
    water = molecule("H2O")
    near, far = water.copy(), water.copy()
    near.positions[1] += 0.001
    far.positions[1] += 0.1
    assert without_near_duplicates([water, near, far, moved(far)], 0.01) == [water, far]
    assert len(without_near_duplicates([water, near, far, water.copy()], 0)) == 4


def test_fingerprints_grow_with_the_number_of_atoms():
    assert len(fingerprint(bulk("Cu", cubic=True) * 3)) < 20 * 108


@pytest.mark.parametrize(
    ("n_atoms", "offsets"),
    [
        (2, range(1, 2)),
        (64, range(1, 64)),
        (65, [*range(1, 17), 32, 64]),
        (128, [*range(1, 17), 32, 64]),
        (300, [*range(1, 17), 32, 64, 128, 256]),
    ],
)
def test_large_structures_are_told_by_next_atoms_and_by_some_that_are_far(n_atoms, offsets):
    positions = np.random.default_rng(n_atoms).uniform(0, 20, size=(n_atoms, 3))
    distances = [
        np.linalg.norm(positions[i] - positions[i + offset]) for offset in offsets for i in range(n_atoms - offset)
    ]
    found = fingerprint(Atoms(f"Ar{n_atoms}", positions=positions))
    np.testing.assert_allclose(np.sort(found), np.sort(distances), rtol=1e-5)


def test_there_are_no_images_along_open_directions():
    pair = Atoms("Ar2", positions=[[0, 0, 0], [0, 0, 9]], cell=[10, 10, 10], pbc=[True, True, False])
    assert fingerprint(pair)[0] == 9
    pair.pbc = True
    assert fingerprint(pair)[0] == 1


def test_of_known_structures_the_one_that_is_removed_is_known_no_longer(structure):
    others = [structure.copy(), structure.copy()]
    others[0].positions[0] += 0.2
    others[1].positions[1] += 0.3
    known = KnownStructures([others[0], structure, others[1], structure])
    known.remove(structure)
    assert known.difference_A(structure) == 0  # it was added twice
    known.remove(structure)
    assert known.difference_A(structure) > 0.01
    assert [known.difference_A(other) for other in others] == [0, 0]
    with pytest.raises(StopIteration):
        known.remove(structure)
