"""What a fine-tuning learned and what it lost."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from cmcl_jax.metrics.retrieval import recall_at
from cmcl_jax.null_space import HIGHEST
from examples.minilm.data import Pairs
from examples.minilm.training import embed


@jax.jit
def recall_at_10(sentence: PyTree, pairs: Pairs) -> Float[Array, ""]:
    """R@10 in percent, mean of both directions; any item with the same caption is correct."""
    scores = cosines(sentence, pairs)
    same = pairs.groups[:, None] == pairs.groups
    return (recall_at(scores, same, (10,))[10] + recall_at(scores.T, same, (10,))[10]) / 2


@jax.jit
def drift(before: PyTree, after: PyTree, pairs: Pairs) -> Float[Array, ""]:
    """Root mean square by which the cosine of a caption and a partner changed, over all of both."""
    return jnp.sqrt(jnp.mean((cosines(after, pairs) - cosines(before, pairs)) ** 2))


@jax.jit
def turned(before: PyTree, after: PyTree, pairs: Pairs) -> Float[Array, ""]:
    """Mean of 1 − cosine between the embeddings of a caption before and after."""
    return 1 - jnp.mean(jnp.sum(embed(before, pairs.seen) * embed(after, pairs.seen), axis=1))


def cosines(sentence: PyTree, pairs: Pairs) -> Float[Array, "n n"]:
    """Of each partner (row) with each caption (column)."""
    return jnp.matmul(pairs.partners, embed(sentence, pairs.seen).T, precision=HIGHEST)
