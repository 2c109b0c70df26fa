"""Splits by caption, the same over all datasets: nothing in a test split, by whatever name, was met in training."""

import hashlib
import re
import unicodedata
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache

from feature_cache.datasets.base import Item
from feature_cache.datasets.pocket.gm_names import INSTRUMENTS
from feature_cache.datasets.pocket.lookalikes import HEAD
from feature_cache.manifest import SPLITS
from feature_cache.registry import check_name

FRACTIONS = {"train": 0.6, "validation": 0.1, "test": 0.3}

_VARIANTS = {
    "size, place, shape and number": (
        "small little large big mini high low tall upper lower up down left right leftwards rightwards upwards "
        "downwards leftward rightward top bottom front back backhand tilted square round rounded rectangle oval medium "
        "horizontal vertical straight ahead single double triple quadruple one two three four five six seven eight "
        "nine ten eleven twelve"
    ),
    "people": (
        "face facing person people man men woman women male female adult child baby boy girl older old mr mrs mx santa "
        "merman mermaid merperson hair beard blond bald curly"
    ),
    "colour, material and make": (
        "red orange yellow green blue purple brown black white pink grey light dark clear wood wooden oak alder teak "
        "teck modern classic sport manual motorized hard softly soft"
    ),
    "parts and states": (
        "wall pane panes seat seats zone zones open opened closed raised lowered vertically horizontally with without "
        "no not the and of"
    ),
}  # fmt: skip
VARIANTS = frozenset(word for words in _VARIANTS.values() for word in words.split())
"""Words that tell members of one family apart: "small oven" and "double oven", "red heart" and "blue heart"."""


def caption_key(caption: str) -> str:
    """A caption without what tells variants of one thing apart: case, numbers, single letters, plural s, `VARIANTS`.

    >>> caption_key("Chair 2") == caption_key("two small chairs")
    True
    >>> caption_key("woman health worker")
    'health worker'
    """
    plain = unicodedata.normalize("NFKD", caption).casefold()
    plain = "".join(letter for letter in plain if not unicodedata.combining(letter))
    words = [word for word in re.findall(r"\w+", plain) if word.isalpha() and len(word) > 1 and word not in VARIANTS]
    return " ".join(word.removesuffix("s") if len(word) > 3 else word for word in words)


def split_of(key: str) -> str:
    """The split of everything with this caption key, in whichever dataset it is: decided by its SHA-256.

    Keys of things that look alike are in the split of the first of them.

    What an instrument is called is trained on, because the instruments are a classification set; so it is in training
    everywhere.

    >>> split_of(caption_key("violin")), split_of(caption_key("violins"))
    ('train', 'train')
    """
    key = HEAD.get(key, key)
    return "train" if key in _trained_keys() else hashed_split(key)


def hashed_split(key: str) -> str:
    """The split that a key's SHA-256 decides, in the shares of `FRACTIONS`."""
    fraction = int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "big") / 2**64
    for split, width in FRACTIONS.items():
        if fraction < width:
            return split
        fraction -= width
    return "test"


@cache
def _trained_keys() -> frozenset[str]:
    return frozenset(map(caption_key, INSTRUMENTS))


def partition(items: Iterable[Item], key: Callable[[Item], str]) -> dict[str, tuple[Item, ...]]:
    """The items of every split, sorted by id; an item is where its key is."""
    splits: dict[str, list[Item]] = {split: [] for split in SPLITS}
    for item in by_id(items):
        splits[split_of(key(item))].append(item)
    return {split: tuple(members) for split, members in splits.items()}


def by_id(items: Iterable[Item]) -> tuple[Item, ...]:
    """The items in the order of their ids."""
    return tuple(sorted(items, key=lambda item: item.id))


def members(splits: Mapping[str, Sequence[Item]], split: str) -> Sequence[Item]:
    """The items of one split; a name that is no split gets an error with the ones that are."""
    check_name(SPLITS, "split", split)
    return splits[split]
