"""A few examples of a dataset, chosen by a rule and not by somebody."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING

from feature_cache.datasets.base import Clip, Dataset, Item, Video
from feature_cache.decoding.sampling import middles
from feature_cache.manifest import SPLITS

if TYPE_CHECKING:
    from feature_cache.datasets.base import Raw


@dataclass(frozen=True)
class Example:
    """One thing of a dataset: its caption, and its media but the text, each with the split it is in."""

    caption: str
    media: "Sequence[tuple[str, Raw]]"


def examples_of(dataset: Dataset, count: int) -> list[Example]:
    """Half of the examples from training, a sixth from validation, the rest from the test split.

    Of `count` examples the k-th, counted from 0, is at (2 k + 1) / (2 count) of its split's items in the order of their
    captions: evenly spaced, and at another place in every split. A split with few items gives fewer examples.
    """
    ends = {"train": round(count / 2), "validation": round(count / 2) + max(count // 6, 1), "test": count}
    begin, examples = 0, []
    for split, end in ends.items():
        entries = _sorted((split, item) for item in dataset.items(split))
        examples += [_opened(dataset, [entries[n]]) for n in _spaced(len(entries), range(begin, end), count)]
        begin = end
    return examples


def examples_over_splits(dataset: Dataset, count: int) -> list[Example]:
    """Evenly spaced captions of a dataset whose splits have the same ones, each with all its media."""
    entries = _sorted((split, item) for split in SPLITS for item in dataset.items(split))
    things = [list(group) for _, group in groupby(entries, lambda entry: entry[1].caption)]
    return [_opened(dataset, things[n]) for n in _spaced(len(things), range(count), count)]


def _sorted(entries: Iterable[tuple[str, Item]]) -> list[tuple[str, Item]]:
    return sorted(entries, key=lambda entry: (entry[1].caption, entry[1].id))


def _spaced(length: int, places: range, count: int) -> list[int]:
    """The different indices into a list of `length` that are in the middle of `places` of its `count` stretches."""
    return sorted({(2 * place + 1) * length // (2 * count) for place in places if length})


def _opened(dataset: Dataset, entries: Sequence[tuple[str, Item]]) -> Example:
    seen = [modality for modality in dataset.modalities if modality != "text"]
    media = [(split, part) for split, item in entries for modality in seen for part in _parts(item.open(modality))]
    return Example(entries[0][1].caption, media)


def _parts(raw: "Raw") -> "list[Raw]":
    """What is shown of a medium: of a clip every other frame, of another video three of them."""
    if isinstance(raw, Clip):
        return list(raw.frames[::2])
    return list(raw.pick(middles(len(raw), 3))) if isinstance(raw, Video) else [raw]
