import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, molecule
from ase.calculators.emt import EMT
from ase.constraints import FixAtoms
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from surveyor.dataset import Dataset
from surveyor.errors import InputError
from surveyor.labels import LevelOfTheory, label_key
from surveyor.structures import (
    at_rest,
    canonical,
    charge_of,
    check_structure,
    check_structures,
    elements_of,
    identity_of,
    is_periodic,
    kinds_of,
    lowest_multiplicity,
    multiplicity_of,
)

KINDS = LevelOfTheory("kinds", {"program": "any"}, distinguishes_kinds=True)


@pytest.mark.parametrize("moves", [True, False])
def test_a_structure_at_rest_is_canonical_and_has_no_momenta_and_constraints(moves):
    atoms = Atoms("H2", [[1 / 3, 0, 0], [0, 0, 0.7]], info={"name": "a"}, constraint=FixAtoms([0]))
    if moves:
        atoms.set_momenta(np.ones((2, 3)), apply_constraint=False)
    before = atoms.copy()
    rest = at_rest(atoms)
    assert "momenta" not in rest.arrays
    assert not rest.constraints
    assert rest == canonical(Atoms("H2", atoms.positions))
    assert rest.info == atoms.info
    np.testing.assert_array_equal(atoms.get_momenta(), before.get_momenta())  # of the given one


def test_canonical_coordinates_are_rounded_to_eight_decimals():
    atoms = Atoms("H", [[1 / 3, -1e-9, 0.123456785]], cell=[[1 / 7, -1e-12, 0], [0, 1, 0], [0, 0, 1]])
    rounded = canonical(atoms)
    assert rounded.positions.tolist() == [[0.33333333, 0.0, 0.12345678]]
    assert rounded.cell.array[0].tolist() == [0.14285714, 0.0, 0.0]


def test_canonical_coordinates_have_no_negative_zero():
    atoms = canonical(Atoms("H", [[-0.0, -1e-10, 0.0]], cell=-0.0 * np.eye(3)))
    assert not np.signbit(atoms.positions).any()
    assert not np.signbit(atoms.cell.array).any()


def test_a_canonical_copy_has_no_calculator_and_leaves_the_original_alone():
    atoms = bulk("Cu")
    atoms.rattle(0.1)
    atoms.calc = EMT()
    before = atoms.positions.copy()
    assert canonical(atoms).calc is None
    assert atoms.calc is not None
    np.testing.assert_array_equal(atoms.positions, before)


coordinates = st.floats(-50, 50, allow_nan=False)
vectors = st.lists(coordinates, min_size=3, max_size=3)


@st.composite
def structures(draw: st.DrawFn) -> Atoms:
    n_atoms = draw(st.integers(1, 4))

    def one_each(values: st.SearchStrategy) -> list:
        return draw(st.lists(values, min_size=n_atoms, max_size=n_atoms))

    atoms = Atoms(
        one_each(st.sampled_from(["H", "C", "O", "Cu"])),
        one_each(vectors),
        cell=np.diag([10.0, 11.0, 12.0]) + np.array([draw(vectors) for _ in range(3)]) / 30,
        pbc=draw(st.lists(st.booleans(), min_size=3, max_size=3)),
    )
    if draw(st.booleans()):
        atoms.info["charge"] = draw(st.integers(-2, 1))
    if draw(st.booleans()):
        most = int(atoms.numbers.sum()) - charge_of(atoms) + 1
        atoms.info["multiplicity"] = draw(st.sampled_from(range(lowest_multiplicity(atoms), most + 1, 2)))
    if draw(st.booleans()):
        atoms.set_initial_magnetic_moments(one_each(st.floats(-3, 3)))
    if draw(st.booleans()):
        atoms.set_array("kinds", np.array(one_each(st.sampled_from(["Cu1", "Cu2", "H", "Ow"]))))
    return atoms


@settings(max_examples=150, deadline=None, database=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(atoms=structures())
def test_a_structure_keeps_its_key_through_an_extxyz_file(tmp_path, atoms):
    Dataset([atoms]).save(tmp_path / "there.extxyz")
    (back,) = Dataset.load(tmp_path / "there.extxyz")
    assert identity_of(canonical(back), kinds=True) == identity_of(canonical(atoms), kinds=True)
    assert label_key(back, KINDS) == label_key(atoms, KINDS)


def test_rounding_once_is_enough():
    atoms = molecule("CH3CH2OH")
    atoms.rattle(0.3, seed=1)
    assert identity_of(canonical(canonical(atoms))) == identity_of(canonical(atoms)) == identity_of(atoms)


def test_a_shift_by_a_digit_that_is_kept_is_another_structure():
    atoms = molecule("H2O")
    other = atoms.copy()
    other.positions[0, 0] += 1e-8
    assert identity_of(other) != identity_of(atoms)


def test_charge_and_multiplicity_have_defaults():
    assert charge_of(molecule("H2O")) == 0
    assert multiplicity_of(molecule("H2O")) == 1
    assert multiplicity_of(molecule("CH3")) == 2
    cation = molecule("H2O")
    cation.info["charge"] = 1
    assert multiplicity_of(cation) == 2


@pytest.mark.parametrize("charge", [0.5, "1", None, float("nan"), float("inf"), [1, 2]])
def test_a_charge_that_is_no_integer_is_refused(charge):
    atoms = molecule("H2O")
    atoms.info["charge"] = charge
    with pytest.raises(InputError, match=r"charge is .* expected an integer"):
        charge_of(atoms)


def test_kinds_are_symbols_where_none_are_given():
    assert kinds_of(molecule("H2O")) == ["O", "H", "H"]


def test_kinds_are_part_of_an_identity_where_they_are_asked_for():
    water = molecule("H2O")
    water.set_array("kinds", np.array(["Ow", "H", "H"]))
    assert kinds_of(water) == ["Ow", "H", "H"]
    assert identity_of(water, kinds=True)["kinds"] == ["Ow", "H", "H"]
    assert "kinds" not in identity_of(water)


@pytest.mark.parametrize(("pbc", "expected"), [(True, True), ([True, True, False], False), (False, False)])
def test_a_structure_is_periodic_in_three_directions_or_not(pbc, expected):
    assert is_periodic(Atoms("H", cell=[5, 5, 5], pbc=pbc)) is expected


def test_elements_are_in_the_order_of_atomic_numbers():
    assert elements_of([molecule("H2O"), bulk("Cu"), molecule("CH4")]) == ("H", "C", "O", "Cu")


def changed(atoms: Atoms, **changes: object) -> Atoms:
    for name, value in changes.items():
        setattr(atoms, name, value)
    return atoms


def with_info(atoms: Atoms, **info: object) -> Atoms:
    atoms.info.update(info)
    return atoms


FLAT = Atoms("Cu", cell=[[3, 0, 0], [6, 0, 0], [0, 0, 3]], pbc=True)
THIN = Atoms("Cu", cell=[[1e-6, 0, 0], [0, 3, 0], [0, 0, 3]], pbc=[True, False, False])
BAD = {
    "no atoms": (Atoms(), "bad has no atoms"),
    "nan": (Atoms("H", [[0, 0, np.nan]]), "not finite"),
    "infinite cell": (Atoms("H", cell=[np.inf, 1, 1]), "not finite"),
    "unknown element": (Atoms("HX", [[0, 0, 0], [0, 0, 2]]), "atom 1 is of no known element .found 'X'"),
    "no cell vector": (Atoms("Cu", cell=[3, 3, 0], pbc=True), "direction 2 but has no cell vector there; give one"),
    "no volume": (FLAT, "without volume"),
    "two parallel vectors, open": (changed(FLAT.copy(), pbc=False), "without volume"),
    "so many images that they do not end": (THIN, "thinner than 0.1 Å"),
    "overlap": (Atoms("H2", [[0, 0, 0], [0, 0, 0.1]]), r"atoms 0 \(H\) and 1 \(H\) overlap: they are 0.100 Å apart"),
    "same place": (Atoms("H2", [[0, 0, 0], [0, 0, 0]]), "0.000 Å apart, expected at least 0.310 Å"),
    "overlap with an image": (Atoms("H2", [[0, 0, 0.1], [0, 0, 9.9]], cell=[10] * 3, pbc=True), "0.200 Å apart"),
    "overlap with its own image": (
        Atoms("Cu", cell=[1.0, 5, 5], pbc=True),
        r"0 \(Cu\) and 0 \(Cu\) overlap: .* 1.000 Å",
    ),
    "triplet of 11 electrons": (with_info(Atoms("Na"), multiplicity=3), "11 electrons and multiplicity 3 .* an even"),
    "doublet of 10 electrons": (with_info(molecule("H2O"), multiplicity=2), "expected an odd multiplicity"),
    "multiplicity of nothing": (with_info(molecule("H2O"), multiplicity=0), "multiplicity 0"),
    "negative multiplicity": (with_info(molecule("H2O"), multiplicity=-1), "multiplicity -1"),
    "doublet of an ion of 10 electrons": (with_info(Atoms("Na"), charge=1, multiplicity=2), "bad: 10 electrons and"),
    "more spins than electrons": (with_info(Atoms("Li"), charge=1, multiplicity=5), "more unpaired electrons than"),
    "charge": (with_info(molecule("H2O"), charge=0.5), "bad: charge is 0.5"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_structure_that_cannot_be_worked_with_is_refused_with_the_reason(name):
    atoms, message = BAD[name]
    with pytest.raises(InputError, match=message) as caught:
        check_structure(atoms, "bad")
    assert str(caught.value).startswith("bad")


GOOD = {
    "molecule": molecule("CH3CH2OH"),
    "crystal": bulk("Cu"),
    "atom": Atoms("H"),
    "slab": Atoms("Cu", cell=[3, 3, 0], pbc=[True, True, False]),
    "wire": Atoms("Cu", cell=[3, 0, 0], pbc=[True, False, False]),
    "triplet oxygen": with_info(molecule("O2"), multiplicity=3),
    "ion": with_info(Atoms("Na"), charge=1),
    "far away": Atoms("H2", [[0, 0, 0], [1e6, 0, 0.74]]),
}


@pytest.mark.parametrize("name", GOOD)
def test_a_usual_structure_passes(name):
    check_structure(canonical(GOOD[name]), name)


def test_of_several_structures_the_bad_one_is_named():
    check_structures(list(GOOD.values()), "starts.xyz")
    with pytest.raises(InputError, match=r"^structure 1 of starts.xyz has no atoms$"):
        check_structures([molecule("H2O"), Atoms(), Atoms()], "starts.xyz")
