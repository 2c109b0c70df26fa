"""Writes a cache shard by shard; a killed writer loses at most the shard it was at."""

import dataclasses
import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float

from feature_cache import shards
from feature_cache.atomic import remove_temporaries, write_atomically
from feature_cache.errors import CacheError
from feature_cache.manifest import (
    CLASS_FILE,
    FAILURES_FILE,
    FILE_NAME,
    SPLITS,
    FileRecord,
    Manifest,
    Shard,
    Split,
    record_of,
    shard_stem,
)
from feature_cache.shard_record import Failure, has_files, metadata_of, read_finished
from feature_cache.shards import Rows
from feature_cache.unfinished import UNFINISHED_FILE, Unfinished

_SHARD_FILE = re.compile(rf"({'|'.join(SPLITS)})-\d{{5}}\.(safetensors|parquet)")


class CacheWriter:
    """Writes one cache. A shard counts as finished once its table is there, which is written after its features.

    The table's metadata say what the shard was made from and which bytes its features have, so that a later writer
    can tell whether the shard is still the right one: there is no other record of progress. Several writers may make
    different shards of one cache at once (`feature_cache.lock`); the one that finishes it takes in those of the others.

    The first write makes the cache an unfinished one (its manifest goes) until `finish`.

    Example, with features of one's own::

        writer = CacheWriter(Path("caches/mine/birds"), Manifest(encoder="mine", dataset="birds", ...))
        writer.write_shard("train", 0, Rows(ids, captions, labels), {"vision": x, "text": y})
        writer.write_classes(class_text_embeddings)
        writer.finish()

    Args:
        folder: `<cache_dir>/<encoder>/<dataset>`; made if it is not there.
        manifest: all of its fields but splits and file records, which the writer adds.
        division: per split and shard the checksum of its items (`shard_record.items_checksum`), which makes an
            unfinished cache one that can be merged.
    """

    def __init__(self, folder: Path, manifest: Manifest, division: Mapping[str, tuple[str, ...]] | None = None) -> None:
        self.folder = folder
        self.manifest = manifest
        self._division = division
        self._described = False
        self._shards: dict[str, dict[int, Shard]] = {split: {} for split in SPLITS}
        self._failures: dict[str, tuple[Failure, ...]] = {}
        self._class_file: FileRecord | None = None
        folder.mkdir(parents=True, exist_ok=True)
        remove_temporaries(folder)

    @property
    def failures(self) -> list[Failure]:
        """Of all shards that this writer wrote or reused, in the order of the shards."""
        stems = [shard_stem(split, index) for split in SPLITS for index in sorted(self._shards[split])]
        return [failure for stem in stems for failure in self._failures[stem]]

    @property
    def rows(self) -> int:
        """Of all shards that this writer wrote or reused."""
        return sum(shard.rows for split in self._shards.values() for shard in split.values())

    def has_shard(self, split: str, index: int) -> bool:
        """Whether this writer wrote or reused it."""
        return index in self._shards[split]

    def sees_shard(self, split: str, index: int) -> bool:
        """Whether the files of the shard are there, whoever wrote them; does not read them."""
        return has_files(self.folder, split, index)

    def reuse_shard(self, split: str, index: int, rows: Rows | None, retry_failures: bool = False) -> bool:
        """Makes a shard part of the cache if it is there, whole, and made of these rows by this encoder; says whether.

        Args:
            split, index: as for `write_shard`.
            rows: all rows of the shard, those included that have failed; None = whatever rows it has.
            retry_failures: whether a shard that misses an item does not count as whole.
        """
        found = read_finished(self.folder, split, index, self.manifest)
        if found is None or (rows is not None and not found.made_from(rows)) or (found.failures and retry_failures):
            return False
        self._add(split, index, found.shard, found.failures)
        return True

    def write_shard(
        self,
        split: str,
        index: int,
        rows: Rows,
        features: Mapping[str, Float[np.ndarray, "n dim"]],
        failures: Sequence[Failure] = (),
    ) -> None:
        """Writes the `index`-th shard of a split.

        Args:
            split: "train", "validation" or "test".
            index: counts from 0; `finish` wants every one up to the last.
            rows: ids, captions and labels.
            features: per modality of the manifest an array, rows aligned with `rows`; stored in the manifest's dtype.
            failures: items of the shard that have no row, for the cache's list of them.

        Raises `CacheError`, naming item and modality, for features that are not finite or not of the right shape.
        """
        stem = shard_stem(split, index)
        self._check_rows(stem, rows)
        tensors = {m: self._checked(stem, rows, m, features) for m in self.manifest.modalities}
        feature_bytes = shards.tensors_bytes(tensors)
        record = record_of(feature_bytes)
        table = shards.table_bytes(rows, metadata_of(self.manifest, record, failures))
        shard = Shard(stem, len(rows), record, record_of(table))
        self._unfinish()
        (self.folder / shard.table_file).unlink(missing_ok=True)  # never a table of other features, even for a moment
        write_atomically(self.folder / shard.features_file, feature_bytes)
        write_atomically(self.folder / shard.table_file, table)
        self._add(split, index, shard, failures)

    def write_classes(
        self,
        classes: Float[np.ndarray, "n_classes dim"] | None = None,
        open_classes: Float[np.ndarray, "n_open_classes dim"] | None = None,
    ) -> None:
        """Writes the embeddings of the class texts of both kinds, in the order of the manifest's classes.

        Raises `CacheError` if they are not finite, not of the right shape, or not of the kinds that the manifest has.
        """
        label_sets = self.manifest.label_sets
        given = {"classes": classes, "open_classes": open_classes}
        features = {name: texts for name, texts in given.items() if texts is not None}
        if features.keys() != label_sets.keys():
            raise CacheError(
                f"{CLASS_FILE}: there should be texts of {', '.join(label_sets) or 'no classes'}, but there are of "
                f"{', '.join(features) or 'none'}."
            )
        dim = self.manifest.modalities["text"].dim if "text" in self.manifest.modalities else None
        dtype = self.manifest.dtype
        tensors = {
            name: _finite(CLASS_FILE, "text", [label.name for label in labels], features[name], dim, dtype)
            for name, labels in label_sets.items()
        }
        data = shards.tensors_bytes(tensors)
        self._unfinish()
        write_atomically(self.folder / CLASS_FILE, data)
        self._class_file = record_of(data)

    def list_failures(self) -> None:
        """Writes `failures.jsonl` and leaves the cache unfinished."""
        self._unfinish()
        self._write_failures()

    def pause(self) -> None:
        """Leaves the cache unfinished, with a description by which `merge` can join it with others."""
        self._unfinish()
        self._describe()

    def finish(self) -> Manifest:
        """Removes shards of an earlier division and writes the manifest, which makes the cache a whole one.

        Raises `CacheError` if a shard or the class texts have not been written.
        """
        splits = {split: self._split(split) for split in SPLITS}
        if self.manifest.label_sets and self._class_file is None:
            raise CacheError(f"The cache {self.folder} has classes, but write_classes was not called before finish.")
        manifest = dataclasses.replace(
            self.manifest,
            splits=splits,
            class_file=self._class_file,
            failures_file=self._write_failures(),
        )
        self._remove_strangers({name for name, _ in manifest.files()})
        remove_temporaries(self.folder)
        write_atomically(self.folder / FILE_NAME, manifest.to_json().encode())
        return manifest

    def _unfinish(self) -> None:
        """Not done before something is written: a run that fails earlier leaves a finished cache as it was."""
        if not self._described:
            self._describe()
            self._described = True
        (self.folder / FILE_NAME).unlink(missing_ok=True)

    def _describe(self) -> None:
        if self._division is not None:
            manifest = dataclasses.replace(self.manifest, class_file=self._class_file)
            Unfinished(manifest, dict(self._division)).write(self.folder)

    def _write_failures(self) -> FileRecord | None:
        """Writes `failures.jsonl`, a line of JSON with split, id, modality and reason each; None without failures."""
        self._unfinish()
        if not self.failures:
            return None
        lines = [json.dumps(dataclasses.asdict(failure), ensure_ascii=False) + "\n" for failure in self.failures]
        data = "".join(lines).encode()
        write_atomically(self.folder / FAILURES_FILE, data)
        return record_of(data)

    def _add(self, split: str, index: int, shard: Shard, failures: Sequence[Failure]) -> None:
        self._shards[split][index] = shard
        self._failures[shard.stem] = tuple(failures)

    def _split(self, split: str) -> Split:
        written = self._shards[split]
        absent = [shard_stem(split, index) for index in range(len(written)) if index not in written]
        if absent:
            raise CacheError(f"The cache {self.folder} cannot be finished: {', '.join(absent)} has not been written.")
        ordered = tuple(written[index] for index in sorted(written))
        return Split(sum(shard.rows for shard in ordered), ordered)

    def _check_rows(self, stem: str, rows: Rows) -> None:
        repeated = [item for item, count in Counter(rows.ids).items() if count > 1]
        if repeated:
            raise CacheError(f"{stem}: ids should be unique, but {repeated[0]!r} is there more than once.")
        self._check_labels(stem, "label", rows.ids, rows.labels, len(self.manifest.classes))
        self._check_labels(stem, "open label", rows.ids, rows.open_labels, len(self.manifest.open_classes))

    @staticmethod
    def _check_labels(stem: str, kind: str, ids: Sequence[str], labels: Sequence[int], classes: int) -> None:
        for item, label in zip(ids, labels, strict=True):
            if not -1 <= label < classes:
                allowed = f"from -1 (no class) to {classes - 1}" if classes else "-1, as there are no classes"
                raise CacheError(f"{stem}: the {kind} of item {item!r} should be {allowed}, but is {label}.")

    def _checked(
        self, stem: str, rows: Rows, modality: str, features: Mapping[str, Float[np.ndarray, "n dim"]]
    ) -> Float[np.ndarray, "n dim"]:
        if features.keys() != self.manifest.modalities.keys():
            found, wanted = ", ".join(features) or "none", ", ".join(self.manifest.modalities)
            raise CacheError(f"{stem}: there should be features of the modalities {wanted}, but there are of {found}.")
        dim = self.manifest.modalities[modality].dim
        return _finite(stem, modality, rows.ids, features[modality], dim, self.manifest.dtype)

    def _remove_strangers(self, keep: set[str]) -> None:
        for path in self.folder.iterdir():
            ours = _SHARD_FILE.fullmatch(path.name) or path.name in (CLASS_FILE, FAILURES_FILE, UNFINISHED_FILE)
            if ours and path.name not in keep:
                path.unlink()


def _finite(
    where: str, modality: str, ids: Sequence[str], features: Float[np.ndarray, "n dim"], dim: int | None, dtype: str
) -> Float[np.ndarray, "n dim"]:
    """The features in the dtype of the cache. Raises `CacheError` for a wrong shape, NaN, Inf, or overflow."""
    n, dim = len(ids), features.shape[-1] if dim is None and features.ndim else dim
    if features.shape != (n, dim):
        first = f"{ids[0]!r}" if ids else "none"
        shape = list(features.shape)
        raise CacheError(
            f"{where}: the {modality} features of {n} items (the first is {first}) should be an array [{n}, {dim}], "
            f"but are {shape}."
        )
    with np.errstate(over="ignore"):  # becomes Inf, which is refused below
        stored = features.astype(dtype)
    bad = np.flatnonzero(~np.isfinite(stored).all(axis=1))
    if len(bad):
        value = features[bad[0]][~np.isfinite(stored[bad[0]])][0]
        raise CacheError(
            f"{where}: the {modality} features of item {ids[bad[0]]!r} should be finite numbers that {dtype} can hold, "
            f"but one of them is {value}."
        )
    return stored
