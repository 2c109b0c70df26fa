"""What readers and writers of all formats share: blocks of rows, and a cache made of them shard by shard."""

import hashlib
import os
import secrets
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from feature_cache import shards
from feature_cache.atomic import SUFFIX
from feature_cache.errors import CacheError
from feature_cache.lock import Share, running
from feature_cache.manifest import MODALITY_ORDER, SPLITS, ClassLabel, Manifest, MediaSource, ModalitySpec
from feature_cache.reader import FeatureCache
from feature_cache.registry import check_name
from feature_cache.shards import Rows
from feature_cache.writer import CacheWriter

Array: TypeAlias = "np.ndarray[Any, Any]"
Block: TypeAlias = tuple[Rows, dict[str, Array]]
"""Some rows of a split in order, and per modality their features [n, dim]."""
UNKNOWN = "unknown"
LEFT_OUT = "The format has no place for the encoder's weights, precision and normalisation, for licences and scales."


@dataclass(frozen=True)
class Request:
    """What a reader is asked for.

    Attributes:
        path: folder of the files.
        encoder, dataset: what the features are of; they also name the cache.
        modalities: what is stored, in storage order; None where the format or the dataset's name says it.
    """

    path: Path
    encoder: str
    dataset: str
    modalities: tuple[str, ...] | None = None


@dataclass(frozen=True)
class Incoming:
    """Features on their way into a cache. Nothing but the class texts is in memory until `blocks` is iterated.

    Attributes:
        widths: of each modality's features, in storage order.
        blocks: the rows of a split, at most so many at a time; nothing for a split that is not there.
        files: all that is read.
        label_sets: the manifest's "classes" and "open_classes", as far as there are any.
        class_features: the embeddings of their texts, by the same names.
        notes: what a user should know of how the files were read, a sentence each.
    """

    widths: Mapping[str, int]
    blocks: Callable[[str, int], Iterator[Block]]
    files: tuple[Path, ...]
    label_sets: Mapping[str, tuple[ClassLabel, ...]] = field(default_factory=dict)
    class_features: Mapping[str, Array] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


def store(
    folder: Path,
    incoming: Incoming,
    encoder: str,
    dataset: str,
    dtype: str = "float32",
    shard_size: int = 512,
    license: str = UNKNOWN,
    url: str = "",
    progress: Callable[[int], None] = lambda rows: None,
) -> Manifest:
    """Makes the cache in `folder`, holding one shard in memory at a time; `progress(n)` says that n more rows are done.

    What the files do not tell, such as the checksum of the weights, is "unknown" in the manifest; its sources are the
    files with their own checksums.

    Raises `CacheError` for ids that repeat, features that are not finite, and files without any row, and `LockedError`
    while another process makes the same cache.
    """
    manifest = Manifest(
        encoder=encoder,
        weights_sha256=UNKNOWN,
        preprocessing_version=UNKNOWN,
        dataset=dataset,
        dataset_version=UNKNOWN,
        dtype=dtype,
        synthetic=False,
        sources=tuple(MediaSource(path.name, _sha256(path), license, url) for path in incoming.files),
        modalities={modality: ModalitySpec(width) for modality, width in incoming.widths.items()},
        classes=incoming.label_sets.get("classes", ()),
        open_classes=incoming.label_sets.get("open_classes", ()),
    )
    with running(folder, Share()):
        writer = CacheWriter(folder, manifest)
        total = 0
        for split in SPLITS:
            seen: set[str] = set()
            for index, (rows, features) in enumerate(incoming.blocks(split, shard_size)):
                _check_ids(split, rows.ids, seen)
                writer.write_shard(split, index, rows, features)
                total += len(rows)
                progress(len(rows))
        if not total:
            raise CacheError(f"There is not a single row in {', '.join(str(path) for path in incoming.files)}.")
        if incoming.class_features:
            writer.write_classes(**incoming.class_features)
        return writer.finish()


def blocks_of(cache: FeatureCache, split: str) -> Iterator[Block]:
    """The rows of a split of a cache, a shard at a time, features as they are stored; nothing without the split."""
    found = cache.manifest.splits.get(split)
    for shard in found.shards if found else ():
        rows, _ = shards.read_table(cache.path / shard.table_file)
        tensors = shards.map_tensors(cache.path / shard.features_file)
        yield rows, {modality: tensors[modality] for modality in cache.modalities}


def filled_splits(cache: FeatureCache) -> list[str]:
    """The splits that have rows."""
    return [name for name in SPLITS if name in cache.manifest.splits and cache.manifest.splits[name].count]


def remove_earlier(folder: Path, *patterns: str) -> None:
    """Removes what an earlier export has left, which a reader would take for a part of the next one."""
    for path in sorted(path for pattern in patterns for path in folder.glob(pattern)):
        path.unlink()


def cut(rows: Rows, features: Mapping[str, Array], size: int) -> Iterator[Block]:
    """A long block as blocks of at most `size` rows."""
    for start in range(0, len(rows), size):
        part = slice(start, start + size)
        columns = (rows.ids[part], rows.captions[part], rows.labels[part], rows.open_labels[part])
        yield Rows(*columns), {modality: values[part] for modality, values in features.items()}


def in_order(modalities: Collection[str], where: str) -> tuple[str, ...]:
    """Modalities in storage order. Raises `UnknownNameError` for what is none, `CacheError` for none at all."""
    for modality in modalities:
        check_name(MODALITY_ORDER, f"modality in {where}", modality)
    if not modalities:
        raise CacheError(f"{where} has features of no modality: name at least one of {', '.join(MODALITY_ORDER)}.")
    return tuple(sorted(modalities, key=MODALITY_ORDER.index))


def existing_folder(path: Path) -> Path:
    """The folder to import from. Raises `CacheError` if it is none."""
    if not path.is_dir():
        raise CacheError(f"--path={path} should be the folder of the files to import, but is not a folder.")
    return path


@contextmanager
def appearing(path: Path) -> Iterator[Path]:
    """A temporary path beside `path`, renamed to it once the block ends well and its bytes are on the disk."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.name}.{secrets.token_hex(4)}{SUFFIX}")
    try:
        yield temporary
        with open(temporary, "rb") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def _check_ids(split: str, ids: Collection[str], seen: set[str]) -> None:
    for item in ids:
        if item in seen:
            raise CacheError(f"The ids of a split should be unique, but in {split} {item!r} is there more than once.")
        seen.add(item)


def _sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
