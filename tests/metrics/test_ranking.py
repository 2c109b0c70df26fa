"""Expected hits under ties, against the enumeration of every order of equal scores."""

import functools
import itertools
from fractions import Fraction

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cmcl_jax.metrics.ranking import best_rank, hit_probability


def hit_rate_over_all_orders(scores: list[int], correct: list[bool], k: int) -> float:
    """Share of the orders that agree with the scores in which a correct candidate is among the first k."""
    orders = [
        order
        for order in itertools.permutations(range(len(scores)))
        if all(scores[a] >= scores[b] for a, b in itertools.pairwise(order))
    ]
    return float(Fraction(sum(any(correct[i] for i in order[:k]) for order in orders), len(orders)))


@functools.partial(jax.jit, static_argnames="k")
def first_hit(scores: jax.Array, correct: jax.Array, k: int) -> jax.Array:
    return hit_probability(best_rank(scores[None], correct[None]), k)[0]


candidates = st.lists(st.tuples(st.integers(0, 2), st.booleans()), min_size=6, max_size=6)


@settings(max_examples=60, deadline=None)
@given(candidates, st.sampled_from([1, 2, 3, 5, 10]))
def test_hit_probability_is_the_mean_over_all_orders_of_equal_scores(row: list[tuple[int, bool]], k: int) -> None:
    scores, correct = [list(column) for column in zip(*row, strict=True)]
    probability = first_hit(jnp.array(scores, jnp.float32), jnp.array(correct), k)
    np.testing.assert_allclose(probability, hit_rate_over_all_orders(scores, correct, k), rtol=1e-6, atol=1e-7)


def test_a_row_without_a_correct_candidate_is_never_a_hit() -> None:
    rank = best_rank(jnp.zeros((1, 4)), jnp.zeros((1, 4), bool))
    assert float(hit_probability(rank, 3)[0]) == 0


def test_infinite_scores_are_ordinary_scores() -> None:
    scores = jnp.array([[jnp.inf, 1.0, 2.0], [-jnp.inf, 1.0, 2.0], [-jnp.inf, -jnp.inf, -jnp.inf]])
    rank = best_rank(scores, jnp.array([[True, False, False]] * 3))
    np.testing.assert_allclose(hit_probability(rank, 1), [1, 0, 1 / 3], rtol=1e-6)


@pytest.mark.parametrize("k", [1, 2, 3, 4])
def test_rows_of_nan_are_no_hits_although_all_scores_look_equal(k: int) -> None:
    scores = jnp.full((4, 4), jnp.nan)
    assert hit_probability(best_rank(scores, jnp.eye(4, dtype=bool)), k).tolist() == [0, 0, 0, 0]


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.integers(-2, 2), st.booleans(), st.booleans()), min_size=6, max_size=6),
    st.lists(st.integers(-3, 3), min_size=6, max_size=6),
    st.sampled_from([1, 2, 5]),
)
def test_with_nan_the_value_is_a_lower_bound_for_all_numbers_in_its_place(
    row: list[tuple[int, bool, bool]], instead: list[int], k: int
) -> None:
    scores, correct, lost = [np.array(column) for column in zip(*row, strict=True)]
    filled = np.where(lost, instead, scores).astype(np.float32)
    with_nan = np.where(lost, np.nan, scores).astype(np.float32)
    worst, actual = (first_hit(jnp.array(values), jnp.array(correct), k) for values in (with_nan, filled))
    assert float(worst) <= float(actual) + 1e-6
