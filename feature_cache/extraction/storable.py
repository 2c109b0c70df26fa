"""Embeddings as they are stored: of length 1 if asked for, in the dtype of the cache, and finite."""

from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Float

from feature_cache.datasets.base import Item
from feature_cache.shard_record import Failure


def as_stored(features: Float[np.ndarray, "n dim"], dtype: str, normalize: bool) -> Float[np.ndarray, "n dim"]:
    """The features in `dtype`. What cannot be stored is not finite: overflow, and with `normalize` a row of zeros.

    >>> as_stored(np.array([[3.0, 4.0], [0.0, 0.0]]), "float32", normalize=True).tolist()
    [[0.6000000238418579, 0.800000011920929], [nan, nan]]
    """
    with np.errstate(over="ignore", invalid="ignore"):
        if normalize:
            exact = features.astype(np.float64)
            features = exact / np.linalg.norm(exact, axis=1, keepdims=True)
        return features.astype(dtype)


def without_unstorable(
    split: str, items: Sequence[Item], features: Mapping[str, Float[np.ndarray, "n dim"]], dtype: str, normalize: bool
) -> tuple[list[Item], dict[str, Float[np.ndarray, "n dim"]], list[Failure]]:
    """The items whose embeddings can be stored, those embeddings as they are stored, and the failures of the others."""
    stored = {modality: as_stored(values, dtype, normalize) for modality, values in features.items()}
    good = {modality: np.isfinite(values).all(axis=1) for modality, values in stored.items()}
    keep = np.logical_and.reduce([np.ones(len(items), bool), *good.values()])
    failures = []
    for row in np.flatnonzero(~keep).tolist():
        modality = next(modality for modality, fine in good.items() if not fine[row])
        failures.append(Failure(split, items[row].id, modality, _reason(features[modality][row], dtype)))
    kept = [item for item, fine in zip(items, keep, strict=True) if fine]
    return kept, {modality: values[keep] for modality, values in stored.items()}, failures


def _reason(row: Float[np.ndarray, " dim"], dtype: str) -> str:
    if not np.isfinite(row).all():
        return f"the embedding is not finite: it has {row[~np.isfinite(row)][0]}"
    if not row.any():
        return "the embedding has length 0, which cannot be made 1"
    return f"the embedding is not finite as {dtype}: it has {row[np.abs(row).argmax()]:g}; use --dtype=float32"
