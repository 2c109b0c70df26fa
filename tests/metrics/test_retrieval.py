"""Recall and mean average precision against loops in float64 and hand-worked cases."""

import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from cmcl_jax.metrics import REGISTRY
from cmcl_jax.metrics.retrieval import (
    CREDITS,
    DIRECTIONS,
    KS,
    gallery_indices,
    mean_average_precision,
    retrieval_metrics,
)
from feature_cache.errors import UnknownNameError
from feature_cache.registry import resolve

KEY = jax.random.key(0)
measure = jax.jit(retrieval_metrics, static_argnames="credit")


def recall_by_loop(scores: np.ndarray, groups: np.ndarray, k: int, credit: str) -> float:
    """In float64, from sorted scores and binomial coefficients."""
    chances = []
    for query, row in enumerate(scores.astype(np.float64)):
        correct = groups == groups[query] if credit == "any" else np.arange(len(groups)) == query
        descending = np.sort(-row)
        best = np.sort(-row[correct])[0]
        above, end = (int(np.searchsorted(descending, best, side)) for side in ("left", "right"))
        tied, wrong = end - above, list(-row[~correct]).count(best)
        places = min(max(k - above, 0), tied)
        chances.append(1 - math.comb(wrong, places) / math.comb(tied, places))
    return 100 * float(np.mean(chances))


def precision_by_loop(scores: np.ndarray, groups: np.ndarray) -> float:
    means = []
    for query, row in enumerate(scores):
        precisions = []
        for item in np.flatnonzero(groups == groups[query]):
            found = row >= row[item]
            precisions.append(np.mean(groups[found] == groups[query]))
        means.append(np.mean(precisions))
    return 100 * float(np.mean(means))


def floats(metrics: dict[str, jax.Array]) -> dict[str, float]:
    return {name: float(value) for name, value in metrics.items()}


def problem(n: int, levels: int, largest_group: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    return rng.integers(0, levels, (n, n)).astype(np.float32), rng.integers(0, max(n // largest_group, 1), n)


N = 12
tied_scores = hnp.arrays(np.float32, (N, N), elements=st.integers(-3, 3).map(float))
group_ids = hnp.arrays(np.int32, N, elements=st.integers(0, 7))


@pytest.mark.parametrize(("levels", "largest_group"), [(3, 4), (20, 1), (10**6, 3), (10**6, 60), (1, 5)])
def test_every_full_gallery_number_agrees_with_a_loop_in_float64(levels: int, largest_group: int) -> None:
    scores, groups = problem(60, levels, largest_group)
    metrics = measure(scores, groups, key=KEY)
    for direction, oriented in zip(DIRECTIONS, (scores, scores.T), strict=True):
        for credit in CREDITS:
            for k in KS:
                np.testing.assert_allclose(
                    metrics[f"r{k}_{direction}_{credit}_full"],
                    recall_by_loop(oriented, groups, k, credit),
                    rtol=2e-5,
                    atol=1e-5,
                )
        np.testing.assert_allclose(metrics[f"map_{direction}"], precision_by_loop(oriented, groups), rtol=2e-5)


def test_names_follow_the_documented_scheme() -> None:
    names = set(measure(*problem(20, 100, 2), key=KEY))
    scheme = re.compile(r"r(1|5|10)|r(1|5|10)_(a2b|b2a)_(diagonal|any)_(full|galleries)|map|map_(a2b|b2a)")
    assert all(scheme.fullmatch(name) for name in names)
    assert len(names) == 3 + 3 * 2 * 2 * 2 + 3


@pytest.mark.parametrize("credit", CREDITS)
def test_headline_is_the_mean_of_both_directions_with_the_credit_asked_for(credit: str) -> None:
    metrics = floats(measure(*problem(40, 50, 4), key=KEY, credit=credit))
    for k in KS:
        directions = [metrics[f"r{k}_{direction}_{credit}_galleries"] for direction in DIRECTIONS]
        assert metrics[f"r{k}"] == pytest.approx(sum(directions) / 2)
    assert metrics["map"] == pytest.approx((metrics["map_a2b"] + metrics["map_b2a"]) / 2)


def test_a_perfect_matrix_gets_100_everywhere() -> None:
    groups = np.arange(30) // 3
    scores = (groups[:, None] == groups) + np.eye(30)
    assert list(floats(measure(scores, groups, key=KEY)).values()) == pytest.approx([100] * 30)


def test_a_collapsed_head_gets_the_level_of_chance() -> None:
    n, size = 40, 4
    metrics = floats(measure(np.zeros((n, n), np.float32), np.arange(n) // size, key=KEY))
    for k in KS:
        assert metrics[f"r{k}"] == pytest.approx(100 * k / n)
        missed = math.comb(n - size, k) / math.comb(n, k)
        assert metrics[f"r{k}_a2b_any_full"] == pytest.approx(100 * (1 - missed))
    assert metrics["map"] == pytest.approx(100 * size / n)


def test_recall_is_100_when_the_gallery_is_smaller_than_k() -> None:
    metrics = floats(measure(-np.eye(7), np.arange(7), key=KEY))
    assert (metrics["r1"], metrics["r5"], metrics["r10"]) == (0, 0, pytest.approx(100))


def test_average_precision_of_a_hand_worked_case() -> None:
    # Groups {0, 2}, {1}, {3}. Ranks of the correct items: row 0: 1 and 3; row 1: 2; row 2: 2 and 4; row 3: 1.
    scores = np.array([[9, 8, 7, 1], [9, 8, 7, 1], [7, 9, 1, 6], [1, 2, 3, 4]], np.float32)
    expected = np.mean([(1 + 2 / 3) / 2, 1 / 2, (1 / 2 + 2 / 4) / 2, 1])
    np.testing.assert_allclose(mean_average_precision(scores, jnp.array([0, 1, 0, 3])), 100 * expected, rtol=1e-6)


def test_nan_scores_are_never_hits() -> None:
    n = 30
    everything = floats(measure(np.full((n, n), np.nan, np.float32), np.arange(n) // 2, key=KEY))
    assert set(everything.values()) == {0}


def test_a_lost_item_costs_its_own_query_and_whatever_it_could_outrank() -> None:
    n = 20
    scores = np.eye(n, dtype=np.float32)
    scores[:, 0] = np.nan
    metrics = floats(measure(scores, np.arange(n), key=KEY))
    # A's queries may all be outranked by item 0 of B; of B's queries only item 0 itself is lost.
    assert (metrics["r1_a2b_diagonal_full"], metrics["r5_a2b_diagonal_full"]) == (0, pytest.approx(95))
    assert metrics["r1_b2a_diagonal_full"] == pytest.approx(95)
    assert metrics["map_a2b"] == pytest.approx(95 / 2)


@settings(max_examples=20, deadline=None)
@given(tied_scores, group_ids, st.permutations(range(N)))
def test_the_order_of_the_items_does_not_matter(scores: np.ndarray, groups: np.ndarray, order: list[int]) -> None:
    before = floats(measure(scores, groups, key=KEY))
    after = floats(measure(scores[np.ix_(order, order)], groups[order], key=KEY))
    assert after == pytest.approx(before, rel=1e-5)


@settings(max_examples=20, deadline=None)
@given(tied_scores, group_ids, hnp.arrays(np.float32, (N, 1), elements=st.integers(-50, 50).map(float)))
def test_a_constant_on_a_row_leaves_the_search_from_that_row_unchanged(
    scores: np.ndarray, groups: np.ndarray, constants: np.ndarray
) -> None:
    before, after = (floats(measure(s, groups, key=KEY)) for s in (scores, scores + constants))
    searched_by_row = [name for name in before if "a2b" in name]
    assert {name: after[name] for name in searched_by_row} == {name: before[name] for name in searched_by_row}


@settings(max_examples=20, deadline=None)
@given(tied_scores, group_ids)
def test_recall_grows_with_k_and_with_the_credit(scores: np.ndarray, groups: np.ndarray) -> None:
    metrics = floats(measure(scores, groups, key=KEY))
    for direction in DIRECTIONS:
        for credit in CREDITS:
            recalls = [metrics[f"r{k}_{direction}_{credit}_full"] for k in KS]
            assert 0 <= recalls[0] <= recalls[1] + 1e-4 <= recalls[2] + 2e-4 <= 100 + 3e-4
        for k in KS:
            diagonal, any_correct = (metrics[f"r{k}_{direction}_{credit}_full"] for credit in CREDITS)
            assert any_correct >= diagonal - 1e-4


@settings(max_examples=20, deadline=None)
@given(tied_scores)
def test_both_credits_agree_when_every_item_is_its_own_group(scores: np.ndarray) -> None:
    metrics = floats(measure(scores, np.arange(N), key=KEY))
    for name, value in metrics.items():
        assert "any" not in name or value == metrics[name.replace("any", "diagonal")]


def test_galleries_are_the_full_set_up_to_1000_items() -> None:
    metrics = floats(measure(*problem(50, 1000, 3), key=KEY))
    for name, value in metrics.items():
        assert not name.endswith("galleries") or value == metrics[name.replace("galleries", "full")]


def test_large_sets_are_measured_in_five_galleries_of_1000_distinct_items() -> None:
    scores, groups = problem(1100, 10**6, 2)
    metrics = measure(scores, groups, key=KEY)
    galleries = np.array(gallery_indices(KEY, 1100))
    assert galleries.shape == (5, 1000)
    assert all(len(set(gallery)) == 1000 for gallery in galleries.tolist())
    for credit in CREDITS:
        each = [recall_by_loop(scores[np.ix_(g, g)], groups[g], 10, credit) for g in galleries]
        np.testing.assert_allclose(metrics[f"r10_a2b_{credit}_galleries"], np.mean(each), rtol=1e-5)
    assert float(metrics["r10_a2b_any_galleries"]) != float(metrics["r10_a2b_any_full"])


def test_the_key_alone_decides_on_the_galleries() -> None:
    again, other = gallery_indices(jax.random.key(0), 1100), gallery_indices(jax.random.key(1), 1100)
    assert np.array_equal(gallery_indices(KEY, 1100), again)
    assert not np.array_equal(again, other)


def test_seeds_are_a_vmapped_axis() -> None:
    scores = jax.random.normal(KEY, (3, 25, 25))
    groups = jnp.arange(25) // 2
    together = jax.jit(jax.vmap(lambda s: retrieval_metrics(s, groups, key=KEY)))(scores)
    for seed in range(3):
        alone = floats(measure(scores[seed], groups, key=KEY))
        assert {name: float(values[seed]) for name, values in together.items()} == pytest.approx(alone, rel=1e-5)


def test_half_precision_scores_are_counted_exactly() -> None:
    scores, groups = problem(60, 100, 3)
    half, single = (floats(measure(jnp.array(scores, dtype), groups, key=KEY)) for dtype in (jnp.bfloat16, jnp.float32))
    assert half == single


def test_the_registry_leads_to_the_evaluator_and_knows_the_nearest_name() -> None:
    assert resolve(REGISTRY, "metric", "recall") is retrieval_metrics
    with pytest.raises(UnknownNameError, match="recall"):
        resolve(REGISTRY, "metric", "recal")


@pytest.mark.parametrize(("shape", "items"), [((4, 5), 4), ((4, 4), 5), ((0, 0), 0)])
def test_scores_that_are_no_alignment_are_refused_with_their_shape(shape: tuple[int, int], items: int) -> None:
    with pytest.raises(ValueError, match=re.escape(str(shape))):
        retrieval_metrics(jnp.zeros(shape), jnp.arange(items), key=KEY)


def test_an_unknown_credit_is_refused_with_the_valid_ones() -> None:
    with pytest.raises(ValueError, match="diagonal, any, but is 'diag'"):
        retrieval_metrics(jnp.eye(3), jnp.arange(3), key=KEY, credit="diag")
