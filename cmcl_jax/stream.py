"""The stream: its ordered steps, the test tasks that follow it, and their features as arrays on the device."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from feature_cache import FeatureCache
from feature_cache.errors import UserError
from feature_cache.manifest import MODALITY_ORDER


class StreamError(UserError):
    """The steps of a stream do not fit each other or their caches."""


@dataclass(frozen=True)
class Step:
    """One step of a stream.

    Attributes:
        number: 1-based place in the stream.
        dataset: whose cache it trains on.
        pair: modalities (A, B), in storage order.
        metrics: what its test task measures, of "accuracy", "open_accuracy" and "recall".
    """

    number: int
    dataset: str
    pair: tuple[str, str]
    metrics: tuple[str, ...]

    @property
    def task(self) -> str:
        """Name of the step's test task, such as "emoji vision–text"."""
        return f"{self.dataset} {self.pair[0]}–{self.pair[1]}"

    @property
    def name(self) -> str:
        """Name with the number in front, such as "1 emoji vision–text"."""
        return f"{self.number} {self.task}"


class PairFeatures(NamedTuple):
    """Training rows of a step, padded with zero rows to the longest step of the stream.

    Attributes:
        a: `(n_max, d_a)` features of modality A.
        b: `(n_max, d_b)` features of modality B; row i belongs to row i of `a`.
        rows: number of rows that are not padding.
        class_texts: `(c, d_text)` embeddings of the step's class texts, only where a method asks to remember them.
    """

    a: Float[Array, "n d_a"]
    b: Float[Array, "n d_b"]
    rows: Int[Array, ""]
    class_texts: Float[Array, "c d_text"] | None = None

    @property
    def valid(self) -> Bool[Array, " n"]:
        """Which rows are not padding."""
        return jnp.arange(self.a.shape[0]) < self.rows


LABEL_SETS = {"accuracy": "classes", "open_accuracy": "open_classes"}
"""Metrics of classification, and the classes of a cache's manifest that each of them counts."""


class LabelSet(NamedTuple):
    """What the test rows of a task can be classified as.

    Attributes:
        labels: class of each row, −1 for none.
        class_features: embeddings of the class texts.
    """

    labels: Int[Array, " n"]
    class_features: Float[Array, "c d_text"]


class TaskFeatures(NamedTuple):
    """Test rows of a task.

    Attributes:
        a, b: features of both modalities, row-aligned.
        groups: rows with equal numbers are correct answers for each other: equal captions where text is in the pair;
          elsewhere, and without a caption, the row alone.
        label_sets: by the name of the metric that measures it; see `LABEL_SETS`.
    """

    a: Float[Array, "n d_a"]
    b: Float[Array, "n d_b"]
    groups: Int[Array, " n"]
    label_sets: dict[str, LabelSet]


@dataclass(frozen=True)
class Stream:
    """Steps and the caches that they read.

    Attributes:
        steps: in training order; the test task of each is evaluated before the first step and after every step.
        caches: by dataset.
        row_limit: no step trains on more than its first `row_limit` rows (for quick trials).
    """

    steps: tuple[Step, ...]
    caches: Mapping[str, FeatureCache]
    row_limit: int | None = None

    @property
    def widths(self) -> dict[str, int]:
        """Feature width of each modality of the stream, in storage order."""
        found = {
            modality: self.caches[step.dataset].modalities[modality].dim
            for step in self.steps
            for modality in step.pair
        }
        return {modality: found[modality] for modality in MODALITY_ORDER if modality in found}

    @property
    def pairs(self) -> tuple[tuple[str, str], ...]:
        """The distinct modality pairs, in order of first appearance."""
        return tuple(dict.fromkeys(step.pair for step in self.steps))

    @property
    def checksums(self) -> dict[str, str]:
        """The checksum of each cache's manifest, which has those of all its files: it stands for the data."""
        return {dataset: cache.manifest.checksum for dataset, cache in self.caches.items()}

    @property
    def synthetic(self) -> bool:
        """Whether any of the data is made up."""
        return any(cache.manifest.synthetic for cache in self.caches.values())

    def rows(self, step: Step) -> int:
        """Number of training rows of a step."""
        rows = self.caches[step.dataset].manifest.splits["train"].count
        return rows if self.row_limit is None else min(rows, self.row_limit)

    @property
    def longest(self) -> int:
        """Number of training rows of the longest step, to which all are padded."""
        return max(self.rows(step) for step in self.steps)

    def training_features(self, step: Step, modalities: tuple[str, str], dtype: Any = jnp.float32) -> PairFeatures:
        """The step's training rows of two modalities of its dataset, usually its pair, on the device."""
        cache, count = self.caches[step.dataset], self.rows(step)
        padded = [
            np.pad(np.asarray(cache.features("train", modality)[:count], dtype), ((0, self.longest - count), (0, 0)))
            for modality in modalities
        ]
        return PairFeatures(jnp.asarray(padded[0]), jnp.asarray(padded[1]), jnp.asarray(count, jnp.int32))

    def class_texts(self, step: Step, dtype: Any = jnp.float32) -> Float[Array, "c d_text"] | None:
        """Embeddings of the texts that the step's test rows are classified by, on the device; None without any."""
        cache = self.caches[step.dataset]
        of_metric = {"accuracy": cache.class_features, "open_accuracy": cache.open_class_features}
        texts = [texts for metric, texts in of_metric.items() if metric in step.metrics and texts is not None]
        return jnp.asarray(np.concatenate(texts).astype(dtype)) if texts else None

    def test_features(self, step: Step, split: str = "test", dtype: Any = jnp.float32) -> TaskFeatures:
        """The step's test (or validation) rows on the device."""
        cache = self.caches[step.dataset]
        if cache.manifest.splits[split].count == 0:
            raise StreamError(
                f"The {split} split of {cache.path} is empty: step {step.number} cannot be evaluated on it."
            )
        a, b = (np.asarray(cache.features(split, modality), dtype) for modality in step.pair)
        captions = cache.captions(split) if "text" in step.pair else [""] * len(a)
        groups = np.unique([caption or f"\0{i}" for i, caption in enumerate(captions)], return_inverse=True)[1]
        label_sets = {
            "accuracy": (cache.labels(split), cache.class_features),
            "open_accuracy": (cache.open_labels(split), cache.open_class_features),
        }
        return TaskFeatures(
            a=jnp.asarray(a),
            b=jnp.asarray(b),
            groups=jnp.asarray(groups, jnp.int32),
            label_sets={
                metric: LabelSet(jnp.asarray(labels, jnp.int32), jnp.asarray(np.asarray(texts, dtype)))
                for metric, (labels, texts) in label_sets.items()
                if metric in step.metrics and texts is not None
            },
        )
