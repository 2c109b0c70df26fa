"""What a test task gives to scores drawn at random: computed, not measured.

A random ranking of a gallery of N items finds the query's own partner among the k best with probability k / N. If other
items of its group count as well ("any"), the k best must hold none of the group for a miss. The partner is missed with
probability 1 − k/N; the k best are then k of the n − 1 other items, drawn at random whatever the gallery, and hold none
of the other g − 1 correct ones with probability C(n − g, k) / C(n − 1, k). So for n items, groups of g and random
galleries of N that hold the partner

    recall at k = 1 − (1 − k/N) · C(n − g, k) / C(n − 1, k)

which is k / N for g = 1, and 1 − C(n − g, k) / C(n, k) over the full gallery, N = n.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Int

from cmcl_jax.metrics.retrieval import CREDITS, GALLERY_SIZE, KS

LEVELS = {"chance_acc": "accuracy", "chance_open_acc": "open_accuracy", **{f"chance_r{k}": f"r{k}" for k in KS}}
"""The names in summary.json, and the matrices whose chance level they are."""


def chance_accuracy(n_classes: int) -> float:
    """Expected accuracy, in percent, of guessing among so many classes.

    >>> chance_accuracy(4)
    25.0
    """
    return 100 / n_classes


def chance_recall(
    groups: Int[np.ndarray, " n"], k: int, credit: str = "diagonal", gallery: int = GALLERY_SIZE
) -> float:
    """Expected recall at k, in percent, of random scores, by the protocol of `retrieval_metrics`.

    Args:
        groups: group ids of the task's items.
        k: how many of the best items are looked at.
        credit: which items are correct, "diagonal" or "any".
        gallery: size of the random galleries; all items, if they are fewer.

    Raises:
        ValueError: there is no item, or the credit is unknown.

    >>> chance_recall(np.array([0, 0, 1, 2]), 1), chance_recall(np.array([0, 0, 1, 2]), 1, "any")
    (25.0, 37.5)
    """
    n = len(groups)
    if n == 0:
        raise ValueError("chance_recall needs at least one item, but groups is empty.")
    if credit not in CREDITS:
        raise ValueError(f"credit must be one of {', '.join(CREDITS)}, but is {credit!r}.")
    _, group, sizes = np.unique(groups, return_inverse=True, return_counts=True)
    correct = sizes[group] if credit == "any" else np.ones(n, int)
    drawn = np.arange(min(k, n - 1))[:, None]
    others_missed = np.prod(np.maximum(n - correct - drawn, 0) / (n - 1 - drawn), axis=0)
    return float(100 * np.mean(1 - max(1 - k / min(n, gallery), 0) * others_missed))


def chance_levels(
    metrics: Sequence[str], groups: Int[np.ndarray, " n"], n_classes: Mapping[str, int], credit: str
) -> dict[str, float]:
    """The chance levels of one test task, by the names of the headline matrices.

    Args:
        metrics: the task's, of "accuracy", "open_accuracy" and "recall".
        groups: group ids of its items.
        n_classes: number of classes that each of its metrics of classification counts.
        credit: what its headline recall counts.
    """
    levels = {name: chance_accuracy(count) for name, count in n_classes.items()}
    if "recall" in metrics:
        levels |= {f"r{k}": chance_recall(groups, k, credit) for k in KS}
    return levels


def summarize_chance(tasks: Sequence[Mapping[str, float]]) -> dict[str, Any]:
    """The entries of `summary.json`: means over the tasks that have the metric, None if no task has it.

    They have the form of measured entries, but no seeds: nothing was drawn.

    >>> summarize_chance([{"accuracy": 25.0}, {"accuracy": 50.0}])["chance_acc"]
    {'mean': 37.5, 'std': 0.0, 'seeds': []}
    """
    entries = {}
    for name, matrix in LEVELS.items():
        known = [levels[matrix] for levels in tasks if matrix in levels]
        entries[name] = {
            "mean": float(np.mean(known)) if known else None,
            "std": 0.0 if known else None,
            "seeds": list[float](),
        }
    return entries
