"""Retrieval between two aligned modalities: recall at k and mean average precision, in percent.

The names of the metrics are `r{k}_{direction}_{credit}_{gallery}` and `map_{direction}`:

    k           1, 5, 10
    direction   a2b: an item of A searches B;  b2a: the reverse
    credit      diagonal: only the item's own partner is correct, as in the published numbers;
                any: every item of its group is, so that repeated captions are no errors
    gallery     full: all n items;
                galleries: the published protocol, mean over 5 random galleries of at most 1,000 items

`r1`, `r5`, `r10` are the headline: mean of both directions, by the published protocol, with the credit asked for; `map`
is the mean of both directions over the full gallery. Equal and NaN scores: see `ranking`.
"""

from collections.abc import Iterable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key

from cmcl_jax.metrics.ranking import best_rank, hide_nan, hit_probability

KS = (1, 5, 10)
CREDITS = ("diagonal", "any")
DIRECTIONS = ("a2b", "b2a")
GALLERIES, GALLERY_SIZE = 5, 1000

Metrics = dict[str, Float[Array, ""]]


def recall_at(
    scores: Float[Array, "n m"], correct: Bool[Array, "n m"], ks: Iterable[int] = KS
) -> dict[int, Float[Array, ""]]:
    """Percentage of rows with a correct column among the k best, in expectation over the order of equal scores.

    >>> partner = jnp.eye(4, dtype=bool)
    >>> float(recall_at(jnp.eye(4), partner)[1]), float(recall_at(jnp.zeros((4, 4)), partner)[1])
    (100.0, 25.0)
    """
    rank = best_rank(scores, correct)
    return {k: 100 * jnp.mean(hit_probability(rank, k)) for k in ks}


def mean_average_precision(scores: Float[Array, "n n"], groups: Int[Array, " n"]) -> Float[Array, ""]:
    """Mean over rows of the average precision with which the row's whole group is found, in percent.

    The precision at a correct item is taken after all items with a score as high as its own, so equal scores enter
    together, as in scikit-learn's `average_precision_score`: a collapsed head gets the share of correct items. A
    correct item with score NaN has precision 0.

    The cost is n² times the largest group: counting beats sorting, by far when groups are small.

    >>> mean = mean_average_precision(jnp.array([[3., 2., 1.], [2., 3., 1.], [3., 2., 1.]]), jnp.array([0, 1, 1]))
    >>> expected = (1 + (1 + 2 / 3) / 2 + (1 / 2 + 2 / 3) / 2) / 3
    >>> bool(jnp.isclose(mean, 100 * expected))
    True
    """
    n = len(groups)
    same = groups[:, None] == groups
    scores = hide_nan(scores, same)
    by_group = jnp.argsort(groups)
    first = jnp.searchsorted(groups, groups, sorter=by_group)
    size = jnp.sum(same, axis=1)

    def add_precision_at_member(index: Int[Array, ""], total: Float[Array, " n"]) -> Float[Array, " n"]:
        member = by_group[jnp.minimum(first + index, n - 1)]
        found = scores >= jnp.take_along_axis(scores, member[:, None], axis=1)
        precision = jnp.sum(found & same, axis=1) / jnp.maximum(jnp.sum(found, axis=1), 1)
        return total + jnp.where(index < size, precision, 0)

    total = jax.lax.fori_loop(0, jnp.max(size), add_precision_at_member, jnp.zeros(n))
    return 100 * jnp.mean(total / size)


def gallery_indices(key: Key[Array, ""], n: int) -> Int[Array, "galleries size"]:
    """Draws the random galleries, each without repetition. The same key gives the same galleries."""
    return jnp.stack([jax.random.permutation(k, n)[:GALLERY_SIZE] for k in jax.random.split(key, GALLERIES)])


def _recalls(scores: Float[Array, "n n"], groups: Int[Array, " n"]) -> Metrics:
    """Every `r{k}_{direction}_{credit}` within one gallery."""
    correct = {"diagonal": jnp.eye(len(groups), dtype=bool), "any": groups[:, None] == groups}
    return {
        f"r{k}_{direction}_{credit}": recall
        for direction, oriented in zip(DIRECTIONS, (scores, scores.T), strict=True)
        for credit in CREDITS
        for k, recall in recall_at(oriented, correct[credit]).items()
    }


def _gallery_recalls(scores: Float[Array, "n n"], groups: Int[Array, " n"], key: Key[Array, ""]) -> Metrics:
    recalls = jax.lax.map(
        lambda chosen: _recalls(scores[chosen[:, None], chosen], groups[chosen]), gallery_indices(key, len(groups))
    )
    return {name: jnp.mean(values) for name, values in recalls.items()}


def retrieval_metrics(
    scores: Float[Array, "n n"],
    targets: Int[Array, " n"],
    *,
    key: Key[Array, ""],
    credit: str = "diagonal",
    **unused: Any,
) -> Metrics:
    """The evaluator "recall": every metric of this module, each a scalar in percent.

    Args:
        scores: `Z_a Z_b^T` of n aligned rows.
        targets: group ids; items of one group are all correct for each other. `arange(n)`: only the partner is.
        key: draws the galleries; pass the same one after every step, so that the steps are compared on equal galleries.
            Not used if n is at most 1,000, where the only gallery is the full one.
        credit: which of "diagonal" and "any" the headline numbers `r1`, `r5`, `r10` count.

    Raises:
        ValueError: scores are not square, do not fit the targets, or the credit is unknown.
    """
    del unused
    n = len(targets)
    if scores.shape != (n, n) or n == 0:
        raise ValueError(
            f"retrieval needs a square matrix of scores and one group id for each row, but got scores of shape "
            f"{scores.shape} and targets of shape {targets.shape}. Pass Z_a Z_b^T of aligned rows."
        )
    if credit not in CREDITS:
        raise ValueError(f"credit must be one of {', '.join(CREDITS)}, but is {credit!r}.")
    full = _recalls(scores, targets)
    galleries = full if n <= GALLERY_SIZE else _gallery_recalls(scores, targets, key)
    precision = {
        f"map_{direction}": mean_average_precision(oriented, targets)
        for direction, oriented in zip(DIRECTIONS, (scores, scores.T), strict=True)
    }
    return {
        **{f"r{k}": (galleries[f"r{k}_a2b_{credit}"] + galleries[f"r{k}_b2a_{credit}"]) / 2 for k in KS},
        **{f"{name}_full": value for name, value in full.items()},
        **{f"{name}_galleries": value for name, value in galleries.items()},
        **precision,
        "map": (precision["map_a2b"] + precision["map_b2a"]) / 2,
    }
