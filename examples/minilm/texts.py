"""Texts → padded token ids → activations before the layer under training, computed once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Int

from examples.minilm.model import Activations, MiniLM
from feature_cache.encoders.pocket.minilm import MAX_TOKENS, tokenize

BATCH = 128


def padded(texts: Sequence[str]) -> tuple[Int[np.ndarray, "n t"], Bool[np.ndarray, "n t"]]:
    """Token ids, and where there is one; as wide as the longest text.

    >>> ids, mask = padded(["a cat", "a"])
    >>> ids.tolist(), mask.sum(axis=1).tolist()
    ([[101, 1037, 4937, 102], [101, 1037, 102, 0]], [4, 3])
    """
    rows = [tokenize(text, MAX_TOKENS) for text in texts]
    width = max(map(len, rows))
    ids = np.stack([np.pad(row, (0, width - len(row))) for row in rows])
    return ids, np.arange(width) < np.array([[len(row)] for row in rows])


def activations(params: Any, texts: Sequence[str]) -> Activations:
    """What the last layer's output kernel sees of each text. Equal texts are computed once."""
    unique, inverse = np.unique(list(texts), return_inverse=True)
    ids, mask = padded(unique.tolist())
    parts = [_run(params, *(_fill(array[i : i + BATCH]) for array in (ids, mask))) for i in range(0, len(ids), BATCH)]
    seen: Activations = jax.tree.map(lambda *arrays: jnp.concatenate(arrays)[inverse], *parts)
    return seen


@jax.jit
def _run(params: Any, ids: jax.Array, mask: jax.Array) -> Activations:
    seen: Activations = MiniLM().apply({"params": params}, ids, mask, method="activations")
    return seen


def _fill(rows: np.ndarray) -> np.ndarray:
    """As many rows as a full batch, so that one executable serves all: the last row is repeated."""
    return np.pad(rows, [(0, BATCH - len(rows)), (0, 0)], mode="edge")
