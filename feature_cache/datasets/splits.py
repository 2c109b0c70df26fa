"""Splits by caption: what is called alike stays together, so that nothing in the test split was met in training."""

import hashlib
import re
import unicodedata
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence

from feature_cache.datasets.base import Item
from feature_cache.manifest import SPLITS
from feature_cache.registry import check_name

FRACTIONS = {"train": 0.7, "validation": 0.1, "test": 0.2}


def caption_key(caption: str, variants: str = "") -> str:
    """A caption without what tells variants of one thing apart: case, numbers, single letters, plural s, given words.

    >>> caption_key("Chair 2") == caption_key("chairs")
    True
    >>> caption_key("woman health worker", "woman")
    'health worker'
    """
    plain = unicodedata.normalize("NFKD", caption).casefold()
    plain = "".join(letter for letter in plain if not unicodedata.combining(letter))
    ignored = set(variants.split())
    words = [word for word in re.findall(r"\w+", plain) if word.isalpha() and len(word) > 1 and word not in ignored]
    return " ".join(word.removesuffix("s") if len(word) > 3 else word for word in words)


def partition(items: Iterable[Item], key: Callable[[Item], str]) -> dict[str, tuple[Item, ...]]:
    """The items of every split, sorted by id; items with the same key share a split, every class is divided alike.

    A class's keys are lined up by their SHA-256; its first 70 % of items are for training, the next 10 % for
    validation, the last 20 % for testing, and a key goes where the middle one of its items falls. A key that several
    classes use belongs to the class of its first item.
    """
    groups: dict[str, list[Item]] = defaultdict(list)
    for item in sorted(items, key=lambda item: item.id):
        groups[key(item)].append(item)
    strata: dict[int, list[list[Item]]] = defaultdict(list)
    for _, group in sorted(groups.items(), key=lambda entry: hashlib.sha256(entry[0].encode()).digest()):
        strata[group[0].label].append(group)
    splits: dict[str, list[Item]] = {split: [] for split in SPLITS}
    for stratum in strata.values():
        total, before = sum(map(len, stratum)), 0
        for group in stratum:
            splits[_split_at((before + len(group) / 2) / total)] += group
            before += len(group)
    return {split: tuple(sorted(members, key=lambda item: item.id)) for split, members in splits.items()}


def _split_at(fraction: float) -> str:
    for split, width in FRACTIONS.items():
        if fraction < width:
            return split
        fraction -= width
    return "test"


def members(splits: Mapping[str, Sequence[Item]], split: str) -> Sequence[Item]:
    """The items of one split; a name that is no split gets an error with the ones that are."""
    check_name(SPLITS, "split", split)
    return splits[split]
