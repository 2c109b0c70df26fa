"""Intervals and tests against a hand-worked case and against scipy called directly."""

import numpy as np
import pytest
from scipy import stats

from cmcl_jax.report.statistics import interval, paired

# Three orders of two seeds, with the means 2, 4 and 9.
SCORES = np.array([[1.0, 3.0], [4.0, 4.0], [8.0, 10.0]])


def test_the_interval_over_orders_by_hand() -> None:
    """Mean 5, deviations −3, −1, 4, so s² = 26/2 = 13; the 97.5 % point of t with 2 degrees of freedom is 4.302653."""
    found = interval(SCORES)
    assert found.mean == pytest.approx(5.0)
    assert found.half == pytest.approx(4.302653 * np.sqrt(13 / 3), rel=1e-6)


def test_the_interval_is_scipys_over_the_means_of_the_orders() -> None:
    scores = np.random.default_rng(0).normal(50, 5, (6, 4))
    means = scores.mean(axis=1)
    low, high = stats.t.interval(0.95, 5, loc=means.mean(), scale=stats.sem(means))
    found = interval(scores)
    assert (found.mean - found.half, found.mean + found.half) == pytest.approx((low, high))


def test_more_seeds_of_the_same_orders_do_not_make_the_orders_more_certain() -> None:
    by_order = np.random.default_rng(0).normal(50, 5, (4, 1))
    assert interval(np.repeat(by_order, 30, axis=1)).half == pytest.approx(
        interval(np.repeat(by_order, 2, axis=1)).half
    )


def test_one_order_has_an_interval_over_its_seeds() -> None:
    seeds = np.array([[2.0, 4.0, 9.0]])
    assert interval(seeds).half == pytest.approx(4.302653 * np.sqrt(13 / 3), rel=1e-6)


def test_one_score_has_no_interval() -> None:
    found = interval(np.array([[7.0]]))
    assert found.mean == 7.0 and np.isnan(found.half)


def test_trailing_axes_are_taken_one_by_one() -> None:
    scores = np.random.default_rng(1).normal(size=(4, 3, 5))
    together = interval(scores)
    for column in range(5):
        alone = interval(scores[..., column])
        assert (together.mean[column], together.half[column]) == pytest.approx((alone.mean, alone.half))


def test_intervals_over_orders_hold_the_truth_as_often_as_they_say() -> None:
    """Orders differ by a deviation of 2, seeds by 1: an interval over all scores as if independent holds it less."""
    rng = np.random.default_rng(0)
    draws = rng.normal(0, 2, (4000, 5, 1)) + rng.normal(0, 1, (4000, 5, 10))
    found = [interval(scores) for scores in draws]
    covered = np.mean([abs(mean) <= half for mean, half in found])
    flat = draws.reshape(4000, 1, -1)
    naive = np.mean([abs(mean) <= half for mean, half in map(interval, flat)])
    assert covered == pytest.approx(0.95, abs=0.012)
    assert naive < 0.6


def test_p_values_are_scipys() -> None:
    rng = np.random.default_rng(3)
    baseline = rng.normal(50, 3, (5, 4))
    scores = baseline + rng.normal(1, 2, (5, 4))
    found = paired(scores, baseline)
    assert found.p_pairs == pytest.approx(stats.ttest_rel(scores.ravel(), baseline.ravel()).pvalue)
    assert found.p_orders == pytest.approx(stats.ttest_rel(scores.mean(axis=1), baseline.mean(axis=1)).pvalue)
    assert found.p_wilcoxon == pytest.approx(stats.wilcoxon(scores.ravel(), baseline.ravel()).pvalue)
    assert found.interval.mean == pytest.approx((scores - baseline).mean())
    assert (found.better, found.pairs) == (int((scores > baseline).sum()), 20)


def test_the_paired_t_test_by_hand() -> None:
    """Differences 1, 2, 3: t = 2 / (1/√3) = 3.4641 with 2 degrees of freedom; p = 1 − t/√(t² + 2) = 0.0742."""
    found = paired(np.array([[1.0, 2.0, 3.0]]), np.zeros((1, 3)))
    assert found.p_pairs == pytest.approx(1 - 3.4641016 / np.sqrt(14), rel=1e-6)
    assert found.p_orders is None


def test_less_is_better_where_it_is() -> None:
    scores, baseline = np.array([[1.0, 2.0, 3.0]]), np.array([[2.0, 3.0, 3.0]])
    assert paired(scores, baseline).better == 0
    assert paired(scores, baseline, lower_is_better=True).better == 2


@pytest.mark.parametrize("shift", [0.0, 2.5])
def test_differences_without_spread_have_no_p(shift: float) -> None:
    found = paired(SCORES + shift, SCORES)
    assert found.p_pairs is found.p_orders is found.p_wilcoxon is None
    assert found.interval == pytest.approx((shift, 0.0))


def test_scores_of_other_shapes_cannot_be_paired() -> None:
    with pytest.raises(ValueError, match=r"these are \(3, 2\) and \(3, 1\)"):
        paired(SCORES, SCORES[:, :1])
