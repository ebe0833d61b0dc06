"""Farthest-point sampling, against brute force."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from surveyor.selection.farthest import farthest_points
from surveyor.selection.ranking import Chosen, best_first, chosen, rounded


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10**6), n_known=st.integers(0, 4), n=st.integers(0, 10))
def test_each_point_is_the_farthest_from_all_before_it(seed: int, n_known: int, n: int) -> None:
    generator = np.random.default_rng(seed)
    points, known = generator.normal(size=(7, 3)), generator.normal(size=(n_known, 3))
    order, distances = farthest_points(points, known, n)
    assert len(order) == min(n, 7)
    assert len({*order}) == len(order)
    for turn, (index, distance) in enumerate(zip(order, distances, strict=True)):
        before = [*known, *points[order[:turn]]]
        others = [i for i in range(7) if i not in order[:turn]]
        nearest = {i: min((np.linalg.norm(points[i] - each) for each in before), default=np.inf) for i in others}
        assert distance == pytest.approx(max(nearest.values()))
        assert index == (max(nearest, key=lambda i: nearest[i]) if before else 0)


def test_equal_points_are_chosen_by_index() -> None:
    points = np.zeros((3, 2))
    assert farthest_points(points, np.zeros((0, 2)), 3) == ([0, 1, 2], [np.inf, 0.0, 0.0])
    assert farthest_points(points, np.ones((1, 2)), 2)[0] == [0, 1]


def test_ranks_ignore_what_is_below_a_millionth() -> None:
    assert best_first(np.array([1.0, 1.0 + 4e-7, 2.0])) == [2, 0, 1]
    assert best_first(np.array([np.nan, -3.0, np.inf])) == [2, 1, 0]
    np.testing.assert_array_equal(rounded(np.array([1.23456789, np.nan, np.inf])), [1.234568, -np.inf, np.inf])


def test_scores_that_are_no_numbers_are_left_out() -> None:
    found = chosen(["a", "b", "c"], [2, 0, 1], [np.inf, 0.1234567, np.nan])
    assert found == [Chosen("c", None), Chosen("a", 0.123457), Chosen("b", None)]
