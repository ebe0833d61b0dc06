import numpy as np
from ase.build import bulk, fcc111, molecule
from ase.constraints import FixAtoms

from surveyor.sampling.perturbation import perturb
from surveyor.structures import canonical


def generator():
    return np.random.default_rng(7)


def strain_of(before, after):
    return np.linalg.solve(before.cell.array, after.cell.array) - np.eye(3)


def test_displacements_are_gaussian_with_the_given_width():
    benzene, random = molecule("C6H6"), generator()
    displacements = np.array(
        [
            perturb(benzene, amplitude_A=0.1, amplitude_strain=0, generator=random).positions - benzene.positions
            for _ in range(1000)
        ]
    )
    # 36,000 numbers: standard errors are 0.4 % of the width for the width, 0.5 % for the mean, 0.026 for the kurtosis.
    assert np.isclose(displacements.std(), 0.1, rtol=0.02)
    assert abs(displacements.mean()) < 0.0025
    assert np.isclose((displacements**4).mean() / displacements.var() ** 2, 3, atol=0.15)


def test_strain_is_symmetric_uniform_and_bounded():
    copper, random = bulk("Cu") * (2, 1, 1), generator()
    strains = np.array(
        [
            strain_of(copper, perturb(copper, amplitude_A=0, amplitude_strain=0.05, generator=random))
            for _ in range(1000)
        ]
    )
    assert np.allclose(strains, strains.transpose(0, 2, 1), atol=1e-7)
    assert np.abs(strains).max() < 0.05 + 1e-7
    assert np.allclose(
        strains.std(axis=0), 0.05 / np.sqrt(3), rtol=0.08
    )  # of a uniform distribution; 4 standard errors


def test_atoms_follow_the_strain():
    copper = bulk("Cu", cubic=True)
    strained = perturb(copper, amplitude_A=0, amplitude_strain=0.1, generator=generator())
    shifts = strained.get_scaled_positions() - copper.get_scaled_positions()
    assert np.allclose(shifts - np.round(shifts), 0, atol=1e-7)


def test_a_molecule_in_a_box_is_not_strained():
    water = molecule("H2O", vacuum=3.0)
    perturbed = perturb(water, amplitude_A=0, amplitude_strain=0.1, generator=generator())
    assert (perturbed.cell.array == canonical(water).cell.array).all()
    assert (perturbed.positions == canonical(water).positions).all()


def test_a_slab_is_strained_in_its_plane_alone():
    slab = fcc111("Cu", (1, 1, 2), vacuum=5.0)
    strained = perturb(slab, amplitude_A=0, amplitude_strain=0.1, generator=generator())
    strain = strain_of(slab, strained)
    assert np.allclose(strain[2], 0, atol=1e-7)
    assert np.allclose(strain, strain.T, atol=1e-7)
    assert np.abs(strain[:2, :2]).min() > 1e-3
    assert np.allclose(strained.positions[:, 2], slab.positions[:, 2], atol=1e-7)


def test_the_perturbed_structure_is_canonical_and_the_original_untouched():
    copper = bulk("Cu", cubic=True)
    before = copper.copy()
    perturbed = perturb(copper, amplitude_A=0.1, amplitude_strain=0.1, generator=generator())
    assert (perturbed.positions == canonical(perturbed).positions).all()
    assert (perturbed.cell.array == canonical(perturbed).cell.array).all()
    assert copper == before


def test_fixed_atoms_are_not_displaced():
    water = molecule("H2O")
    water.set_constraint(FixAtoms([0]))
    perturbed = perturb(water, amplitude_A=0.1, amplitude_strain=0, generator=generator())
    moved = np.abs(perturbed.positions - water.positions).max(axis=1) > 1e-6
    assert moved.tolist() == [False, True, True]
    assert not perturbed.constraints
