"""The first-order effect of a projected update on the loss, and what is beyond first order."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cmcl_jax.heads import apply_head
from cmcl_jax.losses import info_nce
from cmcl_jax.metrics.plasticity import first_order_decrease, higher_order_ratio
from cmcl_jax.null_space import NullSpaceProjector, dual_null_space, replace_projectors
from tests.metrics.pairs import Pair, moved, old_pair, projected, projectors_of


def loss_on(features: dict[str, np.ndarray], pair: Pair) -> jax.Array:
    z = [apply_head(pair[side], features[side]) for side in "ab"]
    return info_nce(*z, jnp.ones(len(z[0]), bool))


gradient = jax.jit(jax.grad(loss_on, argnums=1))
ratios_at = jax.jit(
    lambda features, pair, direction, rates: higher_order_ratio(
        functools.partial(loss_on, features), pair, direction, rates
    )
)


@settings(max_examples=15, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    rank=st.sampled_from([1, 3, None]),
    threshold=st.sampled_from([1e-6, 0.1]),
    one_sided=st.booleans(),
)
def test_a_projected_gradient_never_raises_the_loss_to_first_order(
    seed: int, rank: int | None, threshold: float, one_sided: bool
) -> None:
    with jax.enable_x64(True):
        old, new = old_pair(seed, rank=rank, n=5), old_pair(seed + 1, n=5)
        gradients = jax.tree.map(np.asarray, gradient(new.features, old.before))
        update = jax.tree.map(np.negative, projected(gradients, projectors_of(old, threshold, one_sided=one_sided)))
        decrease = float(first_order_decrease(gradients, update))
        assert decrease >= 0
        assert decrease == pytest.approx(float(optax.tree.norm(update)) ** 2, rel=1e-9, abs=1e-20)


def test_an_update_of_adam_that_is_then_projected_can_raise_the_loss() -> None:
    # Adam's first update is the sign, (1, 1); only v = (1, −2) is free: ⟨g, v⟩ ⟨sign g, v⟩ / ‖v‖² = 1 · (−1) / 5.
    gradients = jnp.array([[3.0, 1.0]])
    blocked = jnp.array([[2.0, 1.0]]) / jnp.sqrt(5.0)
    protect = NullSpaceProjector(jnp.eye(1), blocked.T @ blocked)
    tx = optax.chain(optax.scale_by_adam(), dual_null_space(), optax.scale(-1.0))
    update, _ = tx.update(gradients, replace_projectors(tx.init(gradients), protect))
    assert float(first_order_decrease(gradients, update)) == pytest.approx(-0.2, abs=1e-5)
    tx = optax.chain(dual_null_space(), optax.scale(-1.0))
    update, _ = tx.update(gradients, replace_projectors(tx.init(gradients), protect))
    assert float(first_order_decrease(gradients, update)) == pytest.approx(1 / 5, abs=1e-5)


def test_what_is_beyond_first_order_falls_with_the_learning_rate(x64: None) -> None:
    old, new = old_pair(0, rank=3), old_pair(1)
    gradients = jax.tree.map(np.asarray, gradient(new.features, old.before))
    direction = jax.tree.map(np.negative, projected(gradients, projectors_of(old, 1e-6)))
    rates = jnp.array([1e-2, 1e-3, 1e-4, 1e-5])
    ratios = np.asarray(ratios_at(new.features, old.before, direction, rates))
    assert ratios[0] > 0
    np.testing.assert_allclose(ratios[1:-1] / ratios[2:], 10, rtol=0.05)
    step = 1e-4  # the curvature along the direction, from gradients
    ahead, behind = (gradient(new.features, moved(old.before, direction, h)) for h in (step, -step))
    curvature = (first_order_decrease(behind, direction) - first_order_decrease(ahead, direction)) / (2 * step)
    np.testing.assert_allclose(ratios[2:] / np.asarray(rates[2:]), abs(float(curvature)) / 2, rtol=0.02)


def test_a_quadratic_and_a_kink_by_hand(x64: None) -> None:
    rates = jnp.array([0.5, 0.25])
    square = higher_order_ratio(lambda w: jnp.sum(w["x"] ** 2), {"x": jnp.array([3.0, 1.0])}, {"x": jnp.ones(2)}, rates)
    np.testing.assert_allclose(square, 2 * rates)
    kink = higher_order_ratio(lambda w: jnp.maximum(w, 0.0), jnp.array(-1e-9), jnp.array(1.0), rates)
    np.testing.assert_allclose(kink, 1, atol=1e-8)  # not smooth: it does not fall
