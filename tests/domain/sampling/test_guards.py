import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, molecule
from scipy.stats import chi2

from surveyor.sampling.conditions import Walkers
from surveyor.sampling.guards import Readings, check, check_distances, hottest_K


@pytest.fixture
def conditions(tmp_path):
    return Walkers(start=tmp_path / "unused.xyz", temperature_K=300, max_temperature_factor=3, max_force_eV_per_A=10)


def zero_forces(atoms):
    return np.zeros((len(atoms), 3))


def checked(atoms, forces, conditions, step=0, energy=0.0, volume=1.0, begin=0.0):
    readings = Readings(step, forces, energy, n_degrees=3 * len(atoms))
    return check(atoms, readings, conditions, volume=volume, energy=begin)


def test_a_quiet_walker_passes(conditions):
    water = molecule("H2O")
    assert checked(water, zero_forces(water), conditions, step=0) is None
    assert check_distances(water, conditions, step=0) is None


def test_the_largest_force_is_the_longest_vector_of_an_atom(conditions):
    water = molecule("H2O")
    forces = zero_forces(water)
    forces[1] = [-6, 8, 1]
    rejection = checked(water, forces, conditions, step=4)
    assert (rejection.reason, rejection.step, rejection.limit) == ("force", 4, 10)
    assert rejection.value == pytest.approx(np.sqrt(101))


def test_a_hot_walker_is_stopped(conditions):
    ethane = molecule("C2H6")
    ethane.set_momenta(np.full((8, 3), 1.0))
    cold = conditions.model_copy(update={"temperature_K": 20.0, "max_temperature_factor": 10.0})
    rejection = checked(ethane, zero_forces(ethane), cold, step=0)
    assert (rejection.reason, rejection.limit) == ("temperature", 200)
    assert rejection.value == pytest.approx(ethane.get_temperature())


@pytest.mark.parametrize("n_degrees", [1, 3, 9, 30])
def test_the_hottest_temperature_is_one_that_equilibrium_does_not_bring(conditions, n_degrees):
    factor = hottest_K(conditions, n_degrees) / conditions.temperature_K
    assert factor == pytest.approx(max(3, chi2.isf(1e-12, n_degrees) / n_degrees))
    # Exact for two degrees of freedom: exp(-K/kT).
    assert hottest_K(conditions, 2) == pytest.approx(300 * 12 * np.log(10))


@pytest.mark.parametrize("place", ["forces", "positions", "momenta"])
def test_numbers_that_are_not_finite_are_counted(conditions, place):
    water = molecule("H2O")
    forces = zero_forces(water)
    water.set_momenta(zero_forces(water))
    array = forces if place == "forces" else water.arrays[place]
    array[2, :2] = [np.nan, np.inf]
    rejection = checked(water, forces, conditions, step=0)
    assert (rejection.reason, rejection.value) == ("not_finite", 2)


def test_distances_count_across_the_boundary(conditions):
    pair = Atoms("H2", positions=[[0.1, 0, 0], [4.8, 0, 0]], cell=[5, 5, 5], pbc=True)
    rejection = check_distances(pair, conditions, step=0)
    assert (rejection.reason, rejection.limit) == ("distance", 0.5)
    assert rejection.value == pytest.approx(0.3)
    pair.pbc = False
    assert check_distances(pair, conditions, step=0) is None


def test_an_atom_may_not_meet_its_own_image(conditions):
    squeezed = bulk("Cu")
    squeezed.set_cell(np.diag([0.4, 5, 5]))
    assert check_distances(squeezed, conditions, step=0).value == pytest.approx(0.4)


def test_a_limit_of_zero_switches_the_distance_guard_off(conditions):
    pair = Atoms("H2", positions=np.zeros((2, 3)))
    assert (
        check_distances(pair, conditions.model_copy(update={"min_distance_A": 0.0, "min_distance_factor": 0.0}), step=0)
        is None
    )
