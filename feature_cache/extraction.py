"""The resumable loop: a dataset's media through an encoder into a cache, shard by shard."""

import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from feature_cache.datasets.base import Dataset, Item
from feature_cache.embedding import embed_items, embed_texts
from feature_cache.encoders.base import Encoder
from feature_cache.errors import CacheError, DamagedCacheError
from feature_cache.manifest import FILE_NAME, SPLITS, Manifest
from feature_cache.shards import Rows
from feature_cache.writer import CacheWriter, Failure


@dataclass(frozen=True)
class Options:
    """How to extract.

    Attributes:
        batch_size: media that are embedded at once.
        dtype: "float16" or "float32", of the stored features.
        normalize: bring every embedding to length 1 before it is stored.
        shard_size: rows of a shard, the unit of resuming; a shard is a fixed range of a split's items.
        overwrite: make every shard again.
        max_failure_rate: the largest share of items that may fail to decode in a finished cache.
    """

    batch_size: int = 32
    dtype: str = "float16"
    normalize: bool = False
    shard_size: int = 512
    overwrite: bool = False
    max_failure_rate: float = 0.01


@dataclass(frozen=True)
class Report:
    """What an extraction did.

    Attributes:
        items: items of the dataset, in all splits together.
        reused: items of shards that an earlier run finished; this run embedded the others.
        failures: the items that could not be decoded.
        finished: whether the cache is whole; if not, more items failed than are allowed.
        seconds: wall time.
    """

    items: int
    reused: int
    failures: Sequence[Failure]
    finished: bool
    seconds: float


def why_outdated(
    folder: Path, encoder: type[Encoder], dataset: type[Dataset], options: Options, precision: str = "float32"
) -> str | None:
    """Why the cache in `folder` has to be made (again); None if it is up to date.

    Decided from the manifest and the lengths of files alone: nothing is constructed, no weights are read.
    """
    if not (folder / FILE_NAME).exists():
        return "there is no finished cache yet"
    try:
        manifest = Manifest.load(folder)
        manifest.check_sizes(folder)
    except DamagedCacheError as error:
        return f"{error.path.name} is damaged: {error.what}"
    wanted = {
        "encoder": encoder.name,
        "preprocessing_version": encoder.preprocessing_version,
        "dataset": dataset.name,
        "dataset_version": dataset.version,
        "dtype": options.dtype,
        "precision": precision,
        "normalized": options.normalize,
    }
    found = {name: getattr(manifest, name) for name in wanted}
    changed = [name for name in wanted if found[name] != wanted[name]]
    return "; ".join(f"{name} was {found[name]!r} and is now {wanted[name]!r}" for name in changed) or None


def extract(
    folder: Path,
    encoder: Encoder,
    dataset: Dataset,
    options: Options,
    progress: Callable[[int, int, bool], None] = lambda done, total, reused: None,
) -> Report:
    """Makes the cache in `folder`, reusing the shards that an earlier run finished.

    `progress(n, total, reused)` is called whenever n more of the dataset's `total` items are done; `reused` says
    whether by an earlier run.

    Raises `CacheError` if the encoder cannot embed the dataset's modalities or returns what cannot be stored, and
    passes on what no other item would be spared (`feature_cache.embedding.NOT_THE_MEDIUM`).
    An item that cannot be decoded raises nothing: it is listed in `failures.jsonl` and in the report.
    """
    start = time.monotonic()
    splits = {split: dataset.items(split) for split in SPLITS}
    _check_ids(dataset, splits)
    total = sum(map(len, splits.values()))
    writer = CacheWriter(folder, describe(encoder, dataset, options))
    reused = 0
    for split, index, items in _shards(splits, options.shard_size):
        if not options.overwrite and writer.reuse_shard(split, index, _rows(items)):
            reused += len(items)
            progress(len(items), total, True)
        else:
            modalities = dataset.modalities
            batch = options.batch_size
            outcome = embed_items(encoder, split, items, modalities, batch, lambda n: progress(n, total, False))
            kept, features, failures = outcome
            writer.write_shard(split, index, _rows(kept), features, failures)
    finished = len(writer.failures) / total <= options.max_failure_rate
    if finished:
        if label_sets := writer.manifest.label_sets:
            texts = {name: [label.text for label in labels] for name, labels in label_sets.items()}
            writer.write_classes(**{name: embed_texts(encoder, texts[name], options.batch_size) for name in texts})
        writer.finish()
    else:
        writer.give_up()
    return Report(total, reused, writer.failures, finished, time.monotonic() - start)


def describe(encoder: Encoder, dataset: Dataset, options: Options) -> Manifest:
    """The manifest of a cache that has no rows yet. Raises `CacheError` if the encoder lacks a modality."""
    needed = [*dataset.modalities, *(["text"] if dataset.classes or dataset.open_classes else [])]
    lacking = sorted(set(needed) - set(encoder.modalities))
    if lacking:
        raise CacheError(
            f"The encoder {encoder.name} cannot embed the dataset {dataset.name}: it has no {', '.join(lacking)}, only "
            f"{', '.join(encoder.modalities)}."
        )
    return Manifest(
        encoder=encoder.name,
        weights_sha256=encoder.weights_sha256(),
        preprocessing_version=encoder.preprocessing_version,
        dataset=dataset.name,
        dataset_version=dataset.version,
        dtype=options.dtype,
        precision=encoder.precision,
        normalized=options.normalize,
        synthetic=dataset.synthetic,
        sources=dataset.sources,
        modalities={modality: encoder.modalities[modality] for modality in dataset.modalities},
        classes=dataset.classes,
        open_classes=dataset.open_classes,
    )


def _shards(splits: Mapping[str, Sequence[Item]], size: int) -> Iterator[tuple[str, int, Sequence[Item]]]:
    for split, items in splits.items():
        for index, start in enumerate(range(0, len(items), size)):
            yield split, index, items[start : start + size]


def _rows(items: Sequence[Item]) -> Rows:
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
