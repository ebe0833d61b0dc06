from dataclasses import dataclass, replace

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, molecule
from pydantic import ValidationError
from scipy.stats import chi2

from surveyor.potentials import Contact
from surveyor.sampling.conditions import Walkers
from surveyor.sampling.guards import (
    Readings,
    check,
    check_distances,
    check_uncertainty,
    check_wall_time,
    hottest_K,
    uncertainty_limit,
)
from surveyor.sampling.integrators import temperature_of
from surveyor.sampling.walkers import Rejection


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


def test_an_energy_that_is_no_number_stops_a_walker(conditions):
    water = molecule("H2O")
    rejection = checked(water, zero_forces(water), conditions, step=3, energy=np.nan)
    assert rejection == Rejection("not_finite", 3, 1, 0)


def test_a_force_at_the_limit_is_allowed_on_each_atom(conditions):
    water = molecule("H2O")
    assert checked(water, np.tile([6.0, 8.0, 0.0], (3, 1)), conditions) is None


def test_a_temperature_at_the_limit_is_allowed(conditions):
    ethane = molecule("C2H6")
    ethane.set_momenta(np.full((8, 3), 1.0))
    many = 10**6  # so that they hardly fluctuate
    temperature = temperature_of(ethane, many)
    readings = Readings(0, zero_forces(ethane), 0.0, n_degrees=many)
    for factor, is_stopped in ((1.0, False), (1.01, True)):
        half = conditions.model_copy(update={"temperature_K": temperature / factor / 2, "max_temperature_factor": 2.0})
        assert (check(ethane, readings, half, volume=1.0, energy=0.0) is not None) == is_stopped


def test_the_hottest_temperature_follows_the_warmer_end_of_a_ramp(conditions):
    for final, hottest in ((None, 900), (200.0, 900), (400.0, 1200)):
        ramp = conditions.model_copy(update={"final_temperature_K": final})
        assert hottest_K(ramp, 10**6) == pytest.approx(hottest)
    assert hottest_K(conditions.model_copy(update={"temperature_K": 0.5}), 10**6) == pytest.approx(1.5)


def test_without_degrees_of_freedom_nothing_fluctuates(conditions):
    assert hottest_K(conditions, 0) == 900


@pytest.mark.parametrize("method", ["npt", "npt_flexible", "cell_optimisation"])
@pytest.mark.parametrize(("start", "factor"), [(0.5, 2), (2, 2), (0.25, 4), (4, 4), (2 / 3, None), (1.5, None)])
def test_a_volume_is_stopped_by_its_ratio_to_the_start_or_the_inverse(conditions, method, start, factor):
    cube = Atoms("Ar", cell=[4, 4, 4], pbc=True)
    moving = conditions.model_copy(update={"method": method, "max_volume_factor": 1.75})
    rejection = checked(cube, zero_forces(cube), moving, step=6, volume=64 * start)
    assert rejection == (None if factor is None else Rejection("volume", 6, pytest.approx(factor), 1.75))


def test_a_volume_at_the_limit_is_allowed_and_in_a_fixed_cell_any_is(conditions):
    cube = Atoms("Ar", cell=[4, 4, 4], pbc=True)
    moving = conditions.model_copy(update={"method": "npt", "max_volume_factor": 2.0})
    assert checked(cube, zero_forces(cube), moving, volume=cube.get_volume() / 2) is None
    assert checked(cube, zero_forces(cube), conditions, volume=1) is None


def test_a_cell_without_volume_has_changed_beyond_any_limit(conditions):
    flat = Atoms("Ar", cell=[[4, 0, 0], [4, 0, 0], [0, 0, 4]], pbc=True)
    moving = conditions.model_copy(update={"method": "npt"})
    assert checked(flat, zero_forces(flat), moving, step=1, volume=64) == Rejection("volume", 1, np.inf, 1.5)


@pytest.mark.parametrize("energy", [-0.9375, -1.0625])
def test_energy_drifts_from_that_of_the_beginning_per_atom(conditions, energy):
    pair = Atoms("Ar2", positions=[[0, 0, 0], [0, 0, 4]])
    limited = {
        limit: conditions.model_copy(update={"method": "nve", "max_energy_drift_meV_per_atom": limit})
        for limit in (31.0, 31.25)
    }
    rejection = checked(pair, zero_forces(pair), limited[31.0], step=5, energy=energy, begin=-1.0)
    assert rejection == Rejection("energy_drift", 5, 31.25, 31.0)
    assert checked(pair, zero_forces(pair), limited[31.25], energy=energy, begin=-1.0) is None


@pytest.mark.parametrize(
    ("changes", "begin"), [({}, None), ({"method": "langevin"}, 0.0), ({"plumed": "plumed.dat"}, 0.0)]
)
def test_energy_may_drift_where_it_is_not_conserved_or_not_known(conditions, changes, begin):
    pair = Atoms("Ar2", positions=[[0, 0, 0], [0, 0, 4]])
    moving = conditions.model_copy(update={"method": "nve", **changes})
    assert checked(pair, zero_forces(pair), moving, energy=5.0, begin=begin) is None


@pytest.mark.parametrize(("ramp", "is_checked"), [({"ramp_steps": 20}, False), ({"ramp_labels": 5}, True)])
def test_energy_may_drift_while_the_centre_of_a_restraint_moves(conditions, ramp, is_checked):
    pull = {"variable": "distance", "atoms": (0, 1), "centre": 1, "force_constant": 5.0}
    moves = {"variable": "distance(0,1)", "minimum": 2.5, "maximum": 3.0, "moves": True}
    by = {"restraints": [pull], "distribution": moves, "ramp_by": "steps" if "ramp_steps" in ramp else "labels", **ramp}
    moving = Walkers(start=conditions.start, method="nve", **by)
    pair = Atoms("Ar2", positions=[[0, 0, 0], [0, 0, 4]])
    assert (checked(pair, zero_forces(pair), moving, energy=5.0) is not None) == is_checked


def test_atoms_may_be_as_close_as_the_limit(conditions):
    atoms = Atoms("H2Cu", positions=[[0, 0, 0], [0, 0, 0.5], [0, 9, 9]])  # the limit of copper is larger
    assert check_distances(atoms, conditions, step=0) is None


@pytest.mark.parametrize(
    ("symbol", "distance", "limit"), [("H", 0.4, 0.5), ("H", 0.51, None), ("Cu", 1.2, 1.32), ("Cu", 1.33, None)]
)
def test_the_limit_of_a_distance_is_the_larger_one_of_length_and_covalent_radii(conditions, symbol, distance, limit):
    pair = Atoms([symbol] * 2, positions=[[0, 0, 0], [0, 0, distance]])
    rejection = check_distances(pair, conditions, step=2)
    found = None if rejection is None else (rejection.reason, rejection.step, rejection.limit)
    assert found == (None if limit is None else ("distance", 2, pytest.approx(limit)))


def test_the_closest_contact_that_a_potential_states_is_believed_only_if_it_rules_out_close_pairs(conditions):
    pair = Atoms("Cu2", positions=[[0, 0, 0], [0, 0, 1.2]])  # closer than 1.32 Å, half the sum of the covalent radii
    harmless = Contact(distance_A=0.6, in_radii=0.6, reach_A=2.0)
    assert check_distances(pair, conditions, step=0, contact=harmless) is None
    for doubt in ({"distance_A": 0.4}, {"in_radii": 0.4}, {"reach_A": 1.3}):
        assert check_distances(pair, conditions, step=0, contact=replace(harmless, **doubt)).value == pytest.approx(1.2)


def test_of_several_close_pairs_the_one_furthest_below_its_limit_is_told(conditions):
    pairs = Atoms("H2Cu2", positions=[[0, 0, 0], [0, 0, 0.45], [9, 0, 0], [9, 0, 1.2]])
    assert check_distances(pairs, conditions, step=0).value == pytest.approx(1.2)


def test_a_limit_of_zero_holds_for_crystals(conditions):
    free = conditions.model_copy(update={"min_distance_A": 0.0, "min_distance_factor": 0.0})
    assert check_distances(bulk("Cu"), free, step=0) is None


@pytest.mark.parametrize(("uncertainty", "found"), [([0.1, 0.75, 0.2], 750), ([0.1, 0.5, 0.2], None), (None, None)])
def test_a_walker_is_stopped_by_the_largest_uncertainty_of_an_atom(conditions, uncertainty, found):
    each = None if uncertainty is None else np.array(uncertainty)
    readings = Readings(8, np.zeros((3, 3)), 0.0, n_degrees=9, uncertainty=each)
    expected = None if found is None else Rejection("uncertainty", 8, found, 500)
    assert check_uncertainty(readings, uncertainty_limit(conditions, None)) == expected


@dataclass
class Committee:
    """A potential that states the scale of its errors, as the guard asks for it."""

    typical_error: float | None

    def calculator(self):
        raise AssertionError("nothing is computed")

    def evaluate(self, structures):
        raise AssertionError("nothing is computed")


@dataclass
class Single(Committee):
    """A potential whose uncertainty is a bound."""

    coverage: float = 0.9


@pytest.mark.parametrize(("error", "limit"), [(0.25, 750), (0.01, 100), (None, 500)])
def test_the_automatic_limit_of_the_uncertainty_is_three_typical_errors(conditions, error, limit):
    automatic, fixed = (conditions.model_copy(update={"max_uncertainty_meV_per_A": each}) for each in ("auto", 321.0))
    for potential in (Committee(error), Single(error)):
        assert uncertainty_limit(automatic, potential) == pytest.approx(limit)
        assert uncertainty_limit(fixed, potential) == 321
    assert uncertainty_limit(conditions, Committee(error)) == uncertainty_limit(conditions, None) == 500
    assert uncertainty_limit(conditions, Single(error)) == pytest.approx(limit)


@pytest.mark.parametrize("wrong", ["automatic", 0.0, -1.0])
def test_other_limits_of_the_uncertainty_are_refused(tmp_path, wrong):
    with pytest.raises(ValidationError, match="max_uncertainty_meV_per_A"):
        Walkers(start=tmp_path / "unused.xyz", max_uncertainty_meV_per_A=wrong)


@pytest.mark.parametrize(("seconds", "minutes"), [(90, 1.5), (60, None), (1, None)])
def test_the_time_of_a_propagation_is_limited_in_minutes(conditions, seconds, minutes):
    hurried = conditions.model_copy(update={"max_wall_time_minutes": 1.0})
    expected = None if minutes is None else Rejection("wall_time", 7, minutes, 1.0)
    assert check_wall_time(seconds, hurried, step=7) == expected
