"""The stream: its ordered steps, the test tasks that follow it, and their features as arrays on the device."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
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


LABEL_SETS = {"accuracy": "classes", "open_accuracy": "open_classes"}
"""Metrics of classification, and the classes of a cache's manifest that each of them counts."""

ROLES = "abcdefghi"
"""What the modalities of a step are called while it trains: its program knows no names."""


@dataclass(frozen=True)
class Task:
    """A test task: a pair of modalities of one dataset, evaluated before the first step and after every step.

    Attributes:
        name: such as "emoji vision–text".
        step: the 1-based step that trains it.
        dataset: whose test rows it has.
        pair: modalities (A, B), in storage order.
        metrics: what it measures, of "accuracy", "open_accuracy" and "recall".
    """

    name: str
    step: int
    dataset: str
    pair: tuple[str, str]
    metrics: tuple[str, ...]


@dataclass(frozen=True)
class Step:
    """One step of a stream.

    Attributes:
        number: 1-based place in the stream.
        dataset: whose cache it trains on.
        modalities: two or more, in storage order; the step aligns each with all others.
        metrics: what its test tasks measure, of "accuracy", "open_accuracy" and "recall".
    """

    number: int
    dataset: str
    modalities: tuple[str, ...]
    metrics: tuple[str, ...]

    @property
    def name(self) -> str:
        """Number, dataset and modalities, such as "1 emoji vision–text"."""
        return f"{self.number} {self.dataset} {'–'.join(self.modalities)}"

    @property
    def roles(self) -> dict[str, str]:
        """The modality in each role: `{"a": "vision", "b": "text"}`."""
        return dict(zip(ROLES, self.modalities, strict=False))

    @property
    def pairs(self) -> tuple[tuple[str, str], ...]:
        """All pairs of its modalities."""
        return tuple(itertools.combinations(self.modalities, 2))

    @property
    def tasks(self) -> tuple[Task, ...]:
        """One test task for each pair, with those of the step's metrics that the pair can have."""
        return tuple(
            Task(f"{self.dataset} {'–'.join(pair)}", self.number, self.dataset, pair, metrics_of(pair, self.metrics))
            for pair in self.pairs
        )


def metrics_of(pair: tuple[str, str], metrics: Sequence[str]) -> tuple[str, ...]:
    """Those metrics that a pair can have: classification is by the texts of the classes, so it needs text in the pair.

    >>> metrics_of(("vision", "depth"), ("accuracy", "recall"))
    ('recall',)
    """
    return tuple(metric for metric in metrics if metric not in LABEL_SETS or "text" in pair)


class StepFeatures(NamedTuple):
    """Training rows of a step, padded with zero rows to the longest step of the stream.

    Attributes:
        by_role: `(n_max, d)` features of each modality, by its role in the step; equal rows belong together.
        rows: number of rows that are not padding.
        class_texts: `(c, d_text)` embeddings of the step's class texts, only where a method asks to remember them.
    """

    by_role: dict[str, Float[Array, "n _d"]]
    rows: Int[Array, ""]
    class_texts: Float[Array, "c d_text"] | None = None

    @property
    def padded_rows(self) -> int:
        """Number of rows with the padding, `n_max`."""
        return int(self.by_role["a"].shape[0])

    @property
    def valid(self) -> Bool[Array, " n"]:
        """Which rows are not padding."""
        return jnp.arange(self.padded_rows) < self.rows


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
        steps: in training order.
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
            for modality in step.modalities
        }
        return {modality: found[modality] for modality in MODALITY_ORDER if modality in found}

    @property
    def tasks(self) -> tuple[Task, ...]:
        """The test tasks of all steps, in the order of the steps."""
        return tuple(task for step in self.steps for task in step.tasks)

    @property
    def pairs(self) -> tuple[tuple[str, str], ...]:
        """The distinct modality pairs of all steps, in order of first appearance."""
        return tuple(dict.fromkeys(pair for step in self.steps for pair in step.pairs))

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

    def training_features(self, step: Step, modalities: Sequence[str], dtype: Any = jnp.float32) -> StepFeatures:
        """The step's training rows of some modalities of its dataset, usually its own, on the device."""
        cache, count = self.caches[step.dataset], self.rows(step)

        def padded(modality: str) -> Array:
            rows = np.zeros((self.longest, cache.modalities[modality].dim), dtype)
            rows[:count] = cache.rows("train", modality)[:count]
            return jnp.asarray(rows)

        by_role = {role: padded(modality) for role, modality in zip(ROLES, modalities, strict=False)}
        return StepFeatures(by_role, jnp.asarray(count, jnp.int32))

    def training_bytes(self, step: Step, dtype: Any = jnp.float32) -> int:
        """Bytes of the step's training features on the device."""
        widths = (self.caches[step.dataset].modalities[modality].dim for modality in step.modalities)
        return self.longest * sum(widths) * int(jnp.dtype(dtype).itemsize)

    def all_training_bytes(self, dtype: Any = jnp.float32) -> int:
        """Bytes of all steps' training features on the device; what steps share counts once."""
        read = {(step.dataset, modality) for step in self.steps for modality in step.modalities}
        widths = (self.caches[dataset].modalities[modality].dim for dataset, modality in read)
        return self.longest * sum(widths) * int(jnp.dtype(dtype).itemsize)

    def class_texts(self, step: Step, dtype: Any = jnp.float32) -> Float[Array, "c d_text"] | None:
        """Embeddings of the texts that the step's test rows are classified by, on the device; None without any."""
        cache = self.caches[step.dataset]
        of_metric = {"accuracy": cache.class_features, "open_accuracy": cache.open_class_features}
        texts = [texts for metric, texts in of_metric.items() if metric in step.metrics and texts is not None]
        return jnp.asarray(np.concatenate(texts).astype(dtype)) if texts else None

    def test_features(self, task: Task, split: str = "test", dtype: Any = jnp.float32) -> TaskFeatures:
        """A task's test (or validation) rows on the device."""
        cache = self.caches[task.dataset]
        if cache.manifest.splits[split].count == 0:
            raise StreamError(
                f"The {split} split of {cache.path} is empty: step {task.step} cannot be evaluated on it."
            )
        a, b = (np.asarray(cache.features(split, modality), dtype) for modality in task.pair)
        captions = cache.captions(split) if "text" in task.pair else [""] * len(a)
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
                if metric in task.metrics and texts is not None
            },
        )
