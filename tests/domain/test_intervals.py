import math
from itertools import product

import numpy as np
import pytest

from surveyor.learning.intervals import FEWEST, coverage_of_bound, coverage_of_scale, estimate_rmse, share_bound


@pytest.mark.parametrize(
    ("n_found", "n", "bound"),
    # From tables of Clopper and Pearson; 0 of n: 1 - 0.05^(1/n).
    [(0, 29, 0.0981), (0, 30, 0.0950), (0, 41, 0.0705), (1, 20, 0.2161), (5, 20, 0.4556), (20, 20, 1.0)],
)
def test_the_bound_of_a_share_is_that_of_the_tables(n_found, n, bound):
    assert share_bound(n_found, n) == pytest.approx(bound, abs=1e-4)


def test_the_bound_of_a_share_leaves_five_percent_below():
    bound, n = share_bound(3, 30), 30
    below = sum(math.comb(n, k) * bound**k * (1 - bound) ** (n - k) for k in range(4))
    assert below == pytest.approx(0.05, abs=1e-9)


def test_the_value_is_the_root_mean_square_over_all_components():
    forces = [np.full(3 * n, 1.0 + n) for n in range(1, 31)]
    estimate = estimate_rmse([each[0] for each in forces], [len(each) for each in forces])
    assert estimate.value == pytest.approx(np.sqrt(np.mean(np.square(np.concatenate(forces)))))
    assert estimate.low < estimate.value < estimate.bound < estimate.high
    assert estimate.n == 30


def test_the_interval_is_that_of_a_bootstrap_by_hand():
    generator = np.random.default_rng(0)
    errors, weights = generator.normal(100, 10, size=200), generator.integers(3, 30, size=200)
    estimate = estimate_rmse(errors, weights)
    drawn = generator.integers(200, size=(20_000, 200))
    means = np.sqrt((np.square(errors) * weights)[drawn].sum(axis=1) / weights[drawn].sum(axis=1))
    by_hand = np.quantile(means, [0.025, 0.975, 0.95])  # the errors are not skewed, so no correction is needed
    np.testing.assert_allclose([estimate.low, estimate.high, estimate.bound], by_hand, rtol=2e-3)


def test_the_bound_holds_as_often_as_it_says():
    true, sigma = math.exp(0.15**2), 0.15  # of a log-normal distribution
    draws = [np.exp(sigma * np.random.default_rng(seed).normal(size=30)) for seed in range(200)]
    holds = [estimate_rmse(errors, np.ones(30)).bound >= true for errors in draws]
    assert 0.90 <= np.mean(holds) <= 0.98


def test_the_same_errors_give_the_same_interval():
    errors = np.random.default_rng(0).exponential(size=30)
    assert estimate_rmse(errors, np.ones(30)) == estimate_rmse(errors, np.ones(30))


def test_too_few_structures_have_no_interval():
    assert estimate_rmse([1.0] * (FEWEST - 1), [1.0] * (FEWEST - 1)) is None
    assert estimate_rmse([1.0] * FEWEST, [1.0] * FEWEST) is not None


def test_an_error_that_is_not_finite_has_no_bound():
    estimate = estimate_rmse([1.0] * 29 + [None], [3.0] * 30)
    assert (estimate.value, estimate.bound) == (math.inf, math.inf)


def test_equal_errors_need_no_interval():
    estimate = estimate_rmse([2.0] * 30, [3.0] * 30)
    assert (estimate.low, estimate.value, estimate.high) == pytest.approx((2.0, 2.0, 2.0))


def test_an_uncertainty_that_is_as_good_as_before_covers_ninety_percent():
    generator = np.random.default_rng(0)
    found = [coverage_of_scale(generator.exponential(size=40), generator.exponential(size=50)) for _ in range(400)]
    assert np.mean([each.share for each in found]) == pytest.approx(0.9, abs=0.015)
    assert np.mean([each.is_too_small for each in found]) <= 0.04  # 2.5 % by chance


def test_an_uncertainty_that_is_too_small_is_found():
    generator = np.random.default_rng(0)
    found = [coverage_of_scale(3 * generator.exponential(size=40), generator.exponential(size=50)) for _ in range(50)]
    assert np.mean([each.is_too_small for each in found]) > 0.9


def test_of_too_few_the_coverage_is_not_known():
    for n, n_earlier in product((FEWEST - 1, FEWEST), repeat=2):
        assert (coverage_of_scale([1.0] * n, [1.0] * n_earlier) is None) == (min(n, n_earlier) < FEWEST)


def test_a_bound_covers_what_is_within_it():
    found = coverage_of_bound([0.5] * 34 + [1.5] * 6, 0.9)
    assert (found.n_covered, found.n, found.is_scaled, found.is_too_small) == (34, 40, False, False)
    assert (found.low, found.high) == (0.8, 0.975)  # 32 to 39 of 40: the binomial distribution
    assert coverage_of_bound([0.5] * 31 + [1.5] * 9, 0.9).is_too_small
    assert coverage_of_bound([0.5] * (FEWEST - 1), 0.9) is None
