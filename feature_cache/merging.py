"""Joins parts of one cache that runs on several machines made without a shared disk."""

import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path

from feature_cache import shards
from feature_cache.atomic import write_atomically
from feature_cache.errors import CacheError
from feature_cache.lock import Share, running
from feature_cache.manifest import CLASS_FILE, FILE_NAME, SPLITS, Manifest, record_of, shard_stem
from feature_cache.shard_record import FIELDS, FinishedShard, few_enough, items_checksum, read_finished
from feature_cache.unfinished import UNFINISHED_FILE, Unfinished
from feature_cache.writer import CacheWriter


def merge(sources: Sequence[Path], into: Path, max_failure_rate: float = 0.01) -> Manifest:
    """Copies the shards of all sources into one folder and finishes the cache there.

    Each is read whole and compared with its checksums before it is copied; of one that several sources have, the one
    with the fewest failures is taken. A merge that was stopped goes on where it was. The sources stay as they are.

    Raises `CacheError`, leaving what is there unfinished: a source is no part of a cache, or of another one than the
    first, or of the same one divided otherwise; a shard or the class texts are in none of them; more items failed than
    are allowed.
    """
    parts = [_part(source) for source in sources]
    for source, part in zip(sources[1:], parts[1:], strict=True):
        _check_same(sources[0], parts[0], source, part)
    whole = _bare(parts[0])
    _check_complete(sources, whole)
    with running(into, Share()):
        writer = CacheWriter(into, whole.manifest, whole.shards)
        for split, index in _shards(whole):
            _copy_shard(sources, into, split, index, whole)
            writer.reuse_shard(split, index, rows=None)
        if whole.manifest.label_sets:
            writer.write_classes(**_class_features(sources, parts))
        return _finish(writer, max_failure_rate)


def _part(source: Path) -> Unfinished:
    """What a source belongs to; it may be finished or not."""
    if not (source / FILE_NAME).exists():
        if not (source / UNFINISHED_FILE).exists():
            raise CacheError(
                f"{source} is no part of a cache: it has neither {FILE_NAME} nor {UNFINISHED_FILE}, which a run with "
                "--shard writes when it ends. Wait for it, or name the folder CACHE_DIR/ENCODER/DATASET with --from."
            )
        return Unfinished.load(source)
    manifest = Manifest.load(source)
    return Unfinished(
        manifest,
        {split: tuple(_items(source, shard.table_file) for shard in manifest.splits[split].shards) for split in SPLITS},
    )


def _items(source: Path, table: str) -> str:
    rows, metadata = shards.read_table(source / table)
    return items_checksum([*rows.ids, *(failure["id"] for failure in metadata.get("failures", ()))])


def _bare(part: Unfinished) -> Unfinished:
    """Without what differs between parts of one cache."""
    manifest = dataclasses.replace(part.manifest, splits={}, class_file=None, failures_file=None)
    return Unfinished(manifest, part.shards)


def _check_same(first: Path, expected: Unfinished, source: Path, found: Unfinished) -> None:
    fields = dict.fromkeys((*FIELDS, *(field.name for field in dataclasses.fields(Manifest))))
    pairs = [(name, getattr(_bare(expected).manifest, name), getattr(_bare(found).manifest, name)) for name in fields]
    counts = [("number of shards", _counts(expected), _counts(found))]
    for name, want, have in [*pairs, *counts]:
        if want != have:
            raise CacheError(
                f"The caches {first} and {source} are not parts of the same: {name} is {_short(want)} in the first "
                f"and {_short(have)} in the second. Make them with the same encoder, weights, dataset and flags."
            )
    for split, index in _shards(expected):
        if expected.shards[split][index] != found.shards[split][index]:
            raise CacheError(
                f"The caches {first} and {source} are not parts of the same: they have other items in the shard "
                f"{shard_stem(split, index)}. Make them of the same media, with the same --shard_size."
            )


def _counts(part: Unfinished) -> dict[str, int]:
    return {split: len(part.shards[split]) for split in SPLITS}


def _check_complete(sources: Sequence[Path], whole: Unfinished) -> None:
    """Before anything is copied. Whether the shards are whole is seen when they are."""
    absent = [
        stem
        for stem in (shard_stem(split, index) for split, index in _shards(whole))
        if not any((source / f"{stem}.parquet").is_file() for source in sources)
    ]
    if absent:
        raise CacheError(
            f"{len(absent)} of {sum(_counts(whole).values())} shards are in none of {', '.join(map(str, sources))}: "
            f"{_short(', '.join(absent))}. Give all caches, after the --shard runs that make them have ended."
        )


def _shards(whole: Unfinished) -> Iterator[tuple[str, int]]:
    return ((split, index) for split in SPLITS for index in range(len(whole.shards[split])))


def _copy_shard(sources: Sequence[Path], into: Path, split: str, index: int, whole: Unfinished) -> None:
    """From a source that has it whole."""
    candidates = ((source, read_finished(source, split, index, whole.manifest)) for source in sources)
    good = [(source, it) for source, it in candidates if it and it.items == whole.shards[split][index]]
    for source, found in sorted(good, key=lambda each: len(each[1].failures)):
        if read_finished(into, split, index, whole.manifest) == found or _copy(source, into, found):
            return
    raise CacheError(
        f"The shard {shard_stem(split, index)} is whole in none of {', '.join(map(str, sources))}: it is damaged, or "
        "was made with another encoder, weights or flags. Give the command again that made it, which mends it."
    )


def _copy(source: Path, into: Path, found: FinishedShard) -> bool:
    """The features first, as the writer does it; says whether they still were what was found."""
    shard = found.shard
    files = [(shard.features_file, shard.features), (shard.table_file, shard.table)]
    contents = [(source / name).read_bytes() for name, _ in files]
    if any(record_of(data) != record for data, (_, record) in zip(contents, files, strict=True)):
        return False
    (into / shard.table_file).unlink(missing_ok=True)
    for data, (name, _) in zip(contents, files, strict=True):
        write_atomically(into / name, data)
    return True


def _class_features(sources: Sequence[Path], parts: Sequence[Unfinished]) -> shards.Tensors:
    for source, part in zip(sources, parts, strict=True):
        path, record = source / CLASS_FILE, part.manifest.class_file
        if record is not None and path.is_file() and record_of(path.read_bytes()) == record:
            return shards.map_tensors(path)
    raise CacheError(
        f"The embeddings of the class texts, {CLASS_FILE}, are whole in none of {', '.join(map(str, sources))}. Give "
        "one of the commands again that made these: a --shard run writes them when its own shards are done."
    )


def _finish(writer: CacheWriter, max_failure_rate: float) -> Manifest:
    failed = len(writer.failures)
    items = failed + writer.rows
    if not few_enough(failed, items, max_failure_rate):
        writer.list_failures()
        raise CacheError(
            f"{failed} of {items} items failed, more than --max_failure_rate={max_failure_rate:g} allows; they are "
            f"listed in {writer.folder}. Make the parts again with --retry_failures, or allow more."
        )
    return writer.finish()


def _short(value: object, length: int = 200) -> str:
    text = value if isinstance(value, str) else repr(value)
    return text if len(text) <= length else f"{text[:length]}…"
