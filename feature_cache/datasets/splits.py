"""Splits by caption: what is called alike stays together, so that nothing in the test split was met in training."""

import hashlib
import re
import unicodedata
from collections.abc import Callable, Iterable, Sequence

from feature_cache.datasets.base import SPLITS, Item
from feature_cache.registry import check_name

TRAIN, VALIDATION = 0.7, 0.1
"""Expected fractions; the rest is the test split."""


def split_of(key: str) -> str:
    """The split of a key: its SHA-256, read as a fraction, falls below 0.7, below 0.8, or above.

    >>> split_of("teapot"), split_of("teapot")
    ('train', 'train')
    """
    fraction = int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "big") / 2**64
    if fraction < TRAIN:
        return "train"
    return "validation" if fraction < TRAIN + VALIDATION else "test"


def caption_key(caption: str, variants: frozenset[str] = frozenset()) -> str:
    """A caption without what tells variants of one thing apart: case, numbers, single letters, plural s, given words.

    >>> caption_key("Chair 2") == caption_key("chairs")
    True
    >>> caption_key("woman health worker", frozenset({"woman"}))
    'health worker'
    """
    plain = unicodedata.normalize("NFKD", caption).casefold()
    plain = "".join(letter for letter in plain if not unicodedata.combining(letter))
    words = [word for word in re.findall(r"\w+", plain) if word.isalpha() and len(word) > 1 and word not in variants]
    return " ".join(word.removesuffix("s") if len(word) > 3 else word for word in words)


def partition(items: Iterable[Item], split: Callable[[Item], str]) -> dict[str, tuple[Item, ...]]:
    """The items of every split, sorted by id."""
    splits: dict[str, list[Item]] = {name: [] for name in SPLITS}
    for item in sorted(items, key=lambda item: item.id):
        splits[split(item)].append(item)
    return {name: tuple(members) for name, members in splits.items()}


def members(splits: dict[str, tuple[Item, ...]], split: str) -> Sequence[Item]:
    """The items of one split; a name that is no split gets an error with the ones that are."""
    check_name(SPLITS, "split", split)
    return splits[split]
