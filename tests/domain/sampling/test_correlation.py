import numpy as np
import pytest
from scipy.signal import lfilter

from surveyor.sampling.correlation import decorrelated, statistical_inefficiency


def autoregressive(memory: float, n: int) -> np.ndarray:
    """Values that remember a fraction of the one before: the inefficiency is (1 + memory) / (1 - memory)."""
    return lfilter([1], [1, -memory], np.random.default_rng(2).normal(size=n)) + 7


@pytest.mark.parametrize("memory", [0.0, 0.5, 0.9, 0.98])
def test_the_inefficiency_of_a_known_process_is_found(memory):
    found = statistical_inefficiency(autoregressive(memory, 200_000))
    assert found == pytest.approx((1 + memory) / (1 - memory), rel=0.1)


def test_frames_are_an_inefficiency_apart_and_end_with_the_last():
    chosen = decorrelated(autoregressive(0.9, 5000))
    assert chosen[-1] == 4999
    assert set(np.diff(chosen)) == {chosen[-1] - chosen[-2]}
    assert 15 < chosen[-1] - chosen[-2] < 25


def test_the_slowest_of_several_values_counts():
    fast = autoregressive(0.0, 5000)
    both = np.stack([fast, autoregressive(0.9, 5000)], axis=1)
    assert np.diff(decorrelated(both))[0] > 10 * np.diff(decorrelated(fast))[0]


def test_values_that_do_not_change_leave_the_others_their_memory():
    series = autoregressive(0.9, 5000)
    with_constant = np.stack([np.full(5000, 3.6), series], axis=1)
    assert decorrelated(with_constant) == decorrelated(series)


def test_independent_values_are_all_kept():
    assert len(decorrelated(np.random.default_rng(0).normal(size=100))) > 40


@pytest.mark.parametrize("values", [np.full(50, 0.1), np.zeros(50), np.array([3.0])])
def test_of_what_does_not_change_the_last_is_kept(values):
    assert decorrelated(values) == [len(values) - 1]


def test_of_nothing_nothing_is_kept():
    assert decorrelated(np.zeros(0)) == []
