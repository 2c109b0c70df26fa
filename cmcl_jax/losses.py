"""Contrastive losses on a batch of aligned rows."""

from __future__ import annotations

import itertools
from collections.abc import Mapping

import jax.numpy as jnp
import optax
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float

from cmcl_jax.precision import matmul

DIRECTIONS = ("symmetric", "a_to_b")


def info_nce(
    z_a: Float[Array, "n d"],
    z_b: Float[Array, "n d"],
    valid: Bool[Array, " n"],
    temperature: ArrayLike = 1.0,
    direction: str = "symmetric",
    precision: str = "float32",
) -> Float[Array, ""]:
    """InfoNCE of aligned rows: row i of one side must find row i of the other among the batch.

    Args:
        z_a, z_b: head outputs; row i of both belongs together. They are not normalised: features carry their scale.
        valid: rows that are there; the padding of a last, partial batch is neither anchor nor candidate.
        temperature: divides the dot products.
        direction: "symmetric" averages both directions (the default); "a_to_b" has only A as anchor, as in the public
          reference of arXiv 2503.14963.
        precision: of the dot products, see `cmcl_jax.precision`.

    Returns:
        Mean cross-entropy over the valid anchors, in nats.

    Raises:
        ValueError: for an unknown direction.

    Example:
        >>> z = 10 * jnp.eye(3)
        >>> float(info_nce(z, z, jnp.array([True, True, True]))) < 1e-6
        True
    """
    if direction not in DIRECTIONS:
        raise ValueError(f"info_nce: direction must be one of {', '.join(DIRECTIONS)}, but it is {direction!r}.")
    scores = matmul(z_a, z_b.T, precision) / temperature
    a_to_b = _cross_entropy_with_diagonal(scores, valid)
    if direction == "a_to_b":
        return a_to_b
    return (a_to_b + _cross_entropy_with_diagonal(scores.T, valid)) / 2


def all_pairs_info_nce(
    outputs: Mapping[str, Float[Array, "n d"]],
    valid: Bool[Array, " n"],
    temperature: ArrayLike = 1.0,
    direction: str = "symmetric",
    precision: str = "float32",
) -> Float[Array, ""]:
    """Mean of `info_nce` over all pairs of two or more aligned modalities; of two it is `info_nce` itself.

    Args:
        outputs: head outputs by role; of a pair, A is the role that sorts first.
        valid, temperature, direction, precision: see `info_nce`.

    Raises:
        ValueError: for fewer than two modalities or an unknown direction.
    """
    if len(outputs) < 2:
        raise ValueError(f"all_pairs_info_nce: outputs must have two or more modalities, but has {list(outputs)}.")
    losses = [
        info_nce(outputs[a], outputs[b], valid, temperature, direction, precision)
        for a, b in itertools.combinations(sorted(outputs), 2)
    ]
    return sum(losses[1:], losses[0]) / len(losses)


def _cross_entropy_with_diagonal(scores: Float[Array, "n n"], valid: Bool[Array, " n"]) -> Float[Array, ""]:
    candidates = jnp.where(valid[None, :], scores, -jnp.inf)
    losses = optax.losses.softmax_cross_entropy_with_integer_labels(candidates, jnp.arange(scores.shape[0]))
    return jnp.sum(jnp.where(valid, losses, 0)) / jnp.maximum(jnp.sum(valid), 1)
