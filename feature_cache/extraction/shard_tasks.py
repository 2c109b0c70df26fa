"""A dataset as numbered shards: the unit of resuming, and of sharing the work between processes and machines."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from feature_cache.datasets.base import Dataset, Item
from feature_cache.errors import CacheError
from feature_cache.manifest import SPLITS
from feature_cache.shard_record import items_checksum
from feature_cache.shards import Rows


@dataclass(frozen=True)
class ShardTask:
    """A fixed range of a split's items.

    A shard is made in batches that begin with its first item, so its bits depend on nothing outside of it: not on
    which shards were there already, nor on who makes the others.

    Attributes:
        number: runs over all splits.
        split, index: which shard of which split.
        items: in order.
    """

    number: int
    split: str
    index: int
    items: Sequence[Item]


def shard_tasks(dataset: Dataset, size: int) -> list[ShardTask]:
    """All shards of a dataset, `size` items each.

    Raises `CacheError` if there is no item, two of a split have the same id, or a text is none that can be stored.
    """
    splits = {split: dataset.items(split) for split in SPLITS}
    _check_ids(dataset, splits)
    _check_texts(dataset, splits)
    tasks: list[ShardTask] = []
    for split, items in splits.items():
        for index, start in enumerate(range(0, len(items), size)):
            tasks.append(ShardTask(len(tasks), split, index, items[start : start + size]))
    return tasks


def division(tasks: Sequence[ShardTask]) -> dict[str, tuple[str, ...]]:
    """Which items are in which shard: per split and shard their checksum."""
    return {
        split: tuple(items_checksum(item.id for item in task.items) for task in tasks if task.split == split)
        for split in SPLITS
    }


def rows_of(items: Sequence[Item]) -> Rows:
    """What is stored of items besides their embeddings."""
    names = ("id", "caption", "label", "open_label")
    return Rows(*([getattr(item, name) for item in items] for name in names))


def _check_ids(dataset: Dataset, splits: Mapping[str, Sequence[Item]]) -> None:
    for split, items in splits.items():
        counts = Counter(item.id for item in items)
        repeated = [name for name, count in counts.items() if count > 1]
        if repeated:
            raise CacheError(
                f"The ids of a split should be unique, but in {split} of the dataset {dataset.name} "
                f"{len(repeated)} are not: {repeated[0]!r} is there {counts[repeated[0]]} times."
            )
    if not any(splits.values()):
        raise CacheError(f"The dataset {dataset.name} has no items in any split.")


def _check_texts(dataset: Dataset, splits: Mapping[str, Sequence[Item]]) -> None:
    """Half characters come from file names that are not UTF-8, and from broken JSON."""
    for split, items in splits.items():
        for item in items:
            try:
                f"{item.id}{item.caption}".encode()
            except UnicodeEncodeError:
                raise CacheError(
                    f"Ids and captions should be Unicode, but item {item.id!a} in {split} of the dataset "
                    f"{dataset.name} has the caption {item.caption!a}. Rename the file, or mend the table."
                ) from None
