"""Scores `Z_a Z_b^T` that are never there as a whole: blocks of rows are computed, looked at and forgotten.

What a metric counts in a row needs that row alone, so that memory is bounded by one block, whatever the gallery's size.
The other direction is the same problem with the sides exchanged. Up to one block, it is the transposed matrix.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, TypeVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PyTree

BLOCK_ROWS, BLOCK_BYTES = 1024, 64 * 2**20  # large enough for fast products, small enough for caches and any device

Rows = TypeVar("Rows")
Measured = TypeVar("Measured")


class Outputs(NamedTuple):
    """Scores `a b^T`, given by the outputs of the two sides.

    Attributes:
        a: one row per query.
        b: one row per candidate.
    """

    a: Float[Array, "n d"]
    b: Float[Array, "m d"]


Scores = Float[Array, "n m"] | Outputs
"""One row per query, one column per candidate; higher is better."""


def scores_shape(scores: Scores) -> tuple[int, ...]:
    """Shape of the matrix: queries, candidates."""
    return (len(scores.a), len(scores.b)) if isinstance(scores, Outputs) else scores.shape


def transposed(scores: Scores) -> Scores:
    """The scores of the search in the other direction."""
    return Outputs(scores.b, scores.a) if isinstance(scores, Outputs) else scores.T


def matrix(scores: Scores) -> Float[Array, "n m"]:
    """All scores at once."""
    return jnp.matmul(scores.a, scores.b.T, precision="highest") if isinstance(scores, Outputs) else scores


def matrix_if_small(scores: Scores) -> Scores:
    """All scores at once if they are no more than one block, so that both directions share one product."""
    return matrix(scores) if _block_count(scores) == 1 and _block_count(transposed(scores)) == 1 else scores


def among(scores: Scores, chosen: Int[Array, " size"]) -> Float[Array, "size size"]:
    """The scores of some rows against the columns of the same numbers."""
    if isinstance(scores, Outputs):
        return matrix(Outputs(scores.a[chosen], scores.b[chosen]))
    return scores[chosen[:, None], chosen]


def map_rows(
    measure: Callable[[Float[Array, "block m"], Rows], Measured],
    scores: Scores,
    per_row: Rows,
    order: Int[Array, " n"] | None = None,
) -> Measured:
    """What `measure` finds in each row, block by block.

    Args:
        measure: of a block of rows and what belongs to them; returns a tree of arrays with a leading axis of rows.
        scores: n rows.
        per_row: a tree of arrays with a leading axis of n, of which `measure` gets the same rows.
        order: in which order the rows are put into blocks, if their costs differ; no result depends on it.

    >>> outputs = Outputs(jnp.eye(3), jnp.array([[1., 2., 3.], [6., 5., 4.]]))
    >>> map_rows(lambda block, bias: block.max(axis=1) + bias, outputs, jnp.array([0., 0., 10.])).tolist()
    [6.0, 5.0, 14.0]
    """
    n, blocks = scores_shape(scores)[0], _block_count(scores)
    if blocks == 1:
        return measure(matrix(scores), per_row)
    order = jnp.arange(n) if order is None else order
    size = -(-n // blocks)
    in_blocks = jnp.pad(order, (0, blocks * size - n), mode="edge").reshape(blocks, size)

    def one_block(rows: Int[Array, " size"]) -> Measured:
        queries = Outputs(scores.a[rows], scores.b) if isinstance(scores, Outputs) else scores[rows]
        return measure(matrix(queries), _at(per_row, rows))

    measured: PyTree = jax.lax.map(one_block, in_blocks)
    back = jnp.argsort(order)
    in_place: Measured = jax.tree.map(lambda x: x.reshape(blocks * size, *x.shape[2:])[back], measured)
    return in_place


def _at(tree: Rows, rows: Int[Array, " size"]) -> Rows:
    chosen: Rows = jax.tree.map(lambda x: x[rows], tree)
    return chosen


def _block_count(scores: Scores) -> int:
    """Blocks of nearly equal size, each within both bounds."""
    n, m = scores_shape(scores)
    itemsize = (scores.a if isinstance(scores, Outputs) else scores).dtype.itemsize
    rows = max(1, min(BLOCK_ROWS, BLOCK_BYTES // max(1, m * itemsize)))
    return max(1, -(-n // rows))
