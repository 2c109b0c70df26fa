"""What runs in an actor of a Ray cluster: an encoder that makes the shards that it is told the numbers of."""

import os
import pickle
import platform
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.numpy

from feature_cache.datasets.base import Dataset
from feature_cache.encoders.base import Encoder
from feature_cache.errors import CacheError, UserError
from feature_cache.extraction.decode import decode_here
from feature_cache.extraction.decode_pool import DecodePool
from feature_cache.extraction.embedding import Features
from feature_cache.extraction.engine import LocalEngine
from feature_cache.extraction.messages import portable
from feature_cache.extraction.options import Options
from feature_cache.extraction.shard_tasks import ShardTask, division, rows_of, shard_tasks
from feature_cache.manifest import Manifest
from feature_cache.shards import tensors_bytes
from feature_cache.writer import CacheWriter

CLASSES = -1
"""The number of a task that is no shard, but the embedding of the class texts."""
Row = dict[str, Any]


@dataclass(frozen=True)
class Recipe:
    """How to construct encoder and dataset elsewhere: classes travel by the names of their modules.

    Attributes:
        encoder, device, precision, weights: of the encoder.
        dataset, data_root: of the dataset.
        decode_timeout: seconds that a medium may take.
        directory: what relative paths are relative to.
        threads: the environment's OMP_NUM_THREADS where the extraction was started.
    """

    encoder: type[Encoder]
    device: str
    precision: str
    weights: Path | None
    dataset: type[Dataset]
    data_root: Path
    decode_timeout: float
    directory: str
    threads: str | None = None

    def prepare(self) -> None:
        """Makes this process like the one that started the extraction, before torch is imported.

        Ray gives an actor as many threads as CPUs, and the sums of a forward pass on a CPU depend on that number.
        """
        os.chdir(self.directory)
        os.environ.setdefault("OMP_WAIT_POLICY", "passive")
        os.environ.pop("OMP_NUM_THREADS", None)
        if self.threads is not None:
            os.environ["OMP_NUM_THREADS"] = self.threads


class ShardMaker:
    """A callable for Ray Data: a batch of one number -> a row that says what was done.

    Nothing is loaded before the first call, so that whatever goes wrong can be reported: an error that is the user's
    to mend is a value of the row; Ray would wrap it, and try in vain to construct the actor again.
    """

    def __init__(self, recipe: Recipe, manifest: Manifest, folder: Path | None, options: Options, workers: int) -> None:
        self._recipe = recipe
        self._manifest = manifest
        self._folder = folder
        self._options = options
        self._workers = workers

    def __call__(self, batch: Row) -> Row:
        number = int(batch["number"][0])
        items, classes, error = 0, b"", None
        try:
            if number == CLASSES:
                classes = tensors_bytes(self._engine.embed_classes(self._manifest, self._options))
            else:
                items = self._make(number)
        except (UserError, ImportError, MemoryError, OSError) as caught:
            error = pickle.dumps(portable(caught))
        except RuntimeError as caught:
            if type(caught).__name__ != "OutOfMemoryError":  # torch's, of a GPU
                raise
            error = pickle.dumps(MemoryError(str(caught)))
        row = {"number": number, "items": items, "classes": classes, "error": error}
        return {name: np.array([value], object) for name, value in row.items()}

    def _make(self, number: int) -> int:
        task, writer, options = self._tasks[number], self._writer, self._options
        # An actor that died may have made it just before.
        there = not options.overwrite and writer.reuse_shard(
            task.split, task.index, rows_of(task.items), options.retry_failures
        )
        if not there:
            self._engine.make(writer, [task], options, lambda count: None)
        return len(task.items)

    @cached_property
    def _engine(self) -> LocalEngine:
        recipe = self._recipe
        recipe.prepare()
        encoder = recipe.encoder(recipe.device, recipe.precision, recipe.weights)
        if (found := encoder.weights_sha256()) != self._manifest.weights_sha256:
            raise CacheError(
                f"The weights of {encoder.name} on the machine {platform.node()} have the checksum {found}, not "
                f"{self._manifest.weights_sha256} as where the extraction was started. Put the same ones there."
            )
        decode = DecodePool(encoder, self._workers, recipe.decode_timeout) if self._workers else decode_here(encoder)
        return LocalEngine(encoder, decode)

    @cached_property
    def _tasks(self) -> dict[int, ShardTask]:
        self._recipe.prepare()
        dataset = self._recipe.dataset(self._recipe.data_root)
        return {task.number: task for task in shard_tasks(dataset, self._options.shard_size)}

    @cached_property
    def _writer(self) -> CacheWriter:
        assert self._folder is not None
        return CacheWriter(self._folder, self._manifest, division(list(self._tasks.values())))


def unpacked_classes(data: bytes) -> Features:
    """What `embed_classes` returned in the actor."""
    features: Features = safetensors.numpy.load(data)
    return features
