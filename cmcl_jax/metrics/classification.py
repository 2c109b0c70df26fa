"""Zero-shot classification: items scored against the texts of the classes."""

from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from cmcl_jax.metrics.ranking import best_rank, hit_probability


def accuracy(scores: Float[Array, "n n_classes"], labels: Int[Array, " n"]) -> Float[Array, ""]:
    """Percentage of items whose own class has the highest score; NaN if no item has a class.

    A tie of t classes at the top counts 1/t if the item's class is among them, which is what guessing among them earns.
    An item whose own score is NaN counts 0, and so does one with a NaN for any other class.

    Args:
        scores: one row per item, one column per class.
        labels: class indices; an item with label -1 has no class and is left out.

    >>> float(accuracy(jnp.array([[2., 1.], [2., 1.], [1., 1.], [5., 0.]]), jnp.array([0, 1, 1, -1])))
    50.0
    """
    if scores.ndim != 2 or labels.shape != scores.shape[:1]:
        raise ValueError(
            f"accuracy needs scores of shape (n, n_classes) and labels of shape (n,), but got {scores.shape} and "
            f"{labels.shape}. Pass one row of scores and one label (-1: no class) for each item."
        )
    own_class = labels[:, None] == jnp.arange(scores.shape[1])
    correct = hit_probability(best_rank(scores, own_class), k=1)
    return 100 * jnp.mean(correct, where=labels >= 0)


def accuracy_metrics(
    scores: Float[Array, "n n_classes"], targets: Int[Array, " n"], **unused: Any
) -> dict[str, Float[Array, ""]]:
    """The evaluator "accuracy": `{"accuracy": percent}`."""
    del unused
    return {"accuracy": accuracy(scores, targets)}


def open_accuracy_metrics(
    scores: Float[Array, "n n_classes"], targets: Int[Array, " n"], **unused: Any
) -> dict[str, Float[Array, ""]]:
    """The evaluator "open_accuracy": accuracy over classes whose texts are nobody's caption."""
    del unused
    return {"open_accuracy": accuracy(scores, targets)}
