"""Accuracy against counting in plain numpy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cmcl_jax.metrics import REGISTRY
from cmcl_jax.metrics.classification import accuracy
from feature_cache.registry import resolve


def accuracy_by_loop(scores: np.ndarray, labels: np.ndarray) -> float:
    credits = []
    for row, label in zip(scores, labels, strict=True):
        if label >= 0:
            winners = np.flatnonzero(row == row.max())
            credits.append(1 / len(winners) if label in winners else 0)
    return 100 * float(np.mean(credits))


@pytest.mark.parametrize("levels", [2, 5, 1000])
def test_accuracy_agrees_with_a_loop_over_items(levels: int) -> None:
    rng = np.random.default_rng(levels)
    scores, labels = rng.integers(0, levels, (200, 7)), rng.integers(-1, 7, 200)
    assert -1 in labels
    np.testing.assert_allclose(
        accuracy(jnp.array(scores, jnp.float32), jnp.array(labels)), accuracy_by_loop(scores, labels), rtol=1e-5
    )


def test_a_collapsed_head_gets_the_level_of_chance() -> None:
    labels = jnp.arange(40) % 8
    np.testing.assert_allclose(accuracy(jnp.zeros((40, 8)), labels), 100 / 8, rtol=1e-6)


def test_items_without_a_class_change_nothing() -> None:
    scores = jax.random.normal(jax.random.key(0), (30, 4))
    labels = jnp.arange(30) % 4
    padded = jnp.concatenate([scores, jnp.zeros((5, 4))])
    np.testing.assert_allclose(accuracy(padded, jnp.append(labels, jnp.full(5, -1))), accuracy(scores, labels))


def test_nan_scores_are_never_correct() -> None:
    scores = jnp.array([[jnp.nan, 0.0], [jnp.nan, 0.0], [1.0, 0.0], [jnp.nan, jnp.nan]])
    np.testing.assert_allclose(accuracy(scores, jnp.array([0, 1, 0, 1])), 25)


def test_without_any_labelled_item_there_is_no_accuracy() -> None:
    assert jnp.isnan(accuracy(jnp.zeros((3, 2)), jnp.full(3, -1)))


def test_seeds_are_a_vmapped_axis_and_jit_changes_nothing() -> None:
    scores = jax.random.normal(jax.random.key(1), (3, 20, 5))
    labels = jnp.arange(20) % 5
    together = jax.jit(jax.vmap(accuracy, in_axes=(0, None)))(scores, labels)
    np.testing.assert_allclose(together, [accuracy(s, labels) for s in scores], rtol=1e-6)


def test_the_registry_leads_to_the_evaluator() -> None:
    evaluate = resolve(REGISTRY, "metric", "accuracy")
    metrics = evaluate(jnp.eye(3), jnp.arange(3), key=jax.random.key(0), credit="any")
    assert {name: float(value) for name, value in metrics.items()} == {"accuracy": 100}


def test_labels_that_do_not_fit_the_scores_are_refused_with_both_shapes() -> None:
    with pytest.raises(ValueError, match=r"\(4, 3\) and \(5,\)"):
        accuracy(jnp.zeros((4, 3)), jnp.zeros(5, int))
