"""Opens the caches of a stream and checks that its steps can be trained and tested on them."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from cmcl_jax import metrics
from cmcl_jax.stream import LABEL_SETS, Step, Stream, StreamError
from feature_cache import FeatureCache, open_cache
from feature_cache.errors import extract_command
from feature_cache.manifest import MODALITY_ORDER
from feature_cache.registry import check_name, nearest

FORM = (
    "A step is (dataset, (modality, modality, …), (metric, …)) with at least two modalities, such as "
    '("emoji", ("vision", "text"), ("recall",)).'
)


def open_stream(
    steps: Sequence[tuple[str, tuple[str, ...], tuple[str, ...]]],
    cache_dir: str | Path,
    encoder: str,
    row_limit: int | None = None,
    order_seed: int | None = None,
) -> Stream:
    """Opens the caches of a stream and checks that every step can be trained and tested on them.

    Args:
        steps: `(dataset, (modality, modality, …), metrics)` in training order.
        cache_dir: folder of all caches, `<cache_dir>/<encoder>/<dataset>`.
        encoder: whose features to use.
        row_limit: see `Stream`.
        order_seed: draws the order in which the steps are trained, see `ordered`; None: as they are listed.

    Raises:
        CacheError: if a cache is absent or damaged.
        StreamError: if encoder or dataset have no cache there (naming the nearest that have), a step names what its
          dataset does not have, widths of a modality differ between datasets, or the order seed is not one.
    """
    for number, step in enumerate(steps, start=1):
        _check_form(number, step)
    if not steps:
        raise StreamError(f"config.stream.steps is empty: a stream needs at least one step. {FORM}")
    steps = ordered(steps, order_seed)
    datasets = dict.fromkeys(step[0] for step in steps)
    caches = {dataset: _open(Path(cache_dir), encoder, dataset) for dataset in datasets}
    stream = Stream(
        tuple(_checked_step(number, *step, cache=caches[step[0]]) for number, step in enumerate(steps, start=1)),
        caches,
        row_limit,
    )
    _check_widths(stream)
    return stream


def ordered(steps: Sequence[Any], order_seed: int | None) -> list[Any]:
    """The steps in the order of `numpy.random.default_rng(order_seed).permutation`; as they are for None.

    The order depends on the seed and on the number of steps alone, so that all methods meet the same orders. Seed 0 is
    an order like any other, not the listed one.

    Raises:
        StreamError: if the seed is not an integer of at least 0.

    >>> ordered(["emoji", "furniture", "instruments"], 0)
    ['instruments', 'emoji', 'furniture']
    """
    if order_seed is None:
        return list(steps)
    if isinstance(order_seed, bool) or not isinstance(order_seed, int) or order_seed < 0:
        raise StreamError(
            f"config.stream.order_seed must be None, for the listed order, or an integer of at least 0, but it is "
            f"{order_seed!r}."
        )
    return [steps[place] for place in np.random.default_rng(order_seed).permutation(len(steps))]


def distinct_orders(n_steps: int, count: int) -> list[int]:
    """The first `count` order seeds, from 0, whose orders of so many steps differ from each other.

    Short streams have few orders, and seeds soon draw one again: of five steps, seeds 0 and 2 draw the same.

    Raises:
        StreamError: if there are not that many orders.

    >>> distinct_orders(5, 3)
    [0, 1, 3]
    """
    if count > math.factorial(n_steps):
        raise StreamError(
            f"A stream of {n_steps} steps has only {math.factorial(n_steps)} orders, but {count} are asked for."
        )
    drawn: dict[tuple[int, ...], int] = {}
    seeds = itertools.count()
    while len(drawn) < count:
        seed = next(seeds)
        drawn.setdefault(tuple(ordered(range(n_steps), seed)), seed)
    return list(drawn.values())


def _check_form(number: int, step: Any) -> None:
    match step:
        case (str(), (str(), str(), *others), (str(), *more)) if all(isinstance(x, str) for x in (*others, *more)):
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


def _checked_step(
    number: int, dataset: str, modalities: Sequence[str], names: Sequence[str], *, cache: FeatureCache
) -> Step:
    where = f"step {number} ({dataset})"
    for modality in modalities:
        check_name(cache.modalities, f"modality of {where}", modality)
    for metric in names:
        check_name(metrics.REGISTRY, f"metric of {where}", metric)
    if cache.manifest.splits["train"].count == 0:
        raise StreamError(f"The train split of {cache.path} is empty: {where} cannot be trained on it.")
    if len(set(modalities)) != len(modalities):
        raise StreamError(f"{where.capitalize()} must have different modalities, but they are {tuple(modalities)}.")
    for metric, kind in LABEL_SETS.items():
        if metric in names and (kind not in cache.manifest.label_sets or "text" not in modalities):
            count = len(getattr(cache.manifest, kind))
            raise StreamError(
                f"The metric '{metric}' of {where} needs text among its modalities and a cache with "
                f"{kind.replace('_', ' ')}; they are {tuple(modalities)} and the cache has {count} of them. "
                f"Use ('recall',) for this step."
            )
    step = Step(number, dataset, tuple(sorted(modalities, key=MODALITY_ORDER.index)), tuple(names))
    for task in step.tasks:
        if not task.metrics:
            raise StreamError(
                f"The metrics {step.metrics} of {where} need text, so its pair {task.pair} would not be measured. "
                f"Add 'recall' to them."
            )
    return step


def _check_widths(stream: Stream) -> None:
    widths = stream.widths
    for step in stream.steps:
        for modality in step.modalities:
            width = stream.caches[step.dataset].modalities[modality].dim
            if width != widths[modality]:
                raise StreamError(
                    f"The {modality} features of step {step.number} ({step.dataset}) have width {width}, elsewhere in "
                    f"the stream {widths[modality]}: one head cannot serve both. Extract all datasets with one encoder."
                )
