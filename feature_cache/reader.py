"""Reads a cache: opening checks that it is whole, features are memory-mapped. Imports neither torch nor jax."""

import hashlib
import shlex
from functools import cached_property
from pathlib import Path

import numpy as np
from jaxtyping import Float, Int32

from feature_cache import shards
from feature_cache.errors import CacheError, DamagedCacheError, extract_command
from feature_cache.feature_rows import FeatureRows
from feature_cache.manifest import CLASS_FILE, FILE_NAME, Manifest, ModalitySpec, Shard
from feature_cache.registry import check_name
from feature_cache.unfinished import UNFINISHED_FILE


def open_cache(path: str | Path) -> "FeatureCache":
    """Opens the cache in the folder `path`, `<cache_dir>/<encoder>/<dataset>`, and checks it against its manifest.

    Checked are presence, length and header of every file; `verify` also reads them whole.

    Raises `CacheError`, which says what to run, if there is no cache, if it is unfinished, or if it is damaged.
    """
    folder = Path(path)
    try:
        if not (folder / FILE_NAME).exists():
            raise _no_cache(folder)
        manifest = Manifest.load(folder)
        manifest.check_sizes(folder)
    except OSError as error:
        raise CacheError(
            f"The feature cache {folder} cannot be read: {error.strerror or error}. Correct the path, or give yourself "
            f"the right to search it: `chmod -R u+rX {shlex.quote(str(folder))}`."
        ) from None
    _check_headers(folder, manifest)
    return FeatureCache(folder, manifest)


class FeatureCache:
    """A whole cache on disk; `open_cache` makes it. Rows of a split are aligned over all methods.

    Attributes:
        path: its folder.
        manifest: encoder, dataset, licences, splits.
    """

    def __init__(self, path: Path, manifest: Manifest) -> None:
        self.path = path
        self.manifest = manifest
        self._tables: dict[str, shards.Rows] = {}

    def __repr__(self) -> str:
        counts = ", ".join(f"{name} {split.count}" for name, split in self.manifest.splits.items())
        return f"FeatureCache({str(self.path)!r}: {', '.join(self.modalities)}; {counts})"

    @property
    def modalities(self) -> dict[str, ModalitySpec]:
        """Width and scale per modality, in storage order."""
        return self.manifest.modalities

    @property
    def class_names(self) -> tuple[str, ...]:
        """What labels count; () without classes."""
        return tuple(label.name for label in self.manifest.classes)

    @property
    def class_features(self) -> Float[np.ndarray, "n_classes dim_text"] | None:
        """Embeddings of the class texts, memory-mapped; None without classes."""
        return self._label_sets.get("classes")

    @property
    def open_class_names(self) -> tuple[str, ...]:
        """What open labels count; () without open classes."""
        return tuple(label.name for label in self.manifest.open_classes)

    @property
    def open_class_features(self) -> Float[np.ndarray, "n_open_classes dim_text"] | None:
        """Embeddings of the open classes' texts, memory-mapped; None without open classes."""
        return self._label_sets.get("open_classes")

    @cached_property
    def _label_sets(self) -> shards.Tensors:
        return shards.map_tensors(self.path / CLASS_FILE) if self.manifest.class_file else {}

    def features(self, split: str, modality: str) -> Float[np.ndarray, "n dim"]:
        """The embeddings of one modality, in the manifest's dtype and as the encoder scaled them.

        Memory-mapped, not to be written to, if the split is one shard; else a copy.

        Raises `UnknownNameError` for a split or modality that the cache does not have.
        """
        rows = self.rows(split, modality)
        return rows.map_shard(0) if rows.shard_count == 1 else rows[:]

    def rows(self, split: str, modality: str) -> FeatureRows:
        """The same rows, read only when asked for: for what is not to be in memory as a whole.

        Raises `UnknownNameError` for a split or modality that the cache does not have.
        """
        check_name(self.modalities, f"modality in {self.path}", modality)
        shards_of_split = self._shards(split)
        files = tuple(self.path / shard.features_file for shard in shards_of_split)
        counts = tuple(shard.rows for shard in shards_of_split)
        dim, dtype = self.modalities[modality].dim, np.dtype(self.manifest.dtype)
        return FeatureRows(files, counts, modality, dim, dtype)

    def ids(self, split: str) -> list[str]:
        """The rows' ids, unique in the split."""
        return list(self._table(split).ids)

    def captions(self, split: str) -> list[str]:
        """The rows' captions."""
        return list(self._table(split).captions)

    def labels(self, split: str) -> Int32[np.ndarray, " n"]:
        """The rows' indices into `class_names`; -1 = no class."""
        return np.asarray(self._table(split).labels, np.int32)

    def open_labels(self, split: str) -> Int32[np.ndarray, " n"]:
        """The rows' indices into `open_class_names`; -1 = no open class."""
        return np.asarray(self._table(split).open_labels, np.int32)

    def verify(self) -> None:
        """Compares every file with the checksum that it had when it was written. Raises `CacheError`."""
        if Manifest.load(self.path) != self.manifest:
            raise CacheError(f"The feature cache {self.path} has been made again since it was opened: open it anew.")
        self.manifest.check_sizes(self.path)
        for name, record in self.manifest.files():
            found = _sha256(self.path / name)
            if found != record.sha256:
                what = f"its SHA-256 checksum should be {record.sha256}, but is {found}"
                raise DamagedCacheError(self.path / name, what)

    def _shards(self, split: str) -> tuple[Shard, ...]:
        check_name(self.manifest.splits, f"split in {self.path}", split)
        return self.manifest.splits[split].shards

    def _table(self, split: str) -> shards.Rows:
        if split not in self._tables:
            tables = [shards.read_table(self.path / shard.table_file)[0] for shard in self._shards(split)]
            names = ("ids", "captions", "labels", "open_labels")
            columns = ([value for table in tables for value in getattr(table, name)] for name in names)
            self._tables[split] = shards.Rows(*columns)
        return self._tables[split]


def _check_headers(folder: Path, manifest: Manifest) -> None:
    for split in manifest.splits.values():
        for shard in split.shards:
            shapes = {name: (shard.rows, spec.dim) for name, spec in manifest.modalities.items()}
            shards.check_tensors(folder / shard.features_file, shapes, manifest.dtype)
            shards.check_table(folder / shard.table_file, shard.rows)
    if manifest.class_file:
        dim = manifest.modalities["text"].dim if "text" in manifest.modalities else None
        texts = {name: (len(labels), dim) for name, labels in manifest.label_sets.items()}
        shards.check_tensors(folder / CLASS_FILE, texts, manifest.dtype)


def _no_cache(folder: Path) -> CacheError:
    """Why `folder`, which has no manifest, cannot be opened: the commonest mistakes by name."""
    if not folder.exists():
        return CacheError(
            f"There is no feature cache {folder}: the folder does not exist. A cache is a folder "
            f"<cache_dir>/<encoder>/<dataset>; to make this one, run `{extract_command(folder)}`."
        )
    if not folder.is_dir():
        return CacheError(f"{folder} should be the folder of a feature cache, but is a file.")
    below = sorted({str(path.parent) for depth in ("*", "*/*") for path in folder.glob(f"{depth}/{FILE_NAME}")})
    if below:
        return CacheError(f"{folder} is not a feature cache but has some below it; open one of: {', '.join(below)}.")
    finished = len(list(folder.glob("*-*.parquet")))
    if finished or any(folder.glob("*.safetensors*")) or any(folder.glob(f"{UNFINISHED_FILE}*")):
        return CacheError(
            f"The feature cache {folder} is unfinished: it has no {FILE_NAME}, which is written last, but {finished} "
            f"shards are there. To finish it, run `{extract_command(folder)}`; if the cache is under version control, "
            f"`git checkout -- {folder}` brings it back."
        )
    return CacheError(
        f"{folder} is not a feature cache: it has no {FILE_NAME}. To make one, run `{extract_command(folder)}`."
    )


def _sha256(path: Path) -> str:
    try:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise DamagedCacheError(path, f"it cannot be read: {error}") from None
