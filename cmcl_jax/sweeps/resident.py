"""Streams whose features are on every device once, shared by all runs and all orders of the steps."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Float
from ml_collections import ConfigDict

from cmcl_jax.open_stream import open_stream
from cmcl_jax.stream import ROLES, Step, StepFeatures, Stream, Task, TaskFeatures


class Features:
    """What is on the devices, by what it is.

    Args:
        mesh: the devices; each gets its own copy.
        room: bytes on each that arrays may take which stay there. What does not fit is brought whenever it is asked
          for, as in a single run.
    """

    def __init__(self, mesh: Mesh, room: int) -> None:
        self.mesh, self.room = mesh, room
        self._kept: dict[Any, Any] = {}

    def of(self, key: Any, load: Callable[[], Any]) -> Any:
        """The arrays of this key, loaded when first asked for."""
        if key in self._kept:
            return self._kept[key]
        loaded = jax.device_put(load(), NamedSharding(self.mesh, P()))
        size = sum(leaf.nbytes for leaf in jax.tree.leaves(loaded))
        if size <= self.room:
            self.room -= size
            self._kept[key] = loaded
        return loaded


@dataclass(frozen=True)
class ResidentStream(Stream):
    """A stream whose features come from `Features`."""

    encoder: str = ""
    on_device: Features | None = None

    def training_features(self, step: Step, modalities: Sequence[str], dtype: Any = jnp.float32) -> StepFeatures:
        rows = {}
        for role, modality in zip(ROLES, modalities, strict=False):
            load = lambda m=modality: Stream.training_features(self, step, (m,), dtype).by_role["a"]  # noqa: E731
            key = ("train", self.encoder, self.row_limit, str(dtype), step.dataset, modality)
            rows[role] = self._features.of(key, load)
        count = self._features.of(("rows", self.rows(step)), lambda: jnp.asarray(self.rows(step), jnp.int32))
        return StepFeatures(rows, count)

    def class_texts(self, step: Step, dtype: Any = jnp.float32) -> Float[Array, "c d_text"] | None:
        key = ("texts", self.encoder, str(dtype), step.dataset, step.metrics)
        texts: Array | None = self._features.of(key, lambda: Stream.class_texts(self, step, dtype))
        return texts

    def test_features(self, task: Task, split: str = "test", dtype: Any = jnp.float32) -> TaskFeatures:
        key = (split, self.encoder, str(dtype), task.dataset, task.pair, task.metrics)
        features: TaskFeatures = self._features.of(key, lambda: Stream.test_features(self, task, split, dtype))
        return features

    @property
    def _features(self) -> Features:
        assert self.on_device is not None
        return self.on_device


class Streams:
    """The streams of a sweep, each opened once."""

    def __init__(self, features: Features) -> None:
        self.features, self._opened = features, dict[Any, ResidentStream]()

    def of(self, config: ConfigDict) -> ResidentStream:
        """The stream of a run's config.

        Raises:
            CacheError, StreamError: as `open_stream` does.
        """
        of_stream = config.stream
        key = (config.cache_dir, config.encoder, repr(of_stream.to_dict()))
        if key not in self._opened:
            opened = open_stream(
                of_stream.steps, config.cache_dir, config.encoder, of_stream.row_limit, of_stream.order_seed
            )
            self._opened[key] = ResidentStream(
                opened.steps, opened.caches, opened.row_limit, config.encoder, self.features
            )
        return self._opened[key]
