"""The resumable loop: a dataset's media through an encoder into a cache, shard by shard."""

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from feature_cache.datasets.base import Dataset
from feature_cache.encoders.base import Encoder
from feature_cache.errors import CacheError
from feature_cache.extraction.decode import decode_here
from feature_cache.extraction.engine import Engine, LocalEngine
from feature_cache.extraction.options import Options
from feature_cache.extraction.shard_tasks import ShardTask, division, rows_of, shard_tasks
from feature_cache.lock import gate, running
from feature_cache.manifest import Manifest, shard_stem, why_unusable
from feature_cache.shard_record import Failure, few_enough
from feature_cache.unfinished import Unfinished
from feature_cache.writer import CacheWriter


@dataclass(frozen=True)
class Report:
    """What an extraction did.

    Attributes:
        items: items of this run's share, in all splits together.
        reused: items of shards that an earlier run finished; this run embedded the others.
        failures: the items that failed; of the whole cache if all shards are there, else of this run's share.
        finished: whether the cache is whole; if not, shards are absent, or more items failed than are allowed.
        seconds: wall time.
        shards: of the whole cache.
        absent: shards that other runs have yet to make.
    """

    items: int
    reused: int
    failures: Sequence[Failure]
    finished: bool
    seconds: float
    shards: int
    absent: int


def why_outdated(
    folder: Path,
    encoder: type[Encoder],
    dataset: type[Dataset],
    options: Options,
    precision: str = "float32",
    weights_sha256: str | None = None,
) -> str | None:
    """Why the cache in `folder` has to be made (again); None if it is up to date.

    Decided from the manifest and the lengths of files alone: nothing is constructed, no weights are read, unless their
    checksum is given.
    """
    if reason := why_unusable(folder):
        return reason
    manifest = Manifest.load(folder)
    wanted = {
        "encoder": encoder.name,
        "weights_sha256": weights_sha256 or manifest.weights_sha256,
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
    engine: Engine | None = None,
) -> Report:
    """Makes the cache in `folder`, or this run's share of it, reusing the shards that an earlier run finished.

    `progress(n, total, reused)` is called whenever n more of the share's `total` items are done; `reused` says whether
    by an earlier run. Without an engine, this process decodes and embeds.

    Raises `CacheError` if the encoder cannot embed the dataset's modalities or returns what cannot be stored,
    `LockedError` if another process is making the same, and passes on what no other item would be spared
    (`decode.NOT_THE_MEDIUM`). An item that cannot be decoded, or whose embedding is not finite, raises nothing: it is
    listed in `failures.jsonl` and in the report, and stays failed until `retry_failures`.
    """
    start = time.monotonic()
    engine = engine or LocalEngine(encoder, decode_here(encoder))
    tasks = shard_tasks(dataset, options.shard_size)
    mine = [task for task in tasks if task.number in options.share]
    total = sum(len(task.items) for task in mine)
    manifest = describe(encoder, dataset, options)
    plan = Unfinished(manifest, division(tasks))
    with running(folder, options.share, plan.checksum):
        writer = CacheWriter(folder, manifest, plan.shards)
        todo = mine if options.overwrite else _reuse(writer, mine, options.retry_failures)
        reused = total - sum(len(task.items) for task in todo)
        if reused:
            progress(reused, total, True)
        if todo:
            engine.make(writer, todo, options, lambda count: progress(count, total, False))
        with gate(folder):
            absent = _take_in(writer, tasks)
            if absent and options.share.count == 1:
                raise _changed(folder, dataset, absent)
            finished = not absent and _finish(writer, tasks, options, engine)
            if absent:
                _pause(writer, options, engine)
    seconds = time.monotonic() - start
    return Report(total, reused, writer.failures, finished, seconds, len(tasks), len(absent))


def describe(encoder: Encoder, dataset: Dataset, options: Options) -> Manifest:
    """The manifest of a cache that has no rows yet. Raises `CacheError` if the encoder lacks a modality."""
    needed = [*dataset.modalities, *(["text"] if dataset.classes or dataset.open_classes else [])]
    lacking = sorted(set(needed) - set(encoder.modalities))
    if lacking:
        raise CacheError(
            f"The encoder {encoder.name} cannot embed the dataset {dataset.name}: it has no {', '.join(lacking)}, only "
            f"{', '.join(encoder.modalities)}."
        )
    specs = {modality: encoder.modalities[modality] for modality in dataset.modalities}
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
        modalities={m: replace(spec, scale=1.0) if options.normalize else spec for m, spec in specs.items()},
        classes=dataset.classes,
        open_classes=dataset.open_classes,
    )


def _changed(folder: Path, dataset: Dataset, absent: Sequence[ShardTask]) -> CacheError:
    return CacheError(
        f"{len(absent)} shards of {folder} have just been made, but not of the items that the dataset {dataset.name} "
        f"has here; the first is {shard_stem(absent[0].split, absent[0].index)}. Do all machines see the same media? "
        "Give them one --data_root, then the same command again."
    )


def _reuse(writer: CacheWriter, tasks: Iterable[ShardTask], retry_failures: bool = False) -> list[ShardTask]:
    """Takes what is there into the cache; returns the rest."""
    return [
        task
        for task in tasks
        if not writer.has_shard(task.split, task.index)
        and not writer.reuse_shard(task.split, task.index, rows_of(task.items), retry_failures)
    ]


def _take_in(writer: CacheWriter, tasks: Sequence[ShardTask]) -> list[ShardTask]:
    """Takes the shards that others made into the cache; returns those that are not there."""
    # First without reading them: only the last of many runs has to.
    absent = [task for task in tasks if not writer.sees_shard(task.split, task.index)]
    return absent or _reuse(writer, tasks)


def _finish(writer: CacheWriter, tasks: Sequence[ShardTask], options: Options, engine: Engine) -> bool:
    items = sum(len(task.items) for task in tasks)
    if not few_enough(len(writer.failures), items, options.max_failure_rate):
        writer.list_failures()
        return False
    _write_classes(writer, options, engine)
    writer.finish()
    return True


def _pause(writer: CacheWriter, options: Options, engine: Engine) -> None:
    """With the class texts, which `merge` needs where no run sees all shards."""
    _write_classes(writer, options, engine)
    writer.pause()


def _write_classes(writer: CacheWriter, options: Options, engine: Engine) -> None:
    if writer.manifest.label_sets:
        writer.write_classes(**engine.embed_classes(writer.manifest, options))
