"""What a shard on disk says of itself: what it was made from, by what, and which of its items have no row."""

import dataclasses
import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from feature_cache import shards
from feature_cache.errors import CacheError
from feature_cache.manifest import FORMAT_VERSION, FileRecord, Manifest, Shard, record_of, shard_stem, without_defaults
from feature_cache.schema import SchemaError, decode
from feature_cache.shards import Rows

FIELDS = (
    "encoder", "weights_sha256", "preprocessing_version", "dataset", "dataset_version", "dtype", "precision",
    "normalized",
)  # fmt: skip
"""Of the manifest: shards in which one of them or the modalities differ do not belong to one cache."""


@dataclass(frozen=True)
class Failure:
    """An item that has no row: one of its media could not be decoded, or its embedding could not be stored."""

    split: str
    id: str
    modality: str
    reason: str


def few_enough(failures: int, items: int, max_failure_rate: float) -> bool:
    """Whether a cache with so many failures may be finished."""
    return failures / items <= max_failure_rate


@dataclass(frozen=True)
class FinishedShard:
    """A shard whose two files are whole and belong together."""

    shard: Shard
    rows: Rows
    failures: tuple[Failure, ...]

    @property
    def items(self) -> str:
        """The checksum of all of its items, those included that have no row."""
        return items_checksum([*self.rows.ids, *(failure.id for failure in self.failures)])

    def made_from(self, rows: Rows) -> bool:
        """Whether these are all of its items, those included that have no row."""
        failed = {failure.id for failure in self.failures}
        return self.rows == rows.without(failed) and failed <= set(rows.ids)


def items_checksum(ids: Iterable[str]) -> str:
    """SHA-256 of ids, whatever their order: says which of a dataset's items a shard is made of.

    >>> items_checksum(["b", "a"]) == items_checksum(["a", "b"]) != items_checksum(["ab"])
    True
    """
    return hashlib.sha256(json.dumps(sorted(ids)).encode()).hexdigest()


def metadata_of(manifest: Manifest, features: FileRecord, failures: Sequence[Failure]) -> dict[str, Any]:
    """The metadata of a shard's table; with equal metadata and rows it need not be made again."""
    return {
        "format_version": FORMAT_VERSION,
        **without_defaults({name: getattr(manifest, name) for name in FIELDS}),
        "modalities": {name: dataclasses.asdict(spec) for name, spec in manifest.modalities.items()},
        "features": dataclasses.asdict(features),
        "failures": [dataclasses.asdict(failure) for failure in failures],
    }


def has_files(folder: Path, split: str, index: int) -> bool:
    """Whether both files of a shard are there, whole or not."""
    stem = shard_stem(split, index)
    return all((folder / f"{stem}.{ending}").is_file() for ending in ("safetensors", "parquet"))


def read_finished(folder: Path, split: str, index: int, manifest: Manifest) -> FinishedShard | None:
    """The shard, read whole; None unless it is there, whole, and of a cache with this manifest."""
    if not has_files(folder, split, index):
        return None
    stem = shard_stem(split, index)
    table = folder / f"{stem}.parquet"
    try:
        rows, metadata = shards.read_table(table)
        failures: tuple[Failure, ...] = decode(tuple[Failure, ...], metadata.get("failures"))
    except (CacheError, SchemaError):
        return None
    features = record_of((folder / f"{stem}.safetensors").read_bytes())
    if metadata != metadata_of(manifest, features, failures):
        return None
    return FinishedShard(Shard(stem, len(rows), features, record_of(table.read_bytes())), rows, failures)
