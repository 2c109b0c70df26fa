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


def padded(texts: Sequence[str], tokens: int | None = None) -> tuple[Int[np.ndarray, "n t"], Bool[np.ndarray, "n t"]]:
    """Token ids, and where there is one; as wide as the longest text or, if given, `tokens`.

    Raises:
        ValueError: if a text has more than `tokens` tokens.

    >>> ids, mask = padded(["a cat", "a"])
    >>> ids.tolist(), mask.sum(axis=1).tolist()
    ([[101, 1037, 4937, 102], [101, 1037, 102, 0]], [4, 3])
    """
    rows = [tokenize(text, MAX_TOKENS) for text in texts]
    longest = max(map(len, rows))
    width = longest if tokens is None else tokens
    if longest > width:
        raise ValueError(f"padded: tokens is {width}, but the longest text has {longest}. Raise tokens.")
    ids = np.stack([np.pad(row, (0, width - len(row))) for row in rows])
    mask = np.arange(width) < np.array([[len(row)] for row in rows])
    return ids, mask


def activations(params: Any, texts: Sequence[str], tokens: int) -> Activations:
    """What the last layer's output kernel sees of each text. Equal texts are computed once."""
    unique, inverse = np.unique(list(texts), return_inverse=True)
    ids, mask = padded(unique.tolist(), tokens)
    parts = [_run(params, *(_fill(array[i : i + BATCH]) for array in (ids, mask))) for i in range(0, len(ids), BATCH)]
    return jax.tree.map(lambda *arrays: jnp.concatenate(arrays)[inverse], *parts)


@jax.jit
def _run(params: Any, ids: jax.Array, mask: jax.Array) -> Activations:
    seen: Activations = MiniLM().apply({"params": params}, ids, mask, method="activations")
    return seen


def _fill(rows: np.ndarray) -> np.ndarray:
    """As many rows as a full batch, so that one executable serves all: the last row is repeated."""
    return np.pad(rows, [(0, BATCH - len(rows)), (0, 0)], mode="edge")
