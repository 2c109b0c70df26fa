"""The items of a shard, decoded, through an encoder in batches; what cannot be embedded is listed."""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import islice
from typing import Any, TypeAlias

import numpy as np
from jaxtyping import Float

from feature_cache.datasets.base import Item
from feature_cache.encoders.base import Encoder
from feature_cache.errors import CacheError
from feature_cache.extraction.decode import Array, Outcome
from feature_cache.shard_record import Failure

Features: TypeAlias = "dict[str, Float[np.ndarray, 'n dim']]"


def embed_items(
    encoder: Encoder,
    items: Sequence[Item],
    outcomes: Iterator[Outcome],
    modalities: Sequence[str],
    batch_size: int,
    advance: Callable[[int], None] = lambda count: None,
) -> tuple[list[Item], Features, list[Failure]]:
    """Embeds items in all of their modalities; a text that several items share is embedded once.

    `outcomes` has one per item, maybe more after them. Returns the items that could be decoded, their features, row by
    row, and the failures of the others. `advance(n)` is called whenever n more items are done.
    """
    kept: list[Item] = []
    failures: list[Failure] = []
    parts: dict[str, list[Array]] = {m: [np.empty((0, encoder.modalities[m].dim), np.float32)] for m in modalities}
    texts: dict[Any, Array] = {}
    for start in range(0, len(items), batch_size):
        batch = items[start : start + batch_size]
        decoded = list(zip(batch, islice(outcomes, len(batch)), strict=True))
        good = [(item, outcome) for item, outcome in decoded if not isinstance(outcome, Failure)]
        failures += [outcome for _, outcome in decoded if isinstance(outcome, Failure)]
        kept += [item for item, _ in good]
        for modality in modalities if good else ():
            arrays = [outcome[modality] for _, outcome in good]
            embed = partial(_embed, encoder, modality, good[0][0].id)
            parts[modality].append(_embed_distinct(embed, arrays, texts) if modality == "text" else embed(arrays))
        advance(len(batch))
    return kept, {modality: np.concatenate(part) for modality, part in parts.items()}, failures


def embed_texts(encoder: Encoder, texts: Sequence[str], batch_size: int) -> Float[np.ndarray, "n dim"]:
    """Embeds texts with the encoder's text modality."""
    arrays = [encoder.preprocess("text", text) for text in texts]
    starts = range(0, len(arrays), batch_size)
    return np.concatenate([_embed(encoder, "text", texts[i], arrays[i : i + batch_size]) for i in starts])


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
