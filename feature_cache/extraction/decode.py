"""Opening and preprocessing of an item's media: what the encoder waits for, and what worker processes do."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias

import numpy as np

from feature_cache.datasets.base import Item
from feature_cache.encoders.base import Encoder
from feature_cache.errors import UserError
from feature_cache.shard_record import Failure

Array = np.ndarray[Any, Any]
Decoded: TypeAlias = dict[str, Array]
"""Per modality what the encoder's `embed` takes."""
Outcome: TypeAlias = Decoded | Failure
DecodeMedium: TypeAlias = Callable[[Item, str], Array | str]
"""The medium of an item in one modality, preprocessed; or the reason why it cannot be."""
NOT_THE_MEDIUM = (ImportError, UserError)
"""Errors that no other medium would be spared: a package, weights or the dataset's media are missing.

Lack of memory is none: a broken header that promises terabytes looks the same.
"""


@dataclass(frozen=True)
class Request:
    """An item to decode in some modalities."""

    split: str
    item: Item
    modalities: tuple[str, ...]


class Decoder(Protocol):
    """Decodes items in order, perhaps some of them before they are asked for."""

    def __call__(self, requests: Iterable[Request], ahead: int) -> Iterator[Outcome]:
        """One outcome per request. At most `ahead`, or one per worker, wait to be taken: that bounds the memory.

        Raises what is `NOT_THE_MEDIUM`.
        """
        ...


def decode_here(encoder: Encoder) -> Decoder:
    """Decodes in this process, each item when it is asked for."""

    def decode(requests: Iterable[Request], ahead: int) -> Iterator[Outcome]:
        del ahead
        return (
            decode_item(request, lambda item, modality: decode_medium(encoder, item, modality)) for request in requests
        )

    return decode


def decode_item(request: Request, decode: DecodeMedium) -> Outcome:
    """Decodes all media of an item; the first that cannot be decoded makes the item a failure."""
    decoded: Decoded = {}
    for modality in request.modalities:
        result = decode(request.item, modality)
        if isinstance(result, str):
            return Failure(request.split, request.item.id, modality, result)
        decoded[modality] = result
    return decoded


def decode_medium(encoder: Encoder, item: Item, modality: str) -> Array | str:
    """See `DecodeMedium`. Raises what is `NOT_THE_MEDIUM`."""
    try:
        # In C order, as an array has it that came from another process: results must not depend on where it was made.
        return np.asarray(encoder.preprocess(modality, item.open(modality)), order="C")
    except NOT_THE_MEDIUM:
        raise
    except Exception as error:  # decoders raise whatever they like
        return _reason(error)


def _reason(error: Exception) -> str:
    try:
        said = str(error)
    except Exception:  # theirs may be broken too
        said = "it cannot say what"
    # File names need not be UTF-8, but the list of failures has to be.
    return " ".join(f"{type(error).__name__}: {said}".split()).encode("utf-8", "backslashreplace").decode()
