import itertools

import numpy as np
import pytest
from ase import Atoms, units
from ase.build import molecule
from ase.calculators.calculator import Calculator, all_changes
from ase.md.langevin import Langevin
from ase.md.velocitydistribution import thermalize_momenta
from ase.stress import full_3x3_to_voigt_6_stress

from surveyor.biases.biased import BiasedCalculator
from surveyor.biases.restraints import (
    Restraint,
    check_restraints,
    difference,
    evaluate_restraints,
    same_variable,
    with_centre,
    with_one_centre,
    within,
)
from surveyor.errors import InputError

STEP = 1e-5
CELL = np.array([[4, 0, 0], [1.5, 4.2, 0], [0.7, -1.1, 4.5]])
CASES = {
    "distance": Restraint(variable="distance", atoms=(0, 1), centre=1.0, force_constant=2.0),
    "upper wall": Restraint(variable="distance", atoms=(0, 1), kind="upper_wall", centre=1.0, force_constant=2.0),
    "angle": Restraint(variable="angle", atoms=(0, 1, 2), centre=100.0, force_constant=2.0),
    "torsion": Restraint(variable="torsion", atoms=(0, 1, 2, 3), centre=-170.0, force_constant=2.0),
    "volume": Restraint(variable="volume", centre=70.0, force_constant=1e-3),
}


class Nothing(Calculator):
    """No energy and no forces."""

    implemented_properties = ("energy", "forces")

    def calculate(self, atoms=None, properties=("energy",), system_changes=all_changes):
        super().calculate(atoms, properties, system_changes)
        self.results = {"energy": 0.0, "forces": np.zeros((len(atoms), 3))}


@pytest.fixture
def skewed() -> Atoms:
    """Atoms whose nearest images are across the boundaries."""
    places = np.random.default_rng(0).random((5, 3))
    return Atoms("H5", scaled_positions=places, cell=CELL, pbc=True)


def derivative(restraint: Restraint, plus: Atoms, minus: Atoms) -> float:
    return (evaluate_restraints([restraint], plus).energy - evaluate_restraints([restraint], minus).energy) / (2 * STEP)


@pytest.mark.parametrize("restraint", CASES.values(), ids=CASES)
def test_forces_are_derivatives_of_the_energy(restraint, skewed):
    forces = np.zeros((5, 3))
    for index in np.ndindex(5, 3):
        plus, minus = skewed.copy(), skewed.copy()
        plus.positions[index] += STEP
        minus.positions[index] -= STEP
        forces[index] = -derivative(restraint, plus, minus)
    values = evaluate_restraints([restraint], skewed)
    assert values.energy > 0.01
    np.testing.assert_allclose(values.forces, forces, atol=1e-8)


@pytest.mark.parametrize("restraint", CASES.values(), ids=CASES)
def test_the_stress_is_the_derivative_with_respect_to_strain(restraint, skewed):
    stress = np.zeros((3, 3))
    for i, j in np.ndindex(3, 3):
        strained = []
        for sign in (1, -1):
            strain = np.zeros((3, 3))
            strain[i, j] += sign * STEP / 2
            strain[j, i] += sign * STEP / 2
            copy = skewed.copy()
            copy.set_cell(skewed.cell.array @ (np.eye(3) + strain), scale_atoms=True)
            strained.append(copy)
        stress[i, j] = derivative(restraint, *strained) / skewed.get_volume()
    values = evaluate_restraints([restraint], skewed)
    np.testing.assert_allclose(values.stress, full_3x3_to_voigt_6_stress(stress), atol=1e-9)


def test_restraints_add_up(skewed):
    each = [evaluate_restraints([restraint], skewed) for restraint in CASES.values()]
    together = evaluate_restraints(list(CASES.values()), skewed)
    assert together.energy == pytest.approx(sum(one.energy for one in each))
    np.testing.assert_allclose(together.forces, sum(one.forces for one in each), atol=1e-12)
    np.testing.assert_allclose(together.stress, sum(one.stress for one in each), atol=1e-12)
    assert together.variables == {name: value for one in each for name, value in one.variables.items()}


def test_a_structure_that_is_not_periodic_has_no_stress_under_restraints(skewed):
    skewed.pbc = [True, True, False]
    assert evaluate_restraints([CASES["distance"]], skewed).stress is None


@pytest.mark.parametrize(
    ("one", "other", "is_same"),
    [
        ("distance(0,1)", "distance(1, 0)", True),
        ("distance(0,1)", " distance ( 1 0 )", True),
        ("angle(2,1,0)", "angle(0,1,2)", True),
        ("angle(0,2,1)", "angle(0,1,2)", False),
        ("torsion(0,1,2,3)", "torsion(3,2,1,0)", True),
        ("distance(0,1)", "angle(0,1)", False),
        ("distance(0,1)", "distance(0,11)", False),
        ("volume", "volume", True),
        ("d1", "d2", False),
    ],
)
def test_names_mean_one_variable_in_either_direction(one, other, is_same):
    assert same_variable(one, other) is is_same
    assert same_variable(other, one) is is_same


def test_periodic_values_are_within_their_domain_and_differ_the_shorter_way_round():
    turn = CASES["torsion"].domain
    assert [within(value, turn) for value in (-540, -180, -179, 0, 180, 181)] == [180, 180, -179, 0, 180, -179]
    assert [difference(one, other, turn) for one, other in ((170, -170), (-170, 170), (20, 10))] == [-20, 20, 10]
    assert CASES["distance"].domain is None
    assert (within(500.0, None), difference(2.0, 5.0, None)) == (500.0, -3.0)


def test_walls_act_on_one_side_only():
    pair = Atoms("H2", positions=[[0, 0, 0], [0, 0, 1.5]])
    wall = {"variable": "distance", "atoms": (0, 1), "force_constant": 4.0}
    energies = {
        (kind, centre): evaluate_restraints([Restraint(kind=kind, centre=centre, **wall)], pair).energy
        for kind in ("upper_wall", "lower_wall")
        for centre in (1.0, 2.0)
    }
    assert energies == {
        ("upper_wall", 1.0): pytest.approx(0.5),
        ("upper_wall", 2.0): 0,
        ("lower_wall", 1.0): 0,
        ("lower_wall", 2.0): pytest.approx(0.5),
    }


@pytest.mark.parametrize(("pbc", "expected"), [(False, 3.0), ((True, True, False), 3.0), ((False, False, True), 1.0)])
def test_images_are_those_of_the_periodic_directions_alone(pbc, expected):
    pair = Atoms("H2", positions=[[0, 0, 0], [0, 0, 3.0]], cell=[4, 4, 4], pbc=pbc)
    values = evaluate_restraints([CASES["distance"]], pair)
    assert values.variables == {"distance(0,1)": pytest.approx(expected)}
    assert values.energy == pytest.approx((expected - 1) ** 2)


@pytest.mark.parametrize("pbc", [*itertools.product([False, True], repeat=3)])
@pytest.mark.parametrize("hand", [1, -1])
def test_images_are_the_nearest_in_skewed_cells(pbc, hand):
    cell = np.array([[8, 0, 0], [6, 9, 0], [3, -4, 10 * hand]])
    pair = Atoms("H2", positions=np.zeros((2, 3)), cell=cell, pbc=pbc)
    shifts = np.array([*itertools.product(*(range(-4, 5) if is_periodic else [0] for is_periodic in pbc))]) @ cell
    for position in np.random.default_rng(0).uniform(-15, 15, (40, 3)):
        pair.positions[1] = position
        nearest = np.linalg.norm(position + shifts, axis=1).min()
        assert evaluate_restraints([CASES["distance"]], pair).variables["distance(0,1)"] == pytest.approx(nearest)


def test_a_torsion_takes_the_shorter_way_round():
    peroxide = molecule("H2O2")
    peroxide.set_dihedral(2, 0, 1, 3, 175)
    values = evaluate_restraints(
        [Restraint(variable="torsion", atoms=(2, 0, 1, 3), centre=-175.0, force_constant=2.0)], peroxide
    )
    assert values.variables["torsion(2,0,1,3)"] == pytest.approx(175)
    assert values.energy == pytest.approx(np.radians(10) ** 2)


def test_a_restrained_distance_has_its_analytic_distribution():
    # Pairs far from each other, each with a restraint of its own; in three dimensions r² exp(-k (r - r0)²/2kT).
    n_pairs, k, centre, temperature_K = 40, 1.0, 1.0, 300.0
    places = np.arange(n_pairs)[:, None] * [50.0, 0, 0]
    ends = np.stack([places, places + np.array([0, 0, centre])], axis=1)
    pairs = Atoms(f"N{2 * n_pairs}", positions=ends.reshape(-1, 3))
    restraints = [
        Restraint(variable="distance", atoms=(2 * i, 2 * i + 1), centre=centre, force_constant=k)
        for i in range(n_pairs)
    ]
    pairs.calc = BiasedCalculator(Nothing(), [lambda atoms, _: evaluate_restraints(restraints, atoms)])
    generator = np.random.default_rng(4)
    thermalize_momenta(pairs, temperature_K, rng=generator)
    dynamics = Langevin(
        pairs, 5 * units.fs, temperature_K=temperature_K, friction=1 / (40 * units.fs), fixcm=False, rng=generator
    )
    found = []
    for step in range(1200):
        dynamics.step()
        if step >= 100 and step % 5 == 0:
            found.append(list(pairs.calc.variables.values()))
    r = np.linspace(1e-3, 3, 20_000)
    weights = r**2 * np.exp(-k * (r - centre) ** 2 / (2 * units.kB * temperature_K))
    mean = np.average(r, weights=weights)
    variance = np.average((r - mean) ** 2, weights=weights)
    # About 2000 independent distances: standard errors of 0.4 % and 3 %. Without r² the mean would be 5 % lower.
    assert np.mean(found) == pytest.approx(mean, rel=0.015)
    assert np.var(found) == pytest.approx(variance, rel=0.1)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"variable": "angle", "atoms": (0, 1)}, "expected 3 atoms for angle; found 2"),
        ({"variable": "distance", "atoms": (1, 1)}, r"expected different indices from 0; found \[1, 1\]"),
        ({"variable": "distance", "atoms": (-1, 1)}, "expected different indices"),
        ({"variable": "volume", "atoms": (0,)}, "expected 0 atoms"),
        ({"variable": "distance", "atoms": (0, 1), "centre": -1.0}, "expected a centre between 0 and inf for distance"),
        ({"variable": "angle", "atoms": (0, 1, 2), "centre": 500.0}, "expected a centre between 0 and 180 for angle"),
    ],
)
def test_restraints_that_make_no_sense_are_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        Restraint(**{"centre": 1.0, "force_constant": 1.0, **fields})


def test_restraints_that_do_not_suit_a_structure_are_refused():
    water = molecule("H2O")
    with pytest.raises(
        InputError,
        match=r"water has 3 atoms, but .*distance\(0,3\) is on atom 3; indices count from 0, so give at most 2",
    ):
        check_restraints([Restraint(variable="distance", atoms=(0, 3), centre=1, force_constant=1)], water, "water")
    with pytest.raises(InputError, match="needs a cell that is periodic in three directions"):
        check_restraints([CASES["volume"]], water, "water")
    check_restraints([CASES["distance"]], water, "water")
    with pytest.raises(InputError, match=r"acetylene: .* of atoms in a line"):
        check_restraints([CASES["torsion"]], molecule("C2H2"), "acetylene")


def bond(kind, centre):
    return Restraint(variable="distance", atoms=(0, 1), kind=kind, centre=centre, force_constant=2.0)


def torsion(kind, centre):
    return Restraint(variable="torsion", atoms=(0, 1, 2, 3), kind=kind, centre=centre, force_constant=2.0)


@pytest.mark.parametrize(
    ("restraints", "name", "centre", "expected"),
    [
        ([CASES["distance"], CASES["angle"]], "distance(0,1)", 2.5, [2.5, 100.0]),
        ([CASES["distance"], CASES["angle"]], "distance(1, 0)", 2.5, [2.5, 100.0]),
        ([bond("harmonic", 0), bond("upper_wall", 4.0)], "distance(0,1)", 2.5, [2.5, 4.0]),  # a limit stays
        ([bond("lower_wall", 0.8), bond("upper_wall", 1.2)], "distance(0,1)", 2.5, [2.3, 2.7]),  # a window moves
        ([bond("upper_wall", 1.2)], "distance(0,1)", 2.5, [2.5]),
        ([torsion("lower_wall", 170), torsion("upper_wall", -170)], "torsion(0,1,2,3)", 0, [-10, 10]),
        ([torsion("harmonic", 0)], "torsion(3,2,1,0)", 200, [-160]),
        ([torsion("harmonic", 0)], "torsion(3,2,1,0)", -180, [180]),
    ],
)
def test_restraints_move_to_a_window_and_walls_by_their_own_meaning(restraints, name, centre, expected):
    moved = with_centre(restraints, name, centre)
    assert [restraint.centre for restraint in moved] == pytest.approx(expected)
    assert [restraint.kind for restraint in moved] == [restraint.kind for restraint in restraints]


@pytest.mark.parametrize("degrees", [-179, -90, -1, 0, 1, 90, 179, 180])
def test_torsions_are_between_minus_and_plus_180(degrees):
    peroxide = molecule("H2O2")
    peroxide.set_dihedral(2, 0, 1, 3, degrees)
    values = evaluate_restraints(
        [Restraint(variable="torsion", atoms=(2, 0, 1, 3), centre=0, force_constant=1)], peroxide
    )
    found = values.variables["torsion(2,0,1,3)"]
    assert -180 < found <= 180
    assert np.isclose((found - degrees + 180) % 360, 180, atol=1e-6)


def test_all_restraints_on_a_variable_can_be_given_one_centre():
    moved = with_one_centre([bond("harmonic", 1), bond("upper_wall", 4), CASES["angle"]], "distance(0,1)", 2.5)
    assert [(each.kind, each.centre) for each in moved] == [("harmonic", 2.5), ("upper_wall", 2.5), ("harmonic", 100)]


def test_a_window_beyond_what_a_variable_reaches_is_refused():
    with pytest.raises(
        InputError, match=r"a centre of -1 for distance\(0,1\), expected one between 0 and inf; correct"
    ):
        with_centre([bond("harmonic", 1)], "distance(0,1)", -1.0)
