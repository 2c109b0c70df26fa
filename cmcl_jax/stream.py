"""The stream: its ordered steps, the test tasks that follow it, and their features as arrays on the device."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from cmcl_jax import metrics
from feature_cache import FeatureCache, open_cache
from feature_cache.errors import UserError, extract_command
from feature_cache.manifest import MODALITY_ORDER
from feature_cache.registry import check_name, nearest

FORM = 'A step is (dataset, (modality, modality), (metric, …)), such as ("emoji", ("vision", "text"), ("recall",)).'


class StreamError(UserError):
    """The steps of a stream do not fit each other or their caches."""


@dataclass(frozen=True)
class Step:
    """One step of a stream.

    Attributes:
        number: 1-based place in the stream.
        dataset: whose cache it trains on.
        pair: modalities (A, B), in storage order.
        metrics: what its test task measures, of "accuracy" and "recall".
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
    """

    a: Float[Array, "n d_a"]
    b: Float[Array, "n d_b"]
    rows: Int[Array, ""]

    @property
    def valid(self) -> Bool[Array, " n"]:
        """Which rows are not padding."""
        return jnp.arange(self.a.shape[0]) < self.rows


class TaskFeatures(NamedTuple):
    """Test rows of a task.

    Attributes:
        a, b: features of both modalities, row-aligned.
        groups: rows with equal numbers are correct answers for each other: equal captions where text is in the pair;
          elsewhere, and without a caption, the row alone.
        labels: class of each row, −1 for none.
        class_features: embeddings of the class texts, or None without classes.
    """

    a: Float[Array, "n d_a"]
    b: Float[Array, "n d_b"]
    groups: Int[Array, " n"]
    labels: Int[Array, " n"]
    class_features: Float[Array, "c d_text"] | None


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
        classes = cache.class_features
        return TaskFeatures(
            a=jnp.asarray(a),
            b=jnp.asarray(b),
            groups=jnp.asarray(groups, jnp.int32),
            labels=jnp.asarray(cache.labels(split), jnp.int32),
            class_features=None if classes is None else jnp.asarray(np.asarray(classes, dtype)),
        )


def open_stream(
    steps: Sequence[tuple[str, tuple[str, str], tuple[str, ...]]],
    cache_dir: str | Path,
    encoder: str,
    row_limit: int | None = None,
) -> Stream:
    """Opens the caches of a stream and checks that every step can be trained and tested on them.

    Args:
        steps: `(dataset, (modality, modality), metrics)` in training order.
        cache_dir: folder of all caches, `<cache_dir>/<encoder>/<dataset>`.
        encoder: whose features to use.
        row_limit: see `Stream`.

    Raises:
        CacheError: if a cache is absent or damaged.
        StreamError: if encoder or dataset have no cache there (naming the nearest that have), a step names what its
          dataset does not have, or widths of a modality differ between datasets.
    """
    for number, step in enumerate(steps, start=1):
        _check_form(number, step)
    if not steps:
        raise StreamError(f"config.stream.steps is empty: a stream needs at least one step. {FORM}")
    datasets = dict.fromkeys(step[0] for step in steps)
    caches = {dataset: _open(Path(cache_dir), encoder, dataset) for dataset in datasets}
    stream = Stream(
        tuple(_checked_step(number, *step, cache=caches[step[0]]) for number, step in enumerate(steps, start=1)),
        caches,
        row_limit,
    )
    _check_widths(stream)
    return stream


def _check_form(number: int, step: Any) -> None:
    match step:
        case (str(), (str(), str()), (str(), *more)) if all(isinstance(name, str) for name in more):
            return
    raise StreamError(f"Step {number} of config.stream.steps is {step!r}. {FORM}")


def _open(cache_dir: Path, encoder: str, dataset: str) -> FeatureCache:
    for folder, kind, name in ((cache_dir, "encoder", encoder), (cache_dir / encoder, "dataset", dataset)):
        there = [path.name for path in folder.glob("*/")]
        if name not in there:
            raise StreamError(
                f"{folder}/ has no features of the {kind} {name!r}; the nearest there: "
                f"{', '.join(nearest(name, there)) or 'none'}. To make them, run "
                f"`{extract_command(cache_dir / encoder / dataset)}`."
            )
    cache = open_cache(cache_dir / encoder / dataset)
    named = (cache.manifest.encoder, cache.manifest.dataset)
    if named != (encoder, dataset):
        raise StreamError(f"{cache.path} holds the features of {' for '.join(named)}: rename the folder to that.")
    cache.verify()  # all of it is about to be read anyway
    return cache


def _checked_step(number: int, dataset: str, pair: Sequence[str], names: Sequence[str], *, cache: FeatureCache) -> Step:
    where = f"step {number} ({dataset})"
    for modality in pair:
        check_name(cache.modalities, f"modality of {where}", modality)
    for metric in names:
        check_name(metrics.REGISTRY, f"metric of {where}", metric)
    if cache.manifest.splits["train"].count == 0:
        raise StreamError(f"The train split of {cache.path} is empty: {where} cannot be trained on it.")
    if len(set(pair)) != 2:
        raise StreamError(f"The pair of {where} must be two different modalities, but it is {tuple(pair)}.")
    if "accuracy" in names and (cache.class_features is None or "text" not in pair):
        raise StreamError(
            f"The metric 'accuracy' of {where} needs text in the pair and a cache with classes; the pair is "
            f"{tuple(pair)} and the cache has {len(cache.class_names)} classes. Use ('recall',) for this step."
        )
    a, b = sorted(pair, key=MODALITY_ORDER.index)
    return Step(number, dataset, (a, b), tuple(names))


def _check_widths(stream: Stream) -> None:
    widths = stream.widths
    for step in stream.steps:
        for modality in step.pair:
            width = stream.caches[step.dataset].modalities[modality].dim
            if width != widths[modality]:
                raise StreamError(
                    f"The {modality} features of step {step.number} ({step.dataset}) have width {width}, elsewhere in "
                    f"the stream {widths[modality]}: one head cannot serve both. Extract all datasets with one encoder."
                )
