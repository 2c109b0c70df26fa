"""What per-layer protection promises about old scores of nonlinear heads: two-sided first order, one-sided all."""

from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jaxtyping import Array, PyTree

from cmcl_jax.layer_memory import (
    capture_layers,
    empty_layer_memories,
    layer_projectors,
    moment_rows,
    update_layer_memories,
)
from cmcl_jax.null_space import dual_null_space, replace_projectors

pytestmark = pytest.mark.usefixtures("x64")
HEAD = nn.Sequential([nn.Dense(24, param_dtype=jnp.float64), nn.gelu, nn.Dense(8, param_dtype=jnp.float64)])


class Task(NamedTuple):
    """Rows of rank 4, and of rank 3 the outputs of the partner that they are aligned with."""

    x: Array
    partners: Array


def task(seed: int) -> Task:
    rng = np.random.default_rng(seed)
    low_rank = lambda rows, rank, width: rng.normal(size=(rows, rank)) @ rng.normal(size=(rank, width)) / rank  # noqa: E731
    return Task(jnp.asarray(low_rank(6, 4, 16)), jnp.asarray(low_rank(6, 3, 8)))


def scores(params: PyTree, task: Task) -> Array:
    aligned: Array = HEAD.apply({"params": params}, task.x) @ task.partners.T
    return aligned


def loss(params: PyTree, task: Task) -> Array:
    return optax.softmax_cross_entropy_with_integer_labels(scores(params, task), jnp.arange(6)).mean()


@jax.jit
def memory_of(params: PyTree, task: Task) -> PyTree:
    cotangents = moment_rows(task.partners.T @ task.partners / 6)
    rows = capture_layers(HEAD, {"params": params}, task.x, scores=cotangents)
    return update_layer_memories(empty_layer_memories(rows), rows)


def start() -> PyTree:
    return HEAD.init(jax.random.key(0), task(0).x)["params"]


@jax.jit
def trained(params: PyTree, projectors: PyTree, learning_rate: Array, new: Task) -> PyTree:
    """After 20 updates of Adam on a new task."""
    tx = optax.chain(optax.scale_by_adam(), dual_null_space(), optax.scale_by_learning_rate(learning_rate))

    def step(carry: Any, _: None) -> tuple[Any, None]:
        params, state = carry
        updates, state = tx.update(jax.grad(loss)(params, new), state, params)
        return (optax.apply_updates(params, updates), state), None

    return jax.lax.scan(step, (params, replace_projectors(tx.init(params), projectors)), length=20)[0][0]


def drift(protection: str | None, learning_rate: float) -> tuple[float, float]:
    """Norm of what old scores move by, and by how much the new loss falls."""
    old, new, params = task(0), task(1), start()
    memories = memory_of(params, old)
    if protection is None:
        memories = jax.tree.map(jnp.zeros_like, memories)
    projectors = layer_projectors(memories, (1e-10, 1e-10), one_sided=protection == "one-sided")
    after = trained(params, projectors, jnp.asarray(learning_rate), new)
    moved = jnp.linalg.norm(scores(after, old) - scores(params, old))
    return float(moved), float(loss(params, new) - loss(after, new))


@pytest.mark.slow
def test_two_sided_drift_falls_with_the_square_of_the_learning_rate() -> None:
    rates = (4e-4, 2e-4, 1e-4)
    drifts, learned = zip(*(drift("two-sided", rate) for rate in rates), strict=True)
    assert min(learned) > 1e-3
    assert np.asarray(drifts[:-1]) / drifts[1:] == pytest.approx(4, rel=0.15)
    plain = np.asarray([drift(None, rate)[0] for rate in rates])
    assert plain[:-1] / plain[1:] == pytest.approx(2, rel=0.15)
    assert drifts[-1] < plain[-1] / 20


def test_one_sided_scores_stay_to_rounding_at_any_learning_rate() -> None:
    for rate in (1e-3, 3e-2):
        moved, learned = drift("one-sided", rate)
        assert moved < 1e-10
        assert learned > 1e-3


def test_the_derivative_of_old_scores_along_a_projected_change_is_zero() -> None:
    """Central differences, all layers and biases moving together in a random direction."""
    old, params = task(0), start()
    projectors = layer_projectors(memory_of(params, old), (1e-10, 1e-10))
    random = jax.tree.map(lambda leaf: jnp.asarray(np.random.default_rng(leaf.size).normal(size=leaf.shape)), params)
    tx = dual_null_space()
    projected, _ = tx.update(random, replace_projectors(tx.init(params), projectors))

    def slope(change: PyTree) -> float:
        along = lambda eps: scores(jax.tree.map(lambda p, c: p + eps * c, params, change), old)  # noqa: E731
        return float(jnp.abs(along(1e-5) - along(-1e-5)).max() / 2e-5)

    assert slope(projected) < 1e-8
    assert slope(random) > 0.1
    moved = jax.tree.map(lambda c: float(jnp.linalg.norm(c)), projected)
    assert min(jax.tree.leaves(moved)) > 0.1  # every leaf, biases too, does move
