"""What every way of protecting a head has to do, in the manner of optax's own tests of what is contributed to it."""

import functools
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint as ocp
import pytest

from cmcl_jax import replace_projectors
from tests.optax_acceptance.company import (
    STRENGTHS,
    TOLERANCE,
    Strength,
    assert_nothing_protected_moves,
    difference,
    tree,
    types,
)


@pytest.fixture(params=sorted(STRENGTHS))
def strength(request: pytest.FixtureRequest) -> Strength:
    return STRENGTHS[request.param]


@functools.cache
def shared(strength: Strength) -> tuple[Any, Any]:
    """Its optimizer at a rate of 1e-2 and that one's compiled update, the same for all tests."""
    tx = strength.make(1e-2)
    return tx, jax.jit(tx.update)


def protected(strength: Strength, tx: Any, params: Any, seed: int = 0) -> Any:
    """A fresh state of an optimizer that has something to protect."""
    dtype = jnp.promote_types(params["head"]["kernel"].dtype, jnp.float32)
    return replace_projectors(tx.init(params), {"head": strength.protect(seed, dtype)})


def assert_close(a: Any, b: Any, atol: float = 1e-6) -> None:
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=atol, rtol=1e-5), a, b)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_no_update_moves_old_alignments_nor_do_all_of_them_together(strength: Strength, dtype: str, x64: None) -> None:
    (tx, update), start = shared(strength), tree(0, dtype)
    params, state = start, protected(strength, tx, start)
    for step in range(5):
        updates, state = update(tree(step + 1, dtype), state, params)
        assert_nothing_protected_moves(updates, TOLERANCE[dtype])
        params = optax.apply_updates(params, updates)
    assert_nothing_protected_moves(difference(params, start), 10 * TOLERANCE[dtype])


def test_without_protection_the_same_steps_move_them(strength: Strength) -> None:
    tx, params = strength.plain(1e-2), tree(0)
    updates, _ = tx.update(tree(1), tx.init(params), params)
    with pytest.raises(AssertionError):
        assert_nothing_protected_moves(updates, 1e-2)


def test_with_nothing_to_protect_it_is_the_plain_optimizer(strength: Strength) -> None:
    tx, plain, params = strength.make(1e-2), strength.plain(1e-2), tree(0)
    state, plain_state = tx.init(params), plain.init(params)
    for step in range(2):
        updates, state = tx.update(tree(step + 1), state, params)
        expected, plain_state = plain.update(tree(step + 1), plain_state, params)
        same = np.testing.assert_array_equal if strength.same_bits else partial(np.testing.assert_allclose, rtol=1e-6)
        jax.tree.map(same, updates, expected)


def test_new_projectors_do_not_compile_anything_again(strength: Strength) -> None:
    tx, params = strength.make(1e-2), tree(0)
    update = jax.jit(tx.update)
    state = tx.init(params)
    before = types(state)
    for seed in range(3):
        updates, state = update(tree(seed), state, params)
        state = replace_projectors(state, {"head": strength.protect(seed, jnp.float32)})
        assert types(state) == before
    updates, _ = update(tree(1), protected(strength, tx, params, 2), params)
    assert_nothing_protected_moves(updates, seed=2)
    assert update._cache_size() == 1


@pytest.mark.parametrize("dtype", ["bfloat16", "float32", "float64"])
def test_it_keeps_the_dtypes_of_updates_and_state(strength: Strength, dtype: str, x64: None) -> None:
    (tx, update), params = shared(strength), tree(0, dtype)
    state = protected(strength, tx, params)
    updates, after = update(tree(1, dtype), state, params)
    assert {leaf.dtype for leaf in jax.tree.leaves(updates)} == {jnp.dtype(dtype)}
    assert types(after) == types(state)


def test_it_starts_from_shapes_alone(strength: Strength) -> None:
    params = tree(0)
    abstract = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), params)
    tx = strength.make(1e-2)
    assert types(jax.eval_shape(tx.init, abstract)) == types(tx.init(params))


def test_it_takes_extra_arguments_in_any_chain(strength: Strength) -> None:
    tx = optax.chain(strength.make(1e-2), optax.contrib.reduce_on_plateau(patience=1))
    params = tree(0)
    updates, _ = tx.update(tree(1), protected(strength, tx, params), params, value=1.0, unknown="passed over")
    assert_nothing_protected_moves(updates)


def test_it_can_be_wrapped_in_inject_hyperparams(strength: Strength) -> None:
    params = tree(0)
    injected = optax.inject_hyperparams(strength.make)(optax.exponential_decay(1e-2, 1, 0.5))
    direct = strength.make(optax.exponential_decay(1e-2, 1, 0.5))
    state, plain = protected(strength, injected, params), protected(strength, direct, params)
    update = jax.jit(injected.update)
    for step in range(3):
        updates, state = update(tree(step + 1), state, params)
        expected, plain = jax.jit(direct.update)(tree(step + 1), plain, params)
        assert_close(updates, expected)
        assert_nothing_protected_moves(updates)
    assert update._cache_size() == 1


def test_many_small_steps_are_one_large_one_under_multisteps(strength: Strength) -> None:
    tx, plain_update = shared(strength)
    steps = optax.MultiSteps(tx, 4)
    params, gradients = tree(0), [tree(seed) for seed in range(1, 5)]
    mean = jax.tree.map(lambda *leaves: sum(leaves) / 4, *gradients)
    at_once, _ = plain_update(mean, protected(strength, tx, params), params)
    state = protected(strength, steps, params)
    update = jax.jit(steps.update)
    for gradient in gradients:
        updates, state = update(gradient, state, params)
    assert_close(updates, at_once)
    assert_nothing_protected_moves(updates)


def test_maps_over_its_state_find_the_parameters_and_change_nothing_else(strength: Strength) -> None:
    (tx, update), params = shared(strength), tree(0)
    _, state = update(tree(1), protected(strength, tx, params), params)
    same = optax.tree_utils.tree_map_params(tx, lambda leaf: leaf, state)
    assert types(same) == types(state)
    jax.tree.map(np.testing.assert_array_equal, same, state)
    assert np.isfinite(optax.tree.norm(state))
    assert types(optax.tree.zeros_like(state)) == types(state)


def test_seeds_under_vmap_and_steps_under_scan_are_what_a_loop_gives(strength: Strength) -> None:
    tx = strength.make(1e-2)

    def train(params: Any, p: Any, gradients: Any) -> Any:
        def step(carry: Any, gradient: Any) -> tuple[Any, None]:
            params, state = carry
            updates, state = tx.update(gradient, state, params)
            return (optax.apply_updates(params, updates), state), None

        state = replace_projectors(tx.init(params), {"head": p})
        return jax.lax.scan(step, (params, state), gradients)[0][0]

    stack = lambda *trees: jax.tree.map(lambda *leaves: jnp.stack(leaves), *trees)  # noqa: E731
    params = [tree(seed) for seed in range(3)]
    projectors = [strength.protect(seed, jnp.float32) for seed in range(3)]
    gradients = [stack(*(tree(10 * seed + step) for step in range(1, 5))) for seed in range(3)]
    together = jax.jit(jax.vmap(train))(stack(*params), stack(*projectors), stack(*gradients))
    one = jax.jit(train)
    apart = stack(*(one(*arguments) for arguments in zip(params, projectors, gradients, strict=True)))
    assert_close(together, apart, atol=1e-5)


@pytest.fixture
def distances(strength: Strength, x64: None) -> tuple[float, float]:
    """On a quadratic, how far from the target the free part of a head ends, and how far it began."""
    start, target = tree(0, jnp.float64), tree(1, jnp.float64)
    tx = strength.make(optax.cosine_decay_schedule(0.1, 1500))

    @jax.jit
    def train(params: Any, state: Any) -> Any:
        def step(carry: Any, _: None) -> tuple[Any, None]:
            params, state = carry
            updates, state = tx.update(jax.tree.map(jnp.subtract, params, target), state, params)
            return (optax.apply_updates(params, updates), state), None

        return jax.lax.scan(step, (params, state), None, length=1500)[0][0]

    end = train(start, protected(strength, tx, start))
    assert_nothing_protected_moves(difference(end, start), 1e-11)
    p = strength.protect(0, jnp.float64)
    free = [free_part(difference(params, target)["head"], p) for params in (end, start)]
    return np.linalg.norm(free[0]), np.linalg.norm(free[1])


def free_part(head: Any, p: Any) -> np.ndarray:
    """Kernel over bias, without what the projectors hold."""
    both, (inputs, outputs) = np.vstack([head["kernel"], head["bias"]]), (np.asarray(side) for side in p)
    if len(inputs) < len(both):  # the bias has an input of its own, which is always 1
        inputs = np.block([[inputs, np.zeros((len(inputs), 1))], [np.zeros((1, len(inputs))), np.ones((1, 1))]])
    return both - inputs @ both @ outputs


def test_it_goes_to_the_target_in_the_free_directions(strength: Strength, distances: tuple[float, float]) -> None:
    """Except after Adam alone, which divides by gradients that it will not follow, and so stops short or elsewhere."""
    end, start = distances
    assert start > 1
    if strength.settles:
        assert end < 1e-3 * start
    else:
        assert end > 0.1 * start


def test_one_differentiates_through_an_update(strength: Strength, x64: None) -> None:
    """Meta-learning: of the loss after a step, by the parameters and the gradients before it, by finite differences."""
    tx, params, gradients = strength.make(1e-2), tree(0, jnp.float64), tree(1, jnp.float64)
    state = protected(strength, tx, params)

    @jax.jit
    def loss_after(params: Any, gradients: Any) -> jax.Array:
        updates, _ = tx.update(gradients, state, params)
        return sum(jnp.sum(jnp.sin(leaf)) for leaf in jax.tree.leaves(optax.apply_updates(params, updates)))

    slopes = jax.jit(jax.grad(loss_after, argnums=(0, 1)))(params, gradients)
    assert optax.tree.norm(slopes[1]) > 0
    direction = (tree(2, jnp.float64), tree(3, jnp.float64))
    ahead, back = (
        loss_after(*jax.tree.map(lambda at, d: at + eps * d, (params, gradients), direction))  # noqa: B023
        for eps in (1e-6, -1e-6)
    )
    np.testing.assert_allclose(optax.tree.vdot(slopes, direction), (ahead - back) / 2e-6, rtol=1e-6)


def test_a_checkpoint_brings_it_back_bit_for_bit(strength: Strength, tmp_path: Path) -> None:
    (tx, update), params = shared(strength), tree(0)
    _, state = update(tree(1), protected(strength, tx, params), params)
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(tmp_path / "state", state)
        checkpointer.wait_until_finished()
        restored = checkpointer.restore(tmp_path / "state", jax.eval_shape(tx.init, params))
    assert types(restored) == types(state)
    jax.tree.map(np.testing.assert_array_equal, restored, state)
    again, _ = update(tree(2), restored, params)
    jax.tree.map(np.testing.assert_array_equal, again, update(tree(2), state, params)[0])
    assert_nothing_protected_moves(again)
