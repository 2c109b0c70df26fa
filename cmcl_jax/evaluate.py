"""Evaluation of one test task: head outputs -> scores -> the metrics that the task names."""

from __future__ import annotations

import functools

import jax
from jaxtyping import Array, Float, PRNGKeyArray

from cmcl_jax import metrics
from cmcl_jax.heads import Head, Heads, apply_head
from cmcl_jax.metrics.scores import Outputs
from cmcl_jax.stream import Task, TaskFeatures
from feature_cache.registry import resolve


def evaluate_task(
    heads: Heads, task: Task, features: TaskFeatures, key: PRNGKeyArray, credit: str
) -> dict[str, Float[Array, " seeds"]]:
    """Every metric of a task, in percent, for every seed.

    Args:
        heads: with a leading seed axis.
        task: which pair, and what to measure.
        features: its test rows.
        key: draws the retrieval galleries; the same at all times, so that times are compared on equal galleries.
        credit: what the headline recall counts, "diagonal" or "any".
    """
    a, b = task.pair
    text_side = "b" if b == "text" else "a"
    measured: dict[str, Array] = _evaluate(heads[a], heads[b], features, key, task.metrics, text_side, credit)
    return measured


@functools.partial(jax.jit, static_argnames=("names", "text_side", "credit"))
def _evaluate(
    heads_a: Head,
    heads_b: Head,
    features: TaskFeatures,
    key: PRNGKeyArray,
    names: tuple[str, ...],
    text_side: str,
    credit: str,
) -> dict[str, Float[Array, " seeds"]]:
    def one_seed(pair: tuple[Head, Head]) -> dict[str, Array]:
        z = {"a": apply_head(pair[0], features.a), "b": apply_head(pair[1], features.b)}
        measured: dict[str, Array] = {}
        for name in names:
            if name in features.label_sets:
                label_set = features.label_sets[name]
                classes = apply_head(pair["ab".index(text_side)], label_set.class_features)
                scores, targets = Outputs(z["b" if text_side == "a" else "a"], classes), label_set.labels
            else:
                scores, targets = Outputs(z["a"], z["b"]), features.groups
            measured |= resolve(metrics.REGISTRY, "metric", name)(scores, targets, key=key, credit=credit)
        return measured

    measured: dict[str, Array] = jax.lax.map(one_seed, (heads_a, heads_b))  # in turn: one block of scores in memory
    return measured
