"""The greedy reduction of the posterior variance, against matrices that are inverted again for each choice."""

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from surveyor.models.posterior import inverse_root
from surveyor.models.uncertainty import RIDGE
from surveyor.selection.variance import greedy, information, reduced, variances


def by_inversion(
    candidates: Sequence[np.ndarray], known: Sequence[np.ndarray], n: int
) -> tuple[list[int], list[float]]:
    """Invert (sum J^T J + lambda) anew after each choice, with nothing whitened or reduced.

    Args:
        candidates: J of each candidate.
        known: J of each known structure; lambda comes from the first one, the training set.
        n: number of choices.
    """
    moments = known[0].T @ known[0]
    moments = moments + RIDGE * np.trace(moments) / len(moments) * np.eye(len(moments))
    moments = moments + sum(each.T @ each for each in known[1:])
    order: list[int] = []
    scores: list[float] = []
    for _ in range(min(n, len(candidates))):
        covariance = np.linalg.inv(moments)
        left = {index: rows for index, rows in enumerate(candidates) if index not in order}
        means = {index: np.trace(rows @ covariance @ rows.T) / len(rows) for index, rows in left.items()}
        best = max(means, key=lambda index: means[index])
        order.append(best)
        scores.append(float(np.sqrt(means[best])))
        moments = moments + candidates[best].T @ candidates[best]
    return order, scores


def chosen_by_us(
    candidates: Sequence[np.ndarray], known: Sequence[np.ndarray], n: int
) -> tuple[list[int], list[float]]:
    root = inverse_root(known[0].T @ known[0])
    rows = [reduced(each @ root) for each in candidates]
    sizes = [len(each) for each in candidates]
    return greedy(rows, sizes, information(len(root), (each @ root for each in known[1:])), n)


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10**6), n_features=st.integers(1, 7), n_requested=st.integers(0, 3), n=st.integers(1, 9))
def test_choices_are_those_of_explicit_inversion(seed: int, n_features: int, n_requested: int, n: int) -> None:
    generator = np.random.default_rng(seed)
    rows = [generator.normal(size=(generator.integers(1, 13), n_features)) for _ in range(8)]
    known = [generator.normal(size=(12, n_features)), *rows[6 : 6 + n_requested]]
    order, scores = chosen_by_us(rows[:6], known, n)
    expected_order, expected_scores = by_inversion(rows[:6], known, n)
    assert order == expected_order
    np.testing.assert_allclose(scores, expected_scores, rtol=1e-7)


@pytest.mark.parametrize("n_rows", [1, 5, 20])
def test_variances_are_those_of_the_downdated_covariance(n_rows: int) -> None:
    generator = np.random.default_rng(n_rows)
    covariance = np.eye(6)
    added = [generator.normal(size=(n_rows, 6)) for _ in range(4)]
    rows = generator.normal(size=(9, 6))
    for number, each in enumerate(added, start=1):
        gain = covariance @ each.T @ np.linalg.inv(np.eye(n_rows) + each @ covariance @ each.T)
        covariance = covariance - gain @ each @ covariance
        found = variances(rows, information(6, added[:number]))
        np.testing.assert_allclose(found, np.einsum("ij,jk,ik->i", rows, covariance, rows), rtol=1e-9)


def test_few_rows_are_kept_and_many_are_reduced_to_the_same_information() -> None:
    rows = np.random.default_rng(0).normal(size=(30, 4))
    np.testing.assert_array_equal(reduced(rows[:4]), rows[:4])
    assert reduced(rows).shape == (4, 4)
    np.testing.assert_allclose(reduced(rows).T @ reduced(rows), rows.T @ rows)


def test_variances_stay_precise_when_an_unseen_direction_is_learned() -> None:
    """In a direction without data, whitened rows are larger by many orders of magnitude; 60 digits decide."""
    mpmath = pytest.importorskip("mpmath")  # comes with torch
    mp, mpf = mpmath.mp, mpmath.mpf
    generator = np.random.default_rng(1)
    scale = np.array([1.0, 1e2, 1e4, 1e6])
    rotation = np.linalg.qr(generator.normal(size=(4, 4)))[0]
    added, rows = (generator.normal(size=(n, 4)) * scale @ rotation for n in (7, 5))
    found = variances(rows, information(4, [added]))
    with mp.workdps(60):
        exact = mp.matrix(np.eye(4).tolist())
        exact += mp.matrix(added.tolist()).T * mp.matrix(added.tolist())
        inverse = exact**-1
        expected = [(mp.matrix([row]) * inverse * mp.matrix([row]).T)[0] for row in rows.tolist()]
        errors = [abs(mpf(float(ours)) / theirs - 1) for ours, theirs in zip(found, expected, strict=True)]
    assert max(errors) < 1e-4  # the condition number is 1e12


def test_equal_candidates_are_chosen_by_index_and_each_lowers_the_score_of_the_next() -> None:
    one = np.array([[3.0, 4.0]])
    order, scores = greedy([one, one, one], [1, 1, 1], np.eye(2), 3)
    assert order == [0, 1, 2]
    # The posterior variance after k labels of one quantity with prior variance 25 is 25 / (1 + 25 k).
    np.testing.assert_allclose(np.square(scores), [25 / (1 + 25 * k) for k in range(3)])


def test_what_differs_only_in_the_last_bits_is_a_tie() -> None:
    order, _ = greedy([np.array([[1.0]]), np.array([[1.0 + 1e-9]])], [1, 1], np.eye(1), 1)
    assert order == [0]


def test_the_score_is_a_mean_over_rows_so_that_many_atoms_alone_are_no_merit() -> None:
    small, large = np.array([[2.0, 0.0]]), np.tile([[1.0, 0.0]], (50, 1))
    order, scores = greedy([reduced(large), small], [50, 1], np.eye(2), 1)
    assert (order, scores) == ([1], [pytest.approx(2.0)])
