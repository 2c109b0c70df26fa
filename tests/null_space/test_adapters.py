"""Low-rank adapters: what they cannot touch, what they can reach, and what they cost."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from cmcl_jax.null_space import NullSpaceProjector, dual_null_space, replace_projectors
from cmcl_jax.null_space.adapters import (
    ADAPTER_DIMENSION_NUMBERS,
    LowRankAdapter,
    adapter_kernel,
    adapter_projectors,
    init_adapter,
)
from cmcl_jax.null_space.layouts import DimensionNumbers

D_IN, D_OUT = 12, 9


def onto_random(width: int, rank: int, seed: int = 0) -> np.ndarray:
    basis, _ = np.linalg.qr(np.random.default_rng(seed).normal(size=(width, rank)))
    return basis @ basis.T


def random_projector(rank_in: int = 5, rank_out: int = 4) -> NullSpaceProjector:
    return NullSpaceProjector(jnp.asarray(onto_random(D_IN, rank_in)), jnp.asarray(onto_random(D_OUT, rank_out, 1)))


def trained(
    projector: NullSpaceProjector, rank: int, project: bool = True, numbers: DimensionNumbers = None
) -> LowRankAdapter:
    """After 300 updates of Adam towards a random change of the kernel."""
    adapter = init_adapter(jax.random.key(0), projector, rank, projector.inputs.dtype)
    target = jnp.asarray(np.random.default_rng(2).normal(size=(D_IN, D_OUT)))
    dns = dual_null_space(dimension_numbers=numbers) if project else optax.identity()
    tx = optax.chain(optax.scale_by_adam(), dns, optax.scale_by_learning_rate(optax.linear_schedule(0.05, 0, 300)))
    state: Any = tx.init(adapter)
    state = replace_projectors(state, adapter_projectors(projector)) if project else state

    def step(carry: Any, _: None) -> tuple[Any, None]:
        adapter, state = carry
        gradients = jax.grad(lambda adapter: jnp.sum((adapter_kernel(adapter) - target) ** 2))(adapter)
        updates, state = tx.update(gradients, state, adapter)
        return (optax.apply_updates(adapter, updates), state), None

    found: LowRankAdapter = jax.jit(lambda carry: jax.lax.scan(step, carry, length=300))((adapter, state))[0][0]
    return found


def protected_share(adapter: LowRankAdapter, projector: NullSpaceProjector) -> float:
    change = np.asarray(adapter.a1) @ adapter.b1 + np.asarray(adapter.a2) @ adapter.b2
    assert np.linalg.norm(change) > 1
    protected = np.asarray(projector.inputs) @ change @ np.asarray(projector.outputs)
    return float(np.linalg.norm(protected) / np.linalg.norm(change))


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("numbers", [None, ADAPTER_DIMENSION_NUMBERS])
def test_nothing_protected_moves_after_many_updates_of_adam(numbers: DimensionNumbers) -> None:
    projector = random_projector()
    adapter = trained(projector, rank=2, numbers=numbers)
    assert protected_share(adapter, projector) < 1e-12
    assert protected_share(trained(projector, rank=2, project=False), projector) > 1e-2


def test_the_protected_part_is_rounding_in_float32() -> None:
    projector = jax.tree.map(lambda side: side.astype(jnp.float32), random_projector())
    assert protected_share(trained(projector, rank=2), projector) < 1e-5


@pytest.mark.usefixtures("x64")
def test_the_start_changes_nothing_and_has_a_gradient() -> None:
    adapter = init_adapter(jax.random.key(0), random_projector(), 2, jnp.float64)
    assert not np.any(adapter_kernel(adapter))
    target = jnp.asarray(np.random.default_rng(2).normal(size=(D_IN, D_OUT)))
    gradients = jax.grad(lambda adapter: jnp.sum(adapter_kernel(adapter) * target))(adapter)
    np.testing.assert_allclose(gradients.b1, np.asarray(adapter.a1).T @ target, atol=1e-12)
    np.testing.assert_allclose(gradients.a2, np.asarray(target) @ np.asarray(adapter.b2).T, atol=1e-12)
    assert np.linalg.norm(gradients.b1) > 0.1
    assert np.linalg.norm(gradients.a2) > 0.1


@pytest.mark.usefixtures("x64")
def test_at_full_rank_every_projected_change_is_reached() -> None:
    projector = random_projector(rank_in=5, rank_out=4)
    adapter = init_adapter(jax.random.key(0), projector, D_IN - 5, jnp.float64)  # of b2, five rows are not zero
    p_in, p_out, g = (np.asarray(m) for m in (*projector, np.random.default_rng(3).normal(size=(D_IN, D_OUT))))
    projected = g - p_in @ g @ p_out
    b1 = np.linalg.lstsq(adapter.a1, projected - p_in @ projected, rcond=None)[0]
    a2 = np.linalg.lstsq(np.asarray(adapter.b2).T, (p_in @ projected).T, rcond=None)[0].T
    reached = adapter_kernel(adapter._replace(b1=jnp.asarray(b1), a2=jnp.asarray(a2)), jnp.asarray(g))
    np.testing.assert_allclose(reached, g + projected, atol=1e-12)


@pytest.mark.usefixtures("x64")
def test_the_first_factors_are_orthonormal_and_zero_where_the_null_space_ends() -> None:
    adapter = init_adapter(jax.random.key(0), random_projector(rank_in=10, rank_out=D_OUT), 4, jnp.float64)
    np.testing.assert_allclose(adapter.a1.T @ adapter.a1, np.diag([1.0, 1, 0, 0]), atol=1e-12)
    assert not np.any(np.abs(adapter.b2) > 1e-12)


@pytest.mark.usefixtures("x64")
def test_training_at_full_rank_gets_as_near_as_the_projection_allows() -> None:
    projector = random_projector()
    p_in, p_out = (np.asarray(side) for side in projector)
    target = np.random.default_rng(2).normal(size=(D_IN, D_OUT))
    cannot = np.sum((p_in @ target @ p_out) ** 2)
    left = np.sum((np.asarray(adapter_kernel(trained(projector, rank=7))) - target) ** 2)
    assert cannot < left < cannot + 0.02 * (np.sum(target**2) - cannot)


def test_free_factors_pass_unchanged_and_take_no_memory() -> None:
    projector = random_projector()
    adapter = init_adapter(jax.random.key(0), projector, 2)
    tx = dual_null_space(dimension_numbers=ADAPTER_DIMENSION_NUMBERS)
    state = replace_projectors(tx.init(adapter), adapter_projectors(projector))
    assert sum(leaf.size for leaf in jax.tree.leaves(state)) == sum(d**2 + d for d in (D_IN, 2, 2, D_OUT))
    updates, _ = tx.update(jax.tree.map(jnp.ones_like, adapter), state)
    assert np.all(updates.b1 == 1)
    assert np.all(updates.a2 == 1)


def test_many_adapters_under_jit_and_vmap() -> None:
    projector = jax.tree.map(lambda side: side[None].repeat(3, 0), random_projector())
    start = jax.jit(jax.vmap(lambda key, projector: init_adapter(key, projector, 2)))
    adapters = start(jax.random.split(jax.random.key(0), 3), projector)
    assert adapters.a1.shape == (3, D_IN, 2)
    assert jax.vmap(adapter_kernel)(adapters).shape == (3, D_IN, D_OUT)
    assert np.abs(adapters.a1[0] - adapters.a1[1]).max() > 1e-3


def test_what_makes_no_adapter_is_refused() -> None:
    key, projector = jax.random.key(0), random_projector()
    for rank in (0, D_OUT + 1):
        with pytest.raises(ValueError, match=f"rank must be from 1 to {D_OUT}, but it is {rank}"):
            init_adapter(key, projector, rank)
    with pytest.raises(ValueError, match=r"side outputs is None.*jnp.eye"):
        init_adapter(key, projector._replace(outputs=None), 1)
    with pytest.raises(ValueError, match=r"side inputs is None"):
        adapter_projectors(projector._replace(inputs=None))
    with pytest.raises(ValueError, match=r"shapes \(2, 12, 12\) and"):
        init_adapter(key, projector._replace(inputs=jnp.zeros((2, D_IN, D_IN))), 1)
    with pytest.raises(ValueError, match=r"every direction on both sides"):
        init_adapter(key, NullSpaceProjector(jnp.eye(D_IN), jnp.eye(D_OUT)), 1)
