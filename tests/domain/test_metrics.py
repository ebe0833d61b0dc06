from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, molecule

from surveyor.dataset import Dataset, with_label
from surveyor.dataset.metrics import (
    Errors,
    StructureError,
    coverage_in_words,
    covered,
    errors_of,
    largest_errors,
    structure_error,
    structure_errors,
    typical_error,
)
from surveyor.labels import Label
from surveyor.potentials import Prediction


def labelled(atoms: Atoms, stress: np.ndarray | None = None) -> Atoms:
    return with_label(atoms, "v1:0", Label(-3.0, np.ones((len(atoms), 3)), stress))


def off_by(energy: float, forces: float | np.ndarray, atoms: Atoms, stress: np.ndarray | None = None) -> Prediction:
    return Prediction(-3.0 + energy, np.ones((len(atoms), 3)) + forces, stress)


def test_errors_of_energies_are_per_atom() -> None:
    water, hydrogen = labelled(molecule("H2O")), labelled(molecule("H2"))
    errors = errors_of([water, hydrogen], [off_by(0.3, 0.0, water), off_by(-0.4, 0.0, hydrogen)])
    assert errors.n_structures == 2
    assert errors.energy_mae == pytest.approx((0.1 + 0.2) / 2)
    assert errors.energy_rmse == pytest.approx(np.sqrt((0.1**2 + 0.2**2) / 2))


def test_the_offset_of_energies_is_told_apart_from_their_scatter() -> None:
    water, hydrogen = labelled(molecule("H2O")), labelled(molecule("H2"))
    # 12 and 8 meV/atom too high, whatever the number of atoms
    errors = errors_of([water, hydrogen], [off_by(3 * 0.012, 0.0, water), off_by(2 * 0.008, 0.0, hydrogen)])
    assert errors.energy_offset == pytest.approx(0.010)
    assert errors.energy_rmse_without_offset == pytest.approx(0.002)
    assert errors.energy_rmse == pytest.approx(np.hypot(0.010, 0.002))
    assert errors_of([water], [off_by(-0.3, 0.0, water)]).energy_offset == pytest.approx(-0.1)
    assert errors_of([water], [off_by(-0.3, 0.0, water)]).energy_rmse_without_offset is None
    assert errors_of([water], [off_by(np.nan, 0.0, water)]).energy_offset is None


@pytest.mark.parametrize(
    ("n_structures", "offset", "expected"),
    [(100, 9.6, True), (100, -9.6, True), (100, 1.0, False), (4, 9.6, True), (4, 3.9, False), (1, 9.6, False)],
)
def test_an_offset_is_pointed_out_where_it_is_most_of_the_error(
    n_structures: int, offset: float, expected: bool
) -> None:
    water = labelled(molecule("H2O"))
    scatter = np.resize([2.4, -2.4], n_structures)  # meV/atom
    predictions = [off_by(3e-3 * (offset + each), 0.0, water) for each in scatter]
    assert errors_of([water] * n_structures, predictions).is_mostly_offset == expected


def test_an_offset_is_judged_by_the_energies_that_count() -> None:
    water, unknown = labelled(molecule("H2O")), labelled(molecule("H2O"))
    unknown.info["config_energy_weight"] = 0.0
    predictions = [off_by(3e-3 * (3.9 + each), 0.0, water) for each in np.resize([2.4, -2.4], 4)]
    errors = errors_of([water] * 4 + [unknown] * 96, predictions + predictions * 24)
    assert errors.n_energies == 4
    assert not errors.is_mostly_offset  # of a hundred, it would be
    assert Errors(100, energy_offset=3.9e-3, energy_rmse_without_offset=2.4e-3).is_mostly_offset  # an older record


def test_each_force_component_weighs_the_same_whatever_the_size_of_its_structure() -> None:
    water, hydrogen = labelled(molecule("H2O")), labelled(molecule("H2"))
    errors = errors_of([water, hydrogen], [off_by(0.0, 0.1, water), off_by(0.0, -0.6, hydrogen)])
    assert errors.forces_mae == pytest.approx((9 * 0.1 + 6 * 0.6) / 15)
    assert errors.forces_rmse == pytest.approx(np.sqrt((9 * 0.1**2 + 6 * 0.6**2) / 15))


def test_forces_are_told_apart_by_element() -> None:
    water = labelled(molecule("H2O"))
    difference = np.where(water.symbols == "O", 0.5, 0.1)[:, None]
    errors = errors_of([water], [off_by(0.0, difference, water)])
    assert errors.forces_rmse_by_element == {"H": pytest.approx(0.1), "O": pytest.approx(0.5)}


def test_stress_is_compared_where_label_and_prediction_have_one() -> None:
    copper, water = labelled(bulk("Cu"), np.zeros(6)), labelled(molecule("H2O"))
    predictions = [off_by(0.0, 0.0, copper, np.full(6, 0.02)), off_by(0.0, 0.0, water)]
    errors = errors_of([copper, water], predictions)
    assert errors.stress_rmse == pytest.approx(0.02)
    assert errors_of([water], predictions[1:]).stress_rmse is None


def test_errors_of_the_stress_are_over_its_components() -> None:
    copper = labelled(bulk("Cu"), np.full(6, 0.5))
    difference = np.array([0.3, -0.1, 0.0, 0.0, 0.0, 0.0])
    errors = errors_of([copper], [off_by(0.0, 0.0, copper, 0.5 + difference)])
    assert errors.stress_mae == pytest.approx(0.4 / 6)
    assert errors.stress_rmse == pytest.approx(np.sqrt(0.1 / 6))


def test_a_stress_that_does_not_count_is_not_compared() -> None:
    without, weightless = labelled(bulk("Cu")), labelled(bulk("Cu"), np.zeros(6))
    weightless.info["config_stress_weight"] = 0.0
    for copper in (without, weightless):
        assert errors_of([copper], [off_by(0.0, 0.0, copper, np.ones(6))]).stress_rmse is None


def test_nothing_gives_no_numbers() -> None:
    assert errors_of([], []) == Errors(n_energies=0)


def test_errors_survive_as_json() -> None:
    water = labelled(molecule("H2O"))
    errors = errors_of([water], [off_by(0.3, 0.1, water)])
    assert Errors(**errors.to_dict()) == errors


@pytest.mark.parametrize("compare", [errors_of, largest_errors, typical_error, covered])
def test_predictions_of_another_number_of_structures_are_refused(compare: Callable[..., object]) -> None:
    water = labelled(molecule("H2O"))
    with pytest.raises(ValueError, match="shorter"):
        compare([water, water], [off_by(0.3, 0.1, water)])
    with pytest.raises(ValueError, match="longer"):
        compare([water], [off_by(0.3, 0.1, water)] * 2)


def test_an_error_that_is_as_large_as_the_uncertainty_is_covered() -> None:
    water, off = labelled(molecule("H2O")), np.zeros((3, 3))
    off[2, 0] = 1.0
    assert covered([water], [replace(off_by(0.0, off, water), uncertainty=np.array([0.0, 1.0, 0.5]))]) == (1, 1)


def test_the_error_of_a_structure_is_per_atom_and_component_in_thousandths() -> None:
    water = labelled(molecule("H2O"))
    found = structure_error(water, off_by(-0.3, np.array([[0.3], [0.0], [0.0]]), water))
    assert (found.energy, found.forces) == (pytest.approx(100), pytest.approx(300 / np.sqrt(3)))
    other = structure_error(water, Label(-2.7, np.ones((3, 3)) - 0.2))
    assert (other.energy, other.forces) == (pytest.approx(100), pytest.approx(200))


@pytest.mark.parametrize(("name", "expected"), [("energy", (0.0, 200.0)), ("forces", (100.0, 0.0))])
def test_what_has_no_weight_is_no_error_of_a_structure(name: str, expected: tuple[float, float]) -> None:
    water = labelled(molecule("H2O"))
    water.info[f"config_{name}_weight"] = 0.0
    found = structure_error(water, off_by(0.3, 0.2, water))
    assert (found.energy, found.forces) == (pytest.approx(expected[0]), pytest.approx(expected[1]))


def test_errors_of_structures_are_named_by_the_keys_of_their_labels() -> None:
    structures = Dataset(
        with_label(molecule(name), f"v1:{name}", Label(-3.0, np.ones((len(molecule(name)), 3))))
        for name in ("H2O", "H2")
    )
    found = structure_errors(structures, [off_by(0.3, 0.0, structures[0]), off_by(0.4, 0.0, structures[1])])
    assert {key: error.energy for key, error in found.items()} == {
        "v1:H2O": pytest.approx(100),
        "v1:H2": pytest.approx(200),
    }
    with pytest.raises(ValueError, match="shorter"):
        structure_errors(structures, [off_by(0.3, 0.0, structures[0])])


@pytest.mark.parametrize(
    ("energy", "forces", "expected"),
    [(10, 200, False), (10.1, 200, True), (10, 200.1, True), (np.nan, 1, True), (1, np.nan, True), (11, 201, True)],
)
def test_an_error_exceeds_thresholds_if_either_of_its_parts_does(
    energy: float, forces: float, *, expected: bool
) -> None:
    assert StructureError(energy, forces).exceeds(10, 200) is expected


def test_what_an_uncertainty_covers_is_the_largest_error_of_a_structure() -> None:
    water, hydrogen, weightless = labelled(molecule("H2O")), labelled(molecule("H2")), labelled(molecule("H2"))
    weightless.info["config_forces_weight"] = 0.0
    off = np.zeros((3, 3))
    off[1] = (0.3, 0.0, 0.4)  # 0.5 eV/Å on the second atom
    errors = [off_by(0, off, water), off_by(0, 0.1, hydrogen), off_by(0, 9.0, weightless)]
    structures = [water, hydrogen, weightless]
    stated = [np.array([0.5, 0.1, 0.1]), np.array([0.1, 0.17]), np.array([0.0, 0.0])]  # sqrt(3) 0.1 is 0.173
    predictions = [replace(each, uncertainty=bound) for each, bound in zip(errors, stated, strict=True)]
    assert covered(structures, predictions) == (1, 2)
    assert covered(structures, errors) == (0, 0)
    assert typical_error(structures, errors) == pytest.approx(np.sqrt((0.5**2 + 3 * 0.1**2) / 2))
    assert typical_error(structures[2:], errors[2:]) is None
    assert coverage_in_words(38, 41, 0.9) == "stated uncertainty covered 93 % of 41 (expected 90)"
