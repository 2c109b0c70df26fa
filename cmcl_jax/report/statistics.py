"""Intervals and tests over orders of the steps and seeds.

Seeds within one order share the order, and much of what a continual method reaches depends on it: they are not
independent draws, and an interval over all (order, seed) pairs would be too narrow. So there are two levels: the mean
over seeds is one value for each order, and the interval is Student's over these values, with as many degrees of freedom
as there are orders, less one. With a single order nothing can be said about others, and the interval is over its seeds.
Seeds bear the same numbers in every order, but they decide the batches of a step by its place, so that two orders share
nothing through them but the start of rectangular heads.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float
from scipy import stats

CONFIDENCE = 0.95

Scores = Float[np.ndarray, "orders seeds *rest"]


class Interval(NamedTuple):
    """A confidence interval `mean ± half`, for each entry of the scores' trailing axes; NaN where there is none."""

    mean: Float[np.ndarray, "*rest"]
    half: Float[np.ndarray, "*rest"]


class Paired(NamedTuple):
    """What the differences between two methods on the same (order, seed) pairs say; a p-value is two-sided.

    Attributes:
        interval: of the mean difference.
        p_pairs: of the t-test over all pairs, which takes them as independent.
        p_orders: of the t-test over the means of the orders, which does not; None with one order.
        p_wilcoxon: of the signed-rank test over all pairs, which does not take differences as normal.
        better: number of pairs in which the first method is better.
        pairs: number of pairs.
    """

    interval: Interval
    p_pairs: float | None
    p_orders: float | None
    p_wilcoxon: float | None
    better: int
    pairs: int


def interval(scores: Scores) -> Interval:
    """The confidence interval of the mean, over orders; over seeds if there is one order.

    >>> interval(np.array([[1.0, 3.0], [3.0, 5.0]])).mean.item()
    3.0
    """
    values = scores[0] if len(scores) == 1 else scores.mean(axis=1)
    if len(values) == 1:
        return Interval(values[0], np.full_like(values[0], np.nan))
    factor = stats.t.ppf((1 + CONFIDENCE) / 2, len(values) - 1)
    return Interval(values.mean(axis=0), factor * values.std(axis=0, ddof=1) / np.sqrt(len(values)))


def paired(
    scores: Float[np.ndarray, "orders seeds"],
    baseline: Float[np.ndarray, "orders seeds"],
    lower_is_better: bool = False,
) -> Paired:
    """Compares two methods pair by pair.

    Raises:
        ValueError: if the scores are not of the same orders and seeds.
    """
    if scores.shape != baseline.shape:
        raise ValueError(
            f"Only scores of equal shape can be paired, but these are {scores.shape} and {baseline.shape}."
        )
    differences = scores - baseline
    flat = differences.ravel()
    return Paired(
        interval(differences),
        p_pairs=_p(_t_test, flat),
        p_orders=_p(_t_test, differences.mean(axis=1)),
        p_wilcoxon=_p(stats.wilcoxon, flat),
        better=int(np.sum(flat < 0 if lower_is_better else flat > 0)),
        pairs=flat.size,
    )


def _p(test: Callable[[np.ndarray], Any], differences: Float[np.ndarray, " n"]) -> float | None:
    """The p-value against a centre of zero; None where no test can tell: less than two values, a NaN, or no spread."""
    spread = np.ptp(differences)
    if len(differences) < 2 or not spread > 1e-9 * np.abs(differences).max():
        return None
    return float(test(differences).pvalue)


def _t_test(differences: Float[np.ndarray, " n"]) -> Any:
    return stats.ttest_1samp(differences, 0)
