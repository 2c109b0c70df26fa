"""Zero-shot classification: items scored against the texts of the classes."""

from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from cmcl_jax.metrics.ranking import best_rank, hit_probability
from cmcl_jax.metrics.scores import Scores, map_rows, scores_shape


def accuracy(scores: Scores, labels: Int[Array, " n"]) -> Float[Array, ""]:
    """Percentage of items whose own class has the highest score; NaN if no item has a class.

    A tie of t classes at the top counts 1/t if the item's class is among them, which is what guessing among them earns.
    An item whose own score is NaN counts 0, and so does one with a NaN for any other class.

    Args:
        scores: one row per item, one column per class, or the `Outputs` that they are the product of.
        labels: class indices; an item with label -1 has no class and is left out.

    >>> float(accuracy(jnp.array([[2., 1.], [2., 1.], [1., 1.], [5., 0.]]), jnp.array([0, 1, 1, -1])))
    50.0
    """
    shape = scores_shape(scores)
    if len(shape) != 2 or labels.shape != shape[:1]:
        raise ValueError(
            f"accuracy needs scores of shape (n, n_classes) and labels of shape (n,), but got {shape} and "
            f"{labels.shape}. Pass one row of scores and one label (-1: no class) for each item."
        )

    def hits(block: Float[Array, "block n_classes"], labels: Int[Array, " block"]) -> Float[Array, " block"]:
        own_class = labels[:, None] == jnp.arange(shape[1])
        return hit_probability(best_rank(block, own_class), k=1)

    return 100 * jnp.mean(map_rows(hits, scores, labels), where=labels >= 0)


def accuracy_metrics(scores: Scores, targets: Int[Array, " n"], **unused: Any) -> dict[str, Float[Array, ""]]:
    """The evaluator "accuracy": `{"accuracy": percent}`."""
    del unused
    return {"accuracy": accuracy(scores, targets)}


def open_accuracy_metrics(scores: Scores, targets: Int[Array, " n"], **unused: Any) -> dict[str, Float[Array, ""]]:
    """The evaluator "open_accuracy": accuracy over classes whose texts are nobody's caption."""
    del unused
    return {"open_accuracy": accuracy(scores, targets)}
