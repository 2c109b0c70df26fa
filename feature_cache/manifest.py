"""The manifest of a cache, format 2: what was embedded, by what, and which files hold it. Standard library only."""

import dataclasses
import hashlib
import json
import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from feature_cache.errors import DamagedCacheError
from feature_cache.schema import SchemaError, decode

FORMAT_VERSION = 2
FILE_NAME = "manifest.json"
CLASS_FILE = "classes.safetensors"
FAILURES_FILE = "failures.jsonl"
MODALITY_ORDER = ("vision", "text", "audio", "thermal", "depth", "imu", "video", "tactile", "speech")
"""Storage order of modalities everywhere; in a pair, A is the one that comes first. Speech is this project's own."""
SPLITS = ("train", "validation", "test")
DTYPES = ("float16", "float32")
LATER_FIELDS = {"precision": "float32", "normalized": False}
"""Fields that came after the first caches, with what those were made with: absent means this, so old checksums hold."""


@dataclass(frozen=True)
class ModalitySpec:
    """The embeddings of one modality.

    Attributes:
        dim: their width.
        scale: the constant with which the encoder multiplied its unit embeddings; a note, never applied again.
    """

    dim: int
    scale: float = 1.0

    def __post_init__(self) -> None:
        _require(self.dim >= 1, f"dim should be at least 1, but is {self.dim}")
        _require(0 < self.scale < math.inf, f"scale should be positive and finite, but is {self.scale}")


@dataclass(frozen=True)
class ClassLabel:
    """A class: its name, and the text whose embedding stands for it in zero-shot classification."""

    name: str
    text: str


@dataclass(frozen=True)
class MediaSource:
    """Where media come from: the package's or collection's name and version, licence (SPDX where there is one), URL."""

    name: str
    version: str
    license: str
    url: str


@dataclass(frozen=True)
class FileRecord:
    """Length and checksum that a file had when it was written."""

    bytes: int
    sha256: str


@dataclass(frozen=True)
class Shard:
    """Rows that are stored together: `<stem>.safetensors` has their embeddings, `<stem>.parquet` their texts."""

    stem: str
    rows: int
    features: FileRecord
    table: FileRecord

    @property
    def features_file(self) -> str:
        return f"{self.stem}.safetensors"

    @property
    def table_file(self) -> str:
        return f"{self.stem}.parquet"


@dataclass(frozen=True)
class Split:
    """The shards of one split, in order, and how many rows they have together."""

    count: int
    shards: tuple[Shard, ...]

    def __post_init__(self) -> None:
        rows = sum(shard.rows for shard in self.shards)
        _require(rows == self.count, f"count is {self.count}, but the shards have {rows} rows together")


@dataclass(frozen=True)
class Manifest:
    """All that a reader needs to know of a cache, and all by which an extraction decides whether to do it again.

    Attributes:
        encoder: the encoder's name.
        weights_sha256: of all of the encoder's weights.
        preprocessing_version, dataset_version: change whenever the features do, weights apart.
        dtype: "float16" or "float32", of all arrays in the cache.
        precision: in what the encoder computed them.
        normalized: whether they were brought to length 1 instead of being stored as the encoder scaled them.
        synthetic: whether the media were made up.
        sources: where the media come from, with their licences.
        modalities: in storage order.
        classes: what a label counts; () without classes.
        open_classes: what an open label counts: a second set whose texts no caption of the dataset is.
        splits: per split its shards.
        class_file: record of `classes.safetensors`; None without classes of either kind.
        failures_file: record of `failures.jsonl`, the items that could not be decoded; None if all could.
    """

    encoder: str
    weights_sha256: str
    preprocessing_version: str
    dataset: str
    dataset_version: str
    dtype: str
    synthetic: bool
    sources: tuple[MediaSource, ...]
    modalities: dict[str, ModalitySpec]
    classes: tuple[ClassLabel, ...]
    open_classes: tuple[ClassLabel, ...] = ()
    splits: dict[str, Split] = field(default_factory=dict)
    class_file: FileRecord | None = None
    failures_file: FileRecord | None = None
    precision: str = "float32"
    normalized: bool = False

    def __post_init__(self) -> None:
        _require(self.dtype in DTYPES, f"dtype should be one of {', '.join(DTYPES)}, but is {self.dtype!r}")
        for modality in self.modalities:
            _require(modality in MODALITY_ORDER, f"modality {modality!r} is none of {', '.join(MODALITY_ORDER)}")
        ordered = sorted(self.modalities, key=MODALITY_ORDER.index)
        _require(list(self.modalities) == ordered, f"modalities should be in storage order: {', '.join(ordered)}")
        for name, split in self.splits.items():
            _require(name in SPLITS, f"split {name!r} is none of {', '.join(SPLITS)}")
            for index, shard in enumerate(split.shards):
                expected = shard_stem(name, index)
                _require(shard.stem == expected, f"shard {shard.stem!r} should be called {expected!r}")

    @property
    def label_sets(self) -> dict[str, tuple[ClassLabel, ...]]:
        """ "classes" and "open_classes", as far as there are any: the arrays of `classes.safetensors`."""
        sets = {"classes": self.classes, "open_classes": self.open_classes}
        return {name: labels for name, labels in sets.items() if labels}

    def files(self) -> Iterator[tuple[str, FileRecord]]:
        """Name and record of every file of the cache except the manifest itself."""
        for split in self.splits.values():
            for shard in split.shards:
                yield shard.features_file, shard.features
                yield shard.table_file, shard.table
        if self.class_file is not None:
            yield CLASS_FILE, self.class_file
        if self.failures_file is not None:
            yield FAILURES_FILE, self.failures_file

    def to_json(self) -> str:
        """The text of `manifest.json`; it ends with a checksum of all other fields.

        Without a newline at the end, so that a file that lost its last byte is not valid JSON.
        """
        return json.dumps({**self._fields(), "checksum": self.checksum}, indent=2, ensure_ascii=False)

    @property
    def checksum(self) -> str:
        """SHA-256 of the manifest's content, which has the checksums of all files: it stands for the whole cache."""
        return _checksum(self._fields())

    def _fields(self) -> dict[str, Any]:
        fields = {"format_version": FORMAT_VERSION, **dataclasses.asdict(self)}
        return without_defaults(fields)

    @classmethod
    def from_json(cls, text: str) -> "Manifest":
        """The inverse of `to_json`. Raises `SchemaError`: what was expected and what was found."""
        try:
            fields = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise SchemaError(f"it should be JSON, but is not: {error}") from None
        if not isinstance(fields, dict):
            raise SchemaError(f"it should be a JSON object, but is a {type(fields).__name__}")
        version = fields.pop("format_version", None)
        if version != FORMAT_VERSION:
            raise SchemaError(f"format_version should be {FORMAT_VERSION}, but is {version!r}")
        checksum = fields.pop("checksum", None)
        manifest: Manifest = decode(cls, {**LATER_FIELDS, **fields})
        found = _checksum({"format_version": version, **fields})
        if checksum != found:
            raise SchemaError(f"its content should have the checksum {checksum!r}, but has {found!r}")
        return manifest

    @classmethod
    def load(cls, folder: Path) -> "Manifest":
        """Reads `manifest.json` of a cache. Raises `CacheError`."""
        path = folder / FILE_NAME
        try:
            return cls.from_json(path.read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError, SchemaError) as error:
            raise DamagedCacheError(path, str(error)) from None

    def check_sizes(self, folder: Path) -> None:
        """Raises `CacheError` unless every file is there and as long as when it was written."""
        for name, record in self.files():
            path = folder / name
            if not path.is_file():
                raise DamagedCacheError(path, f"it should be a file of {record.bytes} bytes, but there is none")
            size = path.stat().st_size
            if size != record.bytes:
                raise DamagedCacheError(path, f"it should be {record.bytes} bytes long, but is {size}")


def why_unusable(folder: Path) -> str | None:
    """Why there is no cache in `folder` to speak of; None if its manifest and the lengths of its files are right."""
    if not (folder / FILE_NAME).exists():
        return "there is no finished cache yet"
    try:
        Manifest.load(folder).check_sizes(folder)
    except DamagedCacheError as error:
        return f"{error.path.name} is damaged: {error.what}"
    return None


def record_of(data: bytes) -> FileRecord:
    """The record of a file that has these bytes."""
    return FileRecord(len(data), hashlib.sha256(data).hexdigest())


def shard_stem(split: str, index: int) -> str:
    """
    >>> shard_stem("train", 7)
    'train-00007'
    """
    return f"{split}-{index:05d}"


def without_defaults(fields: dict[str, Any]) -> dict[str, Any]:
    """The fields of a document less the `LATER_FIELDS` that have their default.

    >>> without_defaults({"encoder": "mine", "precision": "float32", "normalized": True})
    {'encoder': 'mine', 'normalized': True}
    """
    return {name: value for name, value in fields.items() if name not in LATER_FIELDS or value != LATER_FIELDS[name]}


def _checksum(fields: dict[str, Any]) -> str:
    canonical = json.dumps(fields, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(canonical.encode()).hexdigest()


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise SchemaError(message)
