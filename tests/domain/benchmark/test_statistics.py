"""Statistics of learning curves against known curves and against SciPy."""

import math

import numpy as np
import pytest
from scipy.stats import bootstrap, ttest_1samp

from surveyor.benchmark.statistics import error_at, geometric_mean, labels_needed, ratio_of_labels

N_LABELS = [10, 17, 30, 53, 92, 160]


def power_law(factor: float, exponent: float = -0.7) -> list[float]:
    return [factor * n**exponent for n in N_LABELS]


@pytest.mark.parametrize("n", [10, 12.3, 53, 80, 160])
def test_interpolation_is_exact_for_a_power_law(n: float) -> None:
    errors = power_law(3.0)
    assert error_at(N_LABELS, errors, n) == pytest.approx(3.0 * n**-0.7)
    needed = labels_needed(N_LABELS, errors, 3.0 * n**-0.7 * (1 + 1e-12))
    assert (needed.n_labels, needed.is_reached) == (pytest.approx(n), True)


@pytest.mark.parametrize("saving", [0.6, 1.0, 1.7])
def test_the_ratio_is_how_many_times_fewer_labels_an_arm_needs(saving: float) -> None:
    baseline = [power_law(factor) for factor in (2.0, 3.0, 5.0)]
    arm = [power_law(factor * saving**-0.7) for factor in (2.0, 3.0, 5.0)]
    ratio = ratio_of_labels(N_LABELS, baseline, arm, 80)
    assert ratio.n_bounded == 0
    assert ratio.mean.value == pytest.approx(saving)
    assert (ratio.mean.low, ratio.mean.high) == (pytest.approx(saving), pytest.approx(saving))


def test_an_arm_that_never_reaches_the_error_counts_as_the_bound() -> None:
    ratio = ratio_of_labels(N_LABELS, [power_law(1.0), power_law(1.0)], [power_law(9.0), power_law(1.0)], 80)
    assert ratio.n_bounded == 1
    assert ratio.mean.value == pytest.approx(math.sqrt(80 / 160))
    assert labels_needed(N_LABELS, power_law(1.0), 1e-9).is_reached is False


def test_an_arm_that_begins_below_the_error_needs_the_first_labels() -> None:
    assert labels_needed(N_LABELS, power_law(0.1), 0.2).n_labels == 10


def test_an_error_that_rises_again_counts_at_its_lowest() -> None:
    curve = [8.0, 2.0, 4.0, 1.0, 3.0, 0.5]
    assert labels_needed(N_LABELS, curve, 2.0).n_labels == 17
    assert error_at(N_LABELS, curve, 30) == 2.0
    assert error_at(N_LABELS, curve, 92) == 1.0
    # From 30 on it falls from the lowest of before, 2, to 1 at 53.
    assert labels_needed(N_LABELS, curve, math.sqrt(2.0)).n_labels == pytest.approx(math.sqrt(30 * 53))


def test_the_baseline_against_itself_has_the_ratio_1_however_its_errors_rise_and_fall() -> None:
    noisy = np.exp(np.random.default_rng(0).normal(size=(20, len(N_LABELS)))).tolist()
    ratio = ratio_of_labels(N_LABELS, noisy, noisy, 80)
    assert (ratio.mean.value, ratio.mean.low, ratio.mean.high, ratio.n_bounded) == (1.0, 1.0, 1.0, 0)


def test_a_model_that_failed_counts_as_an_infinite_error() -> None:
    curve = [math.inf, math.inf, 4.0, 2.0, math.inf, 1.0]
    assert labels_needed(N_LABELS, curve, 4.0).n_labels == 30
    assert error_at(N_LABELS, curve, 20) == math.inf
    assert error_at(N_LABELS, curve, 92) == 2.0
    assert geometric_mean([1.0, math.inf]).value == math.inf


def test_the_interval_is_that_of_a_t_test_on_the_logarithms() -> None:
    values = np.exp(np.random.default_rng(1).normal(0.3, 0.2, size=8))
    mean = geometric_mean(values.tolist())
    expected = ttest_1samp(np.log(values), 0.0).confidence_interval(0.95)
    assert mean.value == pytest.approx(np.exp(np.log(values).mean()))
    assert (mean.low, mean.high) == (pytest.approx(np.exp(expected.low)), pytest.approx(np.exp(expected.high)))


def test_the_interval_is_about_that_of_a_bootstrap() -> None:
    values = np.exp(np.random.default_rng(2).normal(0.0, 0.15, size=40))
    mean = geometric_mean(values.tolist())
    found = bootstrap((np.log(values),), np.mean, random_state=np.random.default_rng(0)).confidence_interval
    assert (mean.low, mean.high) == (
        pytest.approx(np.exp(found.low), rel=0.02),
        pytest.approx(np.exp(found.high), rel=0.02),
    )


def test_a_single_seed_has_no_interval() -> None:
    mean = geometric_mean([2.0])
    assert (mean.value, mean.low, mean.high, mean.n) == (pytest.approx(2.0), None, None, 1)
