"""Who makes shards: this process here; for a cluster see `ray_engine`."""

from collections.abc import Callable, Sequence
from typing import Protocol

from feature_cache.encoders.base import Encoder
from feature_cache.extraction.decode import Decoder, Request
from feature_cache.extraction.embedding import Features, embed_items, embed_texts
from feature_cache.extraction.options import Options
from feature_cache.extraction.shard_tasks import ShardTask, rows_of
from feature_cache.extraction.storable import as_stored, without_unstorable
from feature_cache.manifest import Manifest
from feature_cache.shard_record import Failure
from feature_cache.writer import CacheWriter


class Engine(Protocol):
    """Who makes shards: this process, or processes elsewhere that see the same folder."""

    def make(
        self, writer: CacheWriter, tasks: Sequence[ShardTask], options: Options, advance: Callable[[int], None]
    ) -> None:
        """Brings all of these shards into the writer's folder; `advance(n)` is called when n more items are done."""
        ...

    def embed_classes(self, manifest: Manifest, options: Options) -> Features:
        """The embeddings of the class texts: per label set an array."""
        ...


class LocalEngine:
    """Embeds in this process what `decode` decodes, here or in others."""

    def __init__(self, encoder: Encoder, decode: Decoder) -> None:
        self._encoder = encoder
        self._decode = decode

    def make(
        self, writer: CacheWriter, tasks: Sequence[ShardTask], options: Options, advance: Callable[[int], None]
    ) -> None:
        modalities = tuple(writer.manifest.modalities)
        requests = (Request(task.split, item, modalities) for task in tasks for item in task.items)
        # Two batches wait while one is embedded, over the ends of shards too.
        outcomes = self._decode(requests, ahead=2 * options.batch_size)
        for task in tasks:
            decoded = embed_items(self._encoder, task.items, outcomes, modalities, options.batch_size, advance)
            kept, features, undecoded = decoded
            stored = without_unstorable(task.split, kept, features, options.dtype, options.normalize)
            kept, features, unstorable = stored
            failures = _in_order(task, undecoded + unstorable)
            writer.write_shard(task.split, task.index, rows_of(kept), features, failures)

    def embed_classes(self, manifest: Manifest, options: Options) -> Features:
        sets = {name: [label.text for label in labels] for name, labels in manifest.label_sets.items()}
        raw = {name: embed_texts(self._encoder, texts, options.batch_size) for name, texts in sets.items()}
        return {name: as_stored(features, options.dtype, options.normalize) for name, features in raw.items()}


def _in_order(task: ShardTask, failures: Sequence[Failure]) -> list[Failure]:
    position = {item.id: at for at, item in enumerate(task.items)}
    return sorted(failures, key=lambda failure: position[failure.id])
