"""The chance that a query finds a correct candidate among its k best, by counting instead of sorting.

Ties are neither won nor lost: equal scores are thought of as shuffled, and the expected value is reported. A collapsed
head, whose scores are all equal, so gets the level of chance rather than 0 or 100 %.

A NaN never helps: a correct candidate whose score is NaN is not found, and a wrong one counts as better than every
number. What is reported is then a lower bound of the value that any numbers in place of the NaNs would give.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int


class BestRank(NamedTuple):
    """Where each query's best correct candidate stands.

    Attributes:
        above: candidates with a strictly greater score, all of them wrong.
        tied_correct: correct candidates with the same score, itself included; 0 if there is none or all are NaN.
        tied_wrong: wrong candidates with the same score.
    """

    above: Int[Array, " n"]
    tied_correct: Int[Array, " n"]
    tied_wrong: Int[Array, " n"]


def count(*found: Bool[Array, "n m"]) -> tuple[Int[Array, " n"], ...]:
    """How many are true in each row, of several conditions in one pass.

    One reduction of several operands is fused with what they are computed from, and XLA does not cut it into a tree of
    small windows, which on the CPU costs ten times the pass.

    >>> scores = jnp.array([[1., 2., 3.], [5., 5., 5.]])
    >>> [of.tolist() for of in count(scores > 2, scores == 5)]
    [[1, 3], [0, 3]]
    """

    def add(left: tuple[Array, ...], right: tuple[Array, ...]) -> tuple[Array, ...]:
        return tuple(a + b for a, b in zip(left, right, strict=True))

    zeros = (jnp.zeros((), jnp.int32),) * len(found)
    ones = tuple(condition.astype(jnp.int32) for condition in found)
    return tuple(counts.astype(int) for counts in jax.lax.reduce(ones, zeros, add, (1,)))


def hide_nan(scores: Float[Array, "n m"], correct: Bool[Array, "n m"]) -> Float[Array, "n m"]:
    """Puts wrong candidates with a NaN score first; a correct one keeps its NaN, which no comparison ever finds."""
    return jnp.where(jnp.isnan(scores) & ~correct, jnp.inf, scores)


def best_rank(scores: Float[Array, "n m"], correct: Bool[Array, "n m"]) -> BestRank:
    """Counts the candidates above and beside each row's best correct one.

    Args:
        scores: one row per query, one column per candidate; higher is better.
        correct: which candidates are correct for which query.
    """
    best = jnp.max(scores, axis=1, initial=-jnp.inf, where=correct & ~jnp.isnan(scores))
    return ranks_of(scores, (best, correct))[0]


def ranks_of(
    scores: Float[Array, "n m"], *searches: tuple[Float[Array, " n"], Bool[Array, "n m"]]
) -> tuple[BestRank, ...]:
    """Counts, in one pass for several searches, the candidates above and beside each row's best correct one.

    Args:
        scores: one row per query, one column per candidate.
        searches: for each, the greatest score of a correct candidate, -inf if there is none or all are NaN; and which
            candidates are correct.
    """
    conditions: list[Array] = []
    for best, correct in searches:
        visible = hide_nan(scores, correct)
        tied = visible == best[:, None]
        conditions += [visible > best[:, None], tied & correct, tied & ~correct]
    counts = count(*conditions)
    return tuple(BestRank(*counts[i : i + 3]) for i in range(0, len(counts), 3))


def hit_probability(rank: BestRank, k: int) -> Float[Array, " n"]:
    """P(a correct candidate is among the k best), over all orders of equal scores.

    With m places left after the candidates above, all of them go to wrong ones with probability
    C(tied_wrong, m) / C(tied, m) = prod_{j < m} (tied_wrong - j) / (tied - j).

    >>> rank = BestRank(above=jnp.array([0, 3, 2]), tied_correct=jnp.array([1, 1, 1]), tied_wrong=jnp.array([0, 0, 3]))
    >>> hit_probability(rank, k=3).tolist()
    [1.0, 0.0, 0.25]
    """
    tied = rank.tied_correct + rank.tied_wrong
    places = jnp.clip(k - rank.above, 0, tied)
    drawn = jnp.arange(k)[:, None]
    wrong_again = (rank.tied_wrong - drawn) / jnp.maximum(tied - drawn, 1)
    return 1 - jnp.prod(jnp.where(drawn < places, wrong_again, 1), axis=0)
