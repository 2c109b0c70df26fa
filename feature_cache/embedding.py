"""A list of items through an encoder: decode, embed in batches, and list what cannot be decoded."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, TypeAlias

import numpy as np
from jaxtyping import Float

from feature_cache.datasets.base import Item
from feature_cache.encoders.base import Encoder
from feature_cache.errors import CacheError, UserError
from feature_cache.writer import Failure

Array: TypeAlias = "np.ndarray[Any, Any]"
Decoded: TypeAlias = dict[str, Array]
"""Per modality what the encoder's `embed` takes."""
NOT_THE_MEDIUM = (ImportError, MemoryError, UserError)
"""Errors that no other medium would be spared: a package, memory, weights or the dataset's media are missing."""


def embed_items(
    encoder: Encoder,
    split: str,
    items: Sequence[Item],
    modalities: Sequence[str],
    batch_size: int,
    advance: Callable[[int], None] = lambda count: None,
) -> tuple[list[Item], dict[str, Float[np.ndarray, "n dim"]], list[Failure]]:
    """Embeds items in all of their modalities; a text that several items share is embedded once.

    Returns the items that could be decoded, their features, row by row, and the others with the reasons.
    `advance(n)` is called whenever n more items are done.
    """
    kept: list[Item] = []
    failures: list[Failure] = []
    parts: dict[str, list[Array]] = {m: [np.empty((0, encoder.modalities[m].dim), np.float32)] for m in modalities}
    texts: dict[Any, Array] = {}
    for start in range(0, len(items), batch_size):
        batch = items[start : start + batch_size]
        outcomes = [decode_item(encoder, split, item, modalities) for item in batch]  # where a pool's map would go
        good = [(i, o) for i, o in zip(batch, outcomes, strict=True) if not isinstance(o, Failure)]
        failures += [outcome for outcome in outcomes if isinstance(outcome, Failure)]
        kept += [item for item, _ in good]
        for modality in modalities if good else ():
            arrays = [decoded[modality] for _, decoded in good]
            embed = partial(_embed, encoder, modality, good[0][0].id)
            parts[modality].append(_embed_distinct(embed, arrays, texts) if modality == "text" else embed(arrays))
        advance(len(batch))
    return kept, {modality: np.concatenate(part) for modality, part in parts.items()}, failures


def embed_texts(encoder: Encoder, texts: Sequence[str], batch_size: int) -> Float[np.ndarray, "n dim"]:
    """Embeds texts with the encoder's text modality."""
    arrays = [encoder.preprocess("text", text) for text in texts]
    starts = range(0, len(arrays), batch_size)
    return np.concatenate([_embed(encoder, "text", texts[i], arrays[i : i + batch_size]) for i in starts])


def decode_item(encoder: Encoder, split: str, item: Item, modalities: Sequence[str]) -> Decoded | Failure:
    """Opens and preprocesses an item's media; the first that cannot be decoded makes the item a failure.

    Raises what is `NOT_THE_MEDIUM`.
    """
    decoded: Decoded = {}
    for modality in modalities:
        try:
            decoded[modality] = encoder.preprocess(modality, item.open(modality))
        except NOT_THE_MEDIUM:
            raise
        except Exception as error:  # decoders raise whatever they like
            return Failure(split, item.id, modality, " ".join(f"{type(error).__name__}: {error}".split()))
    return decoded


def _embed(encoder: Encoder, modality: str, first: str, batch: Sequence[Array]) -> Float[np.ndarray, "n dim"]:
    features = np.asarray(encoder.embed(modality, batch))
    expected = (len(batch), encoder.modalities[modality].dim)
    if features.shape != expected:
        raise CacheError(
            f"The encoder {encoder.name} should embed {len(batch)} media of the modality {modality}, from {first!r} "
            f"on, as an array {list(expected)}, but returned {list(features.shape)}."
        )
    return features


def _embed_distinct(
    embed: Callable[[Sequence[Array]], Array], batch: Sequence[Array], known: dict[Any, Array]
) -> Float[np.ndarray, "n dim"]:
    """`embed(batch)`, but rows that are in `known` are taken from there, and the others join it."""
    keys = [(array.dtype.str, array.shape, array.tobytes()) for array in batch]
    new = {key: array for key, array in zip(keys, batch, strict=True) if key not in known}
    if new:
        known.update(zip(new, embed(list(new.values())), strict=True))
    return np.stack([known[key] for key in keys])
