"""Calibration of committees on draws whose true factor is known."""

from collections.abc import Sequence

import numpy as np
import pytest
from ase import Atoms
from scipy import stats

from surveyor.dataset import with_label
from surveyor.labels import Label
from surveyor.models.disagreement import (
    RESOLUTION,
    Calibration,
    Calibrations,
    calibrate,
    disagreement_of,
    expected_within,
    student_factor,
)
from surveyor.potentials import Prediction

FACTOR = 2.0
N_ATOMS = 4


def calibrated(n_members: int, n_structures: int, factor: float = FACTOR, seed: int = 0) -> Calibrations:
    """Calibrate a committee that scatters normally, and whose mean is off by `factor` times its true spread."""
    rng = np.random.default_rng(seed)
    widths = 0.05 * np.exp(rng.normal(0, 0.5, size=(n_structures, N_ATOMS, 1)))
    forces = widths * rng.normal(size=(n_members, n_structures, N_ATOMS, 3))
    energies = widths[:, 0, 0] * rng.normal(size=(n_members, n_structures))
    # The mean of normal numbers is independent of their variance, so the labels are drawn around the mean.
    true_forces = forces.mean(axis=0) + factor * widths * rng.normal(size=(n_structures, N_ATOMS, 3))
    true_energies = energies.mean(axis=0) + factor * widths[:, 0, 0] * rng.normal(size=n_structures)
    bare = Atoms(f"H{N_ATOMS}", positions=np.eye(4, 3))
    structures = [
        with_label(bare, "v1:0", Label(float(energy), force, None))
        for energy, force in zip(true_energies, true_forces, strict=True)
    ]
    members = [
        [Prediction(float(e), f) for e, f in zip(*of_one, strict=True)] for of_one in zip(energies, forces, strict=True)
    ]
    return calibrate(structures, members)


def relative_error(n_members: int, n_components: int, n: int) -> float:
    """Return the standard error of the logarithm of the fitted scale, from the Fisher information of n values."""
    degrees = n_components * (n_members - 1)
    return float(np.sqrt((degrees + n_components + 2) / (2 * n_components * degrees * n)))


# So many structures that the root mean square of the ratios, four times as far off or more, would be found wrong.
@pytest.mark.parametrize(("n_members", "n_structures"), [(2, 300), (3, 300), (4, 300), (8, 700), (20, 3600)])
def test_the_factor_is_found_whatever_the_number_of_members(n_members: int, n_structures: int) -> None:
    found = calibrated(n_members, n_structures)
    for calibration, n_components in ((found.energy, 1), (found.forces, 3)):
        assert calibration.factor is not None
        n_values = n_structures if n_components == 1 else n_structures * N_ATOMS
        assert calibration.n == n_values
        tolerance = 4 * relative_error(n_members, n_components, n_values)
        assert abs(np.log(calibration.factor / FACTOR)) < tolerance
        expected = expected_within(n_members, n_components)
        assert calibration.expected_within == expected
        assert calibration.within == pytest.approx(expected, abs=4 * np.sqrt(expected * (1 - expected) / n_values))
        # Moments would be off by more: (M - 1) / (M - 3) is the mean square of Student's ratios.
        degrees = n_components * (n_members - 1)
        bias = np.inf if degrees < 3 else np.log(degrees / (degrees - 2)) / 2
        assert tolerance < bias


@pytest.mark.parametrize(
    ("n_members", "energies", "forces"), [(2, 0.5, 0.5), (3, 3**-0.5, 0.545), (10000, 0.683, 0.608)]
)
def test_the_expected_fraction_is_that_of_the_distribution(n_members: int, energies: float, forces: float) -> None:
    assert expected_within(n_members, 1) == pytest.approx(energies, abs=1e-3)
    assert expected_within(n_members, 3) == pytest.approx(forces, abs=1e-3)


@pytest.mark.parametrize("n_members", [2, 3, 5])
def test_the_factor_is_the_maximum_of_the_likelihood(n_members: int) -> None:
    ratios = np.abs(np.random.default_rng(1).standard_t(n_members - 1, size=50))
    factor = student_factor(ratios, n_members)
    assert factor is not None
    likelihood = [stats.t.logpdf(ratios, n_members - 1, scale=factor * step).sum() for step in (0.99, 1, 1.01)]
    assert np.argmax(likelihood) == 1


def test_the_factor_scales_with_the_errors() -> None:
    ratios = np.abs(np.random.default_rng(1).normal(size=40))
    assert student_factor(0.01 * ratios, 3) == pytest.approx(0.01 * student_factor(ratios, 3), rel=1e-6)


def test_there_is_no_factor_where_all_but_one_of_m_errors_are_zero() -> None:
    assert student_factor(np.array([0.0, 1.0]), 2) is None
    assert student_factor(np.array([0.0, 0.0, 1.0]), 2) is None
    assert student_factor(np.array([0.0, 1.0, 1.0]), 2) is not None


def with_energies(errors: Sequence[float], spreads: Sequence[float]) -> Calibration:
    """Calibrate the energies of one atom, of which two members differ by the spreads, and the mean by the errors."""
    bare, forces = Atoms("H", positions=[[0, 0, 0]]), np.zeros((1, 3))
    structures = [with_label(bare, "v1:0", Label(error, forces, None)) for error in errors]
    members = [[Prediction(sign * spread, forces) for spread in spreads] for sign in (1, -1)]
    return calibrate(structures, members).energy


@pytest.mark.parametrize(
    ("errors", "spreads", "expected"),
    [
        ([1, 2, 3, 4], [0.1, 0.2, 0.4, 0.5], 1.0),
        ([1, 2, 3, 4], [0.5, 0.4, 0.2, 0.1], -1.0),
        ([1, 2, 3, 4], [0.1, 0.2, 0.5, 0.4], 0.8),
        ([1, 2, 3, 3.5], [0.1, 0.2, 0.4, 1.1], 1.0),  # ranges of more and of less than 1
        ([1, 2, 1.5, 1.2], [1.1, 2.1, 1.6, 1.3], 1.0),  # both ranges are 1
        ([1, 1, 1, 1], [0.1, 0.2, 0.4, 0.5], None),
        ([1, 2, 3, 4], [0.1, 0.1, 0.1, 0.1], None),
    ],
)
def test_the_rank_correlation_is_that_of_errors_and_disagreements(
    errors: Sequence[float], spreads: Sequence[float], expected: float | None
) -> None:
    assert with_energies(errors, spreads).rank_correlation == (None if expected is None else pytest.approx(expected))


def test_the_factor_holds_for_forces_in_one_direction_alone() -> None:
    # As in a linear molecule: one component takes the place of three.
    rng = np.random.default_rng(2)
    ratios = FACTOR * np.abs(rng.standard_t(2, size=4000))
    assert student_factor(ratios, 3) == pytest.approx(FACTOR, rel=4 * relative_error(3, 1, 4000))


def test_values_on_which_all_members_agree_are_counted_and_not_compared() -> None:
    label = Label(0.0, np.ones((2, 3)), None)
    structures = [with_label(Atoms("H2", positions=np.eye(2, 3)), "v1:0", label)] * 4
    # The members differ on the second atom alone; on the first one, by rounding.
    forces = [np.array([[0.3, 0, 0], [scatter, 0, 0]]) for scatter in (0.1, 0.2, 0.1 + 0.2)]
    members = [[Prediction(0.1 + 1e-15 * index, each)] * 4 for index, each in enumerate(forces)]
    found = calibrate(structures, members)
    assert (found.forces.n, found.forces.n_agreed) == (4, 4)
    assert found.forces.factor is not None
    assert found.forces.rank_correlation is None  # of four equal values
    assert (found.energy.n, found.energy.n_agreed, found.energy.factor) == (0, 4, None)
    assert found.energy.reason == (
        "found 0 values, and 4 on which all members agree; expected 3 or more on which members disagree"
    )


def test_one_structure_calibrates_forces_but_not_energies() -> None:
    found = calibrated(3, 1)
    assert found.energy.factor is None
    assert found.energy.reason == "found 1 value; expected 3 or more on which members disagree"
    assert found.forces.factor is not None


@pytest.mark.parametrize(
    ("energies", "reason"), [([0.0, np.nan], "not finite"), ([-0.1, 0.1], "most errors are exactly zero")]
)
def test_what_cannot_be_calibrated_says_why(energies: Sequence[float], reason: str) -> None:
    structures = [with_label(Atoms("H"), "v1:0", Label(0.0, np.zeros((1, 3)), None))] * 3
    found = calibrate(structures, [[Prediction(each, np.zeros((1, 3)))] * 3 for each in energies])
    assert found.energy.factor is None
    assert reason in str(found.energy.reason)
    assert found.energy.n == (3 if np.isfinite(energies).all() else 0)


def test_values_without_disagreement_are_counted_also_where_most_errors_are_zero() -> None:
    found = with_energies([0, 0, 0, 0], [0.1, 0.2, 0.3, 0])
    assert (found.n, found.n_agreed, found.reason) == (3, 1, "most errors are exactly zero")


def test_members_that_differ_by_the_resolution_agree() -> None:
    structures = [with_label(Atoms("H"), "v1:0", Label(1.0, np.zeros((1, 3)), None))] * 5
    forces = np.zeros((1, 3))
    members = [[Prediction(sign * RESOLUTION, forces)] * 3 + [Prediction(sign, forces)] * 2 for sign in (-1, 0, 1)]
    found = calibrate(structures, members)
    assert disagreement_of([each[0] for each in members]).energy == RESOLUTION
    assert (found.energy.n, found.energy.n_agreed) == (2, 3)


@pytest.mark.parametrize(
    ("n_structures", "n_predictions", "n_atoms"),
    [(3, (2, 2), 2), (2, (3, 2), 2), (2, (2, 3), 2), (2, (2, 2), 1)],
)
def test_predictions_of_other_structures_are_refused(
    n_structures: int, n_predictions: Sequence[int], n_atoms: int
) -> None:
    structures = [with_label(Atoms("H2"), "v1:0", Label(0.0, np.zeros((2, 3)), None))] * n_structures
    members = [[Prediction(0.0, np.zeros((n_atoms, 3)))] * n for n in n_predictions]
    with pytest.raises(ValueError, match=r"zip\(\) argument 2 is"):
        calibrate(structures, members)


def test_a_calibration_of_an_earlier_version_is_read() -> None:
    old = {"n": 5, "factor": 1.5, "rank_correlation": None, "within": 0.6}
    assert Calibrations.from_json({"energy": old, "forces": old}).forces.factor == 1.5
