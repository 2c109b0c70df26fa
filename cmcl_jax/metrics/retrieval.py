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

import functools
from collections.abc import Iterable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key

from cmcl_jax.metrics.ranking import best_rank, count, hide_nan, hit_probability, ranks_of
from cmcl_jax.metrics.scores import Scores, among, map_rows, matrix_if_small, scores_shape, transposed

KS = (1, 5, 10)
CREDITS = ("diagonal", "any")
DIRECTIONS = ("a2b", "b2a")
GALLERIES, GALLERY_SIZE = 5, 1000

Metrics = dict[str, Float[Array, ""]]
PerQuery = dict[str, Float[Array, " n"]]  # by the names of the metrics, with "{}" for the direction


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


def mean_average_precision(scores: Scores, groups: Int[Array, " n"]) -> Float[Array, ""]:
    """Mean over rows of the average precision with which the row's whole group is found, in percent.

    The precision at a correct item is taken after all items with a score as high as its own, so equal scores enter
    together, as in scikit-learn's `average_precision_score`: a collapsed head gets the share of correct items. A
    correct item with score NaN has precision 0.

    The cost is n for each pair of items of one group: counting beats sorting, by far when groups are small.

    >>> mean = mean_average_precision(jnp.array([[3., 2., 1.], [2., 3., 1.], [3., 2., 1.]]), jnp.array([0, 1, 1]))
    >>> expected = (1 + (1 + 2 / 3) / 2 + (1 / 2 + 2 / 3) / 2) / 3
    >>> bool(jnp.isclose(mean, 100 * expected))
    True
    """
    queries, by_group = _queries(groups)
    precision = functools.partial(_average_precision, groups=groups, by_group=by_group)
    return 100 * jnp.mean(map_rows(precision, scores, queries, order=jnp.argsort(queries.size)))


class _Queries(NamedTuple):
    """Where each row's correct items are: itself in its own column; its group in `by_group[first : first + size]`."""

    own: Int[Array, " n"]
    group: Int[Array, " n"]
    first: Int[Array, " n"]
    size: Int[Array, " n"]


def _queries(groups: Int[Array, " n"]) -> tuple[_Queries, Int[Array, " n"]]:
    """The queries of aligned items, and `by_group`: the items, those of a group beside each other."""
    by_group = jnp.argsort(groups)
    first, end = (jnp.searchsorted(groups, groups, side=side, sorter=by_group) for side in ("left", "right"))
    return _Queries(jnp.arange(len(groups)), groups, first, end - first), by_group


def _hits(
    scores: Float[Array, "block n"], queries: _Queries, groups: Int[Array, " n"], by_group: Int[Array, " n"]
) -> PerQuery:
    """Each query's share in every recall: the probability of a hit."""

    def better(index: Int[Array, ""], best: Float[Array, " block"]) -> Float[Array, " block"]:
        return jnp.fmax(best, _score_of_member(scores, queries, by_group, index))

    partner = jnp.fmax(jnp.take_along_axis(scores, queries.own[:, None], axis=1)[:, 0], -jnp.inf)
    best = jax.lax.fori_loop(0, jnp.max(queries.size), better, partner)
    own = queries.own[:, None] == jnp.arange(len(groups))
    ranks = ranks_of(scores, (partner, own), (best, queries.group[:, None] == groups))
    return {
        f"r{k}_{{}}_{credit}": hit_probability(rank, k) for credit, rank in zip(CREDITS, ranks, strict=True) for k in KS
    }


def _average_precision(
    scores: Float[Array, "block n"], queries: _Queries, groups: Int[Array, " n"], by_group: Int[Array, " n"]
) -> Float[Array, " block"]:
    def add_precision_at_member(index: Int[Array, ""], total: Float[Array, " block"]) -> Float[Array, " block"]:
        # The barrier ties the rows' groups to the index: else XLA computes their mask before the loop and keeps it.
        group, index = jax.lax.optimization_barrier((queries.group, index))
        same = group[:, None] == groups
        found = hide_nan(scores, same) >= _score_of_member(scores, queries, by_group, index)[:, None]
        correct, everything = count(found & same, found)
        return total + jnp.where(index < queries.size, correct / jnp.maximum(everything, 1), 0)

    total: Array = jax.lax.fori_loop(0, jnp.max(queries.size), add_precision_at_member, jnp.zeros(len(scores)))
    return total / queries.size


def _score_of_member(
    scores: Float[Array, "block n"], queries: _Queries, by_group: Int[Array, " n"], index: Int[Array, ""]
) -> Float[Array, " block"]:
    """Each row's score of one item of its group; of smaller groups, the last one's."""
    member = by_group[queries.first + jnp.minimum(index, queries.size - 1)]
    return jnp.take_along_axis(scores, member[:, None], axis=1)[:, 0]


def gallery_indices(key: Key[Array, ""], n: int) -> Int[Array, "galleries size"]:
    """Draws the random galleries, each without repetition. The same key gives the same galleries."""
    return jnp.stack([jax.random.permutation(k, n)[:GALLERY_SIZE] for k in jax.random.split(key, GALLERIES)])


def _full_gallery(scores: Scores, groups: Int[Array, " n"]) -> Metrics:
    """Every `r{k}_{direction}_{credit}` and `map_{direction}` over all items, from one pass over the scores of each."""
    queries, by_group = _queries(groups)

    def search(block: Float[Array, "block n"], queries: _Queries) -> PerQuery:
        return {
            "map_{}": _average_precision(block, queries, groups, by_group),
            **_hits(block, queries, groups, by_group),
        }

    found = {
        direction: map_rows(search, oriented, queries, order=jnp.argsort(queries.size))
        for direction, oriented in zip(DIRECTIONS, (scores, transposed(scores)), strict=True)
    }
    return _means(found)


def _random_galleries(scores: Scores, groups: Int[Array, " n"], key: Key[Array, ""]) -> Metrics:
    """Every `r{k}_{direction}_{credit}`, mean over the random galleries."""

    def one_gallery(chosen: Int[Array, " size"]) -> Metrics:
        matrix, of_chosen = among(scores, chosen), groups[chosen]
        queries, by_group = _queries(of_chosen)
        found = [_hits(oriented, queries, of_chosen, by_group) for oriented in (matrix, matrix.T)]
        return _means(dict(zip(DIRECTIONS, found, strict=True)))

    recalls = jax.lax.map(one_gallery, gallery_indices(key, len(groups)))
    return {name: jnp.mean(values) for name, values in recalls.items()}


def _means(found: dict[str, PerQuery]) -> Metrics:
    """Percentages, by the names of the metrics but for the gallery."""
    return {
        name.format(direction): 100 * jnp.mean(values)
        for direction, of_query in found.items()
        for name, values in of_query.items()
    }


def retrieval_metrics(
    scores: Scores,
    targets: Int[Array, " n"],
    *,
    key: Key[Array, ""],
    credit: str = "diagonal",
    **unused: Any,
) -> Metrics:
    """The evaluator "recall": every metric of this module, each a scalar in percent.

    Args:
        scores: `Z_a Z_b^T` of n aligned rows, or the `Outputs` that it is the product of: then in bounded memory.
        targets: group ids; items of one group are all correct for each other. `arange(n)`: only the partner is.
        key: draws the galleries; pass the same one after every step, so that the steps are compared on equal galleries.
            Not used if n is at most 1,000, where the only gallery is the full one.
        credit: which of "diagonal" and "any" the headline numbers `r1`, `r5`, `r10` count.

    Raises:
        ValueError: scores are not square, do not fit the targets, or the credit is unknown.
    """
    del unused
    n = len(targets)
    shape = scores_shape(scores)
    if shape != (n, n) or n == 0:
        raise ValueError(
            f"retrieval needs a square matrix of scores and one group id for each row, but got scores of shape "
            f"{shape} and targets of shape {targets.shape}. Pass Z_a Z_b^T of aligned rows."
        )
    if credit not in CREDITS:
        raise ValueError(f"credit must be one of {', '.join(CREDITS)}, but is {credit!r}.")
    scores = matrix_if_small(scores)
    full = _full_gallery(scores, targets)
    precision = {name: full.pop(name) for name in [f"map_{direction}" for direction in DIRECTIONS]}
    galleries = full if n <= GALLERY_SIZE else _random_galleries(scores, targets, key)
    return {
        **{f"r{k}": (galleries[f"r{k}_a2b_{credit}"] + galleries[f"r{k}_b2a_{credit}"]) / 2 for k in KS},
        **{f"{name}_full": value for name, value in full.items()},
        **{f"{name}_galleries": value for name, value in galleries.items()},
        **precision,
        "map": (precision["map_a2b"] + precision["map_b2a"]) / 2,
    }
