"""Captions with the features of what they describe, from the committed caches."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from examples.minilm.model import Activations
from examples.minilm.texts import activations
from feature_cache import open_cache

CACHES = Path(__file__).parents[2] / "caches" / "pocketbind"


class Pairs(NamedTuple):
    """Aligned rows of one split: a caption, and the picture or sound that it is the caption of.

    Attributes:
        seen: of the captions, what the layer under training sees.
        partners: `(n, width)` features of the pictures or sounds, at unit length.
        groups: `(n,)` equal for equal captions.
    """

    seen: Activations
    partners: Float[Array, "n width"]
    groups: Int[Array, " n"]


def load_pairs(params: Any, dataset: str, modality: str, split: str, limit: int | None = None) -> Pairs:
    """The pairs of a split, or the first `limit` of them. Raises `CacheError` or `WeightsError` without its files."""
    cache = open_cache(CACHES / dataset)
    captions = cache.captions(split)[:limit]
    features = np.asarray(cache.features(split, modality), np.float32)[:limit]
    partners = features / np.linalg.norm(features, axis=1, keepdims=True)
    groups = np.unique(captions, return_inverse=True)[1]
    return Pairs(activations(params, captions), jnp.asarray(partners), jnp.asarray(groups))
