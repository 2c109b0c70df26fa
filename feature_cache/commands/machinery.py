"""What several datasets of one extraction share: an encoder that is loaded once, and processes around it."""

import argparse
import os
from collections.abc import Callable
from contextlib import ExitStack
from functools import cached_property
from pathlib import Path
from types import TracebackType

from feature_cache import encoders
from feature_cache.datasets.base import Dataset
from feature_cache.encoders.base import Encoder
from feature_cache.extraction.decode import decode_here
from feature_cache.extraction.decode_pool import MOST_WORKERS, DecodePool
from feature_cache.extraction.engine import Engine, LocalEngine
from feature_cache.registry import resolve


def default_workers() -> int:
    """One per CPU that this process may use, less one for the encoder, and no more than `MOST_WORKERS`."""
    usable = getattr(os, "sched_getaffinity", None)
    cpus = len(usable(0)) if usable else os.cpu_count() or 1
    return min(cpus - 1, MOST_WORKERS)


class Machinery:
    """Made on demand by the flags of the command line; leaving it as a context manager ends the processes."""

    def __init__(self, flags: argparse.Namespace) -> None:
        self._flags = flags
        self._stack = ExitStack()

    @cached_property
    def encoder(self) -> Encoder:
        """Constructed, its weights not yet loaded."""
        make: Callable[..., Encoder] = resolve(encoders.REGISTRY, "encoder", self._flags.encoder)
        return make(self._flags.device, self._flags.precision, self._flags.weights)

    def engine(self, dataset: type[Dataset], data_root: Path) -> Engine:
        """Who makes the shards of a dataset. Ask for it before the encoder embeds anything."""
        if self._flags.engine == "local":
            return self._local
        from feature_cache.extraction.ray_actor import Recipe
        from feature_cache.extraction.ray_engine import RayEngine

        flags = self._flags
        recipe = Recipe(
            type(self.encoder), flags.device, flags.precision, flags.weights, dataset, data_root,
            flags.decode_timeout, os.getcwd(), os.environ.get("OMP_NUM_THREADS"),
        )  # fmt: skip
        return RayEngine(recipe, flags.actors, flags.workers)

    @cached_property
    def _local(self) -> LocalEngine:
        flags = self._flags
        workers = default_workers() if flags.workers is None else flags.workers
        if not workers:
            return LocalEngine(self.encoder, decode_here(self.encoder))
        pool = self._stack.enter_context(DecodePool(self.encoder, workers, flags.decode_timeout))
        return LocalEngine(self.encoder, pool)

    def __enter__(self) -> "Machinery":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._stack.close()
