"""The exact-zero strength: an optimizer in the eigenbases of the projectors."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from cmcl_jax import NullSpaceProjector, WeightDimensionNumbers, protected_fraction, replace_projectors
from cmcl_jax.null_space import dual_null_space
from cmcl_jax.null_space.rotation import RotatedState, in_rotated_coordinates
from cmcl_jax.null_space.stacking import stack_biases
from cmcl_jax.optimizers import dns_adamw

D_IN, D_OUT = 6, 5


def onto(rng: np.random.Generator, width: int, rank: int, batch: tuple[int, ...] = ()) -> jax.Array:
    """Projectors onto random spaces, by QR, without an SVD."""
    q, _ = np.linalg.qr(rng.normal(size=(*batch, width, rank)))
    return jnp.asarray(q @ np.swapaxes(q, -1, -2))


def protection(seed: int, ranks: tuple[int, int] = (2, 3)) -> NullSpaceProjector:
    rng = np.random.default_rng(seed)
    return NullSpaceProjector(onto(rng, D_IN, ranks[0]), onto(rng, D_OUT, ranks[1]))


def tree(seed: int, dtype: Any = None) -> dict[str, dict[str, jax.Array]]:
    rng = np.random.default_rng(seed)
    draw = lambda *shape: jnp.asarray(rng.normal(size=shape), dtype)  # noqa: E731
    return {m: {"kernel": draw(D_IN, D_OUT), "bias": draw(D_OUT)} for m in ("text", "audio")}


def assert_nothing_protected_moves(updates: Any, p: NullSpaceProjector, tolerance: float = 1e-14) -> None:
    kernel, bias = (np.asarray(updates[name], np.float64) for name in ("kernel", "bias"))
    inputs, outputs = np.asarray(p.inputs), np.asarray(p.outputs)
    assert np.linalg.norm(kernel) > 0 and np.linalg.norm(bias) > 0
    assert np.linalg.norm(inputs @ kernel @ outputs) <= tolerance * np.linalg.norm(kernel)
    assert np.linalg.norm(bias @ outputs) <= tolerance * np.linalg.norm(bias)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_a_first_step_is_that_of_the_inner_optimizer_bit_for_bit(dtype: Any) -> None:
    params, gradients = tree(0, dtype), tree(1, dtype)
    inner = optax.adamw(1e-3, weight_decay=0.1)
    tx = in_rotated_coordinates(inner)
    updates, after = tx.update(gradients, tx.init(params), params)
    expected, inner_state = inner.update(gradients, inner.init(params), params)
    jax.tree.map(np.testing.assert_array_equal, updates, expected)
    jax.tree.map(np.testing.assert_array_equal, after.inner_state, inner_state)
    assert jax.tree.map(lambda leaf: leaf.dtype, updates) == jax.tree.map(lambda leaf: leaf.dtype, expected)


def test_it_is_adam_with_decay_in_the_eigenbases_computed_by_hand(x64: None) -> None:
    params, p = tree(0)["text"], protection(0)
    tx = in_rotated_coordinates(optax.adamw(0.1, weight_decay=0.01))
    state = replace_projectors(tx.init(params), p)
    c = state.coordinates["kernel"]
    u_in, u_out = np.asarray(c.inputs.vectors), np.asarray(c.outputs.vectors)
    for basis, side in ((c.inputs, p.inputs), (c.outputs, p.outputs)):  # the bases are what they should be
        u = np.asarray(basis.vectors)
        np.testing.assert_allclose(u.T @ u, np.eye(len(u)), atol=1e-14)
        np.testing.assert_allclose((u * np.asarray(basis.protected)) @ u.T, side, atol=1e-14)
    free = ~(np.asarray(c.inputs.protected)[:, None] & np.asarray(c.outputs.protected))
    kernel, mu, nu = np.asarray(params["kernel"]), 0.0, 0.0
    for step in range(1, 4):
        gradient = tree(step)["text"]
        updates, state = tx.update(gradient, state, params)
        params = optax.apply_updates(params, updates)
        g = (u_in.T @ np.asarray(gradient["kernel"]) @ u_out) * free
        mu, nu = 0.9 * mu + 0.1 * g, 0.999 * nu + 0.001 * g**2
        adam = mu / (1 - 0.9**step) / (np.sqrt(nu / (1 - 0.999**step)) + 1e-8)
        kernel = kernel - 0.1 * u_in @ ((adam + 0.01 * u_in.T @ kernel @ u_out) * free) @ u_out.T
    np.testing.assert_allclose(params["kernel"], kernel, atol=1e-12)
    assert np.abs(kernel - np.asarray(tree(0)["text"]["kernel"])).max() > 0.1


def noisy() -> optax.GradientTransformation:
    """Noise of its own that no mask on gradients or parameters keeps out."""
    add = lambda updates, params=None: jax.tree.map(lambda u: jnp.sign(u) + 1.0, updates)  # noqa: E731
    return optax.stateless(add)


@pytest.mark.parametrize(
    "inner", [optax.lion(1e-3), optax.lamb(1e-3, weight_decay=0.1), optax.adafactor(1e-3), noisy()]
)
def test_whatever_the_inner_optimizer_emits_nothing_protected_moves(inner: Any, x64: None) -> None:
    params, p = tree(0), protection(0)
    tx = in_rotated_coordinates(inner)
    state = replace_projectors(tx.init(params), p)
    for step in range(2):
        updates, state = tx.update(tree(step + 1), state, params)
        assert_nothing_protected_moves(updates["text"], p)
        params = optax.apply_updates(params, updates)


def test_moments_of_other_coordinates_do_not_break_the_promise(x64: None) -> None:
    params = tree(0)
    tx = in_rotated_coordinates(optax.adamw(1e-2, weight_decay=0.1))
    state = tx.init(params)
    for seed in range(3):
        p = protection(seed)
        state = replace_projectors(state, p)
        updates, state = tx.update(tree(seed + 1), state, params)
        assert_nothing_protected_moves(updates["audio"], p)


def test_a_leaf_of_which_all_is_protected_keeps_its_bits() -> None:
    params = tree(0, jnp.float32)
    tx = optax.chain(in_rotated_coordinates(optax.adamw(0.1, weight_decay=0.1)), optax.scale(3.0))
    state = replace_projectors(tx.init(params), {"text": protection(0, (D_IN, D_OUT)), "audio": None})
    after = params
    for step in range(5):
        updates, state = tx.update(tree(step + 1, jnp.float32), state, after)
        after = optax.apply_updates(after, updates)
    jax.tree.map(np.testing.assert_array_equal, after["text"], params["text"])
    assert np.abs(np.asarray(after["audio"]["kernel"] - params["audio"]["kernel"])).max() > 0.1


def test_one_sided_projection_freezes_the_bias_and_every_old_output(x64: None) -> None:
    params, p = tree(0), protection(0)
    tx = in_rotated_coordinates(optax.adam(1e-2))
    state = replace_projectors(tx.init(params), NullSpaceProjector(p.inputs, None))
    updates, _ = tx.update(tree(1), state, params)
    np.testing.assert_array_equal(updates["text"]["bias"], 0)
    kernel = np.asarray(updates["text"]["kernel"])
    assert np.linalg.norm(np.asarray(p.inputs) @ kernel) < 1e-14 * np.linalg.norm(kernel)
    assert np.linalg.norm(kernel) > 1e-2


def test_unprotected_biases_are_those_of_the_inner_optimizer_bit_for_bit() -> None:
    params, gradients, inner = tree(0, jnp.float32), tree(1, jnp.float32), optax.adam(1e-2)
    tx = in_rotated_coordinates(inner, protect_biases=False)
    state = replace_projectors(tx.init(params), jax.tree.map(lambda x: x.astype(jnp.float32), protection(0)))
    updates, _ = tx.update(gradients, state, params)
    expected, _ = inner.update(gradients, inner.init(params), params)
    np.testing.assert_array_equal(updates["text"]["bias"], expected["text"]["bias"])
    assert np.abs(np.asarray(updates["text"]["kernel"] - expected["text"]["kernel"])).max() > 1e-3


def test_new_projectors_compile_nothing_and_keep_shapes_and_dtypes() -> None:
    params = tree(0, jnp.bfloat16)
    tx = dns_adamw(1e-2, project="exact")
    update, refresh = jax.jit(tx.update), jax.jit(lambda state, new: replace_projectors(state, new))
    state = tx.init(params)
    kinds = lambda tree: jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype, leaf.weak_type), tree)  # noqa: E731
    start = kinds(state)
    for seed in range(3):
        updates, state = update(tree(seed, jnp.bfloat16), state, params)
        assert {leaf.dtype for leaf in jax.tree.leaves(updates)} == {jnp.dtype(jnp.bfloat16)}
        state = refresh(state, jax.tree.map(lambda x: x.astype(jnp.float32), protection(seed)))
        assert kinds(state) == start
    assert update._cache_size() == refresh._cache_size() == 1


@pytest.mark.slow
def test_stacked_layers_in_any_layout_are_what_a_loop_over_them_gives(x64: None) -> None:
    rng = np.random.default_rng(0)
    draw = lambda *shape: jnp.asarray(rng.normal(size=shape))  # noqa: E731
    numbers = {"weight": WeightDimensionNumbers((2,), (0,)), "bias": WeightDimensionNumbers((), (1,))}
    params, gradients = ({"weight": draw(4, 3, 6), "bias": draw(3, 4)} for _ in range(2))  # (out, layers, in)
    p = NullSpaceProjector(onto(rng, 6, 2, (3,)), onto(rng, 4, 2, (3,)))
    inner = optax.adamw(1e-2, weight_decay=0.1)
    tx = in_rotated_coordinates(inner, dimension_numbers=numbers)
    state = replace_projectors(tx.init(params), p)
    updates, _ = tx.update(gradients, state, params)
    assert protected_fraction(updates, state) < 1e-14
    assert protected_fraction(gradients, state) > 0.1
    plain = in_rotated_coordinates(inner)
    for i in range(3):
        layer = lambda t: {"weight": t["weight"][:, i].T, "bias": t["bias"][i]}  # noqa: B023, E731
        of_layer = jax.tree.map(lambda side: side[i], p)  # noqa: B023
        alone, _ = plain.update(
            layer(gradients), replace_projectors(plain.init(layer(params)), of_layer), layer(params)
        )
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-13), layer(updates), alone)


def test_seeds_under_vmap_and_steps_under_scan_keep_the_promise_of_each_seed(x64: None) -> None:
    stack = lambda *trees: jax.tree.map(lambda *leaves: jnp.stack(leaves), *trees)  # noqa: E731
    tx = in_rotated_coordinates(optax.adam(1e-2))

    def train(params: Any, p: NullSpaceProjector, gradients: Any) -> Any:
        def step(carry: Any, gradient: Any) -> Any:
            updates, state = tx.update(gradient, carry[1], carry[0])
            return (optax.apply_updates(carry[0], updates), state), None

        return jax.lax.scan(step, (params, replace_projectors(tx.init(params), p)), gradients)[0][0]

    params, projectors = stack(tree(0), tree(1)), stack(protection(0), protection(1))
    gradients = stack(*(stack(*(tree(10 * seed + step) for step in range(4))) for seed in range(2)))
    after = jax.jit(jax.vmap(train))(params, projectors, gradients)
    moved = jax.tree.map(jnp.subtract, after, params)
    for seed in range(2):
        assert_nothing_protected_moves(jax.tree.map(lambda leaf: leaf[seed], moved)["text"], protection(seed), 1e-12)  # noqa: B023
        with pytest.raises(AssertionError):
            assert_nothing_protected_moves(jax.tree.map(lambda leaf: leaf[seed], moved)["text"], protection(1 - seed))  # noqa: B023


STRENGTHS = {
    "updates": lambda: optax.chain(optax.adam(1e-2), dual_null_space()),
    "exact": lambda: in_rotated_coordinates(optax.adam(1e-2)),
}
WRAPPERS: dict[str, Any] = {
    "chain": lambda tx: optax.chain(optax.clip_by_global_norm(1.0), tx, optax.scale(-1.0)),
    "masked": lambda tx: optax.masked(tx, {"text": True, "audio": False}),
    "partition": lambda tx: optax.partition({"on": tx, "off": optax.set_to_zero()}, {"text": "on", "audio": "off"}),
    "MultiSteps": lambda tx: optax.MultiSteps(tx, 2),
}


@pytest.mark.parametrize("strength", STRENGTHS)
@pytest.mark.parametrize("wrapper", WRAPPERS)
def test_projectors_are_replaced_and_the_fraction_measured_under_every_wrapper(
    wrapper: str, strength: str, x64: None
) -> None:
    params, p = tree(0), protection(0)
    tx = WRAPPERS[wrapper](STRENGTHS[strength]())
    before = tx.init(params)
    state = replace_projectors(before, {"text": p, "audio": protection(1)})
    assert jax.tree.structure(before) == jax.tree.structure(state)
    assert protected_fraction(tree(1), state) > 0.3
    for step in range(2):
        updates, state = tx.update(tree(step + 1), state, params)
    assert_nothing_protected_moves(updates["text"], p)
    protected = {"text": updates["text"], "audio": jax.tree.map(jnp.zeros_like, updates["audio"])}
    assert protected_fraction(protected, state) < 1e-14
    # What another transform owns counts as free.
    alone = {"text": jax.tree.map(jnp.zeros_like, params["text"]), "audio": tree(3)["audio"]}
    assert (protected_fraction(alone, state) == 0) == (wrapper in ("masked", "partition"))


@pytest.mark.parametrize("strength", STRENGTHS)
def test_the_fraction_of_stacked_layers_is_that_of_the_stacked_matrix(strength: str, x64: None) -> None:
    params, rng = tree(0), np.random.default_rng(0)
    tx = stack_biases(STRENGTHS[strength]())
    p = NullSpaceProjector(onto(rng, D_IN + 1, 3), onto(rng, D_OUT, 2))
    state = replace_projectors(optax.chain(tx).init(params), p)
    matrices = [np.vstack([layer["kernel"], layer["bias"]]) for layer in params.values()]
    protected = np.sqrt(sum(np.linalg.norm(np.asarray(p.inputs) @ m @ np.asarray(p.outputs)) ** 2 for m in matrices))
    expected = protected / np.sqrt(sum(np.linalg.norm(m) ** 2 for m in matrices))
    assert float(protected_fraction(params, state)) == pytest.approx(expected, rel=1e-12)


def test_a_projector_of_nans_makes_the_updates_nan_and_does_not_free_the_head() -> None:
    params = tree(0, jnp.float32)
    tx = in_rotated_coordinates(optax.adam(1e-2))
    p = NullSpaceProjector(jnp.full((D_IN, D_IN), jnp.nan), jnp.eye(D_OUT))
    state = jax.jit(lambda state, new: replace_projectors(state, new))(tx.init(params), {"text": p, "audio": None})
    updates, _ = tx.update(tree(1, jnp.float32), state, params)
    assert np.isnan(updates["text"]["kernel"]).all()
    assert np.isfinite(updates["audio"]["kernel"]).all()


def test_the_state_names_its_parts_and_an_inner_one_with_projectors_is_refused() -> None:
    state = in_rotated_coordinates(optax.sgd(0.1)).init(tree(0))
    assert isinstance(state, RotatedState) and state._fields == ("coordinates", "numbers", "inner_state")
    with pytest.raises(ValueError, match=r"inner holds projectors itself.*Leave dual_null_space\(\) out"):
        in_rotated_coordinates(optax.chain(optax.adam(1e-3), dual_null_space())).init(tree(0))
    with pytest.raises(ValueError, match="flatten"):
        optax.flatten(in_rotated_coordinates(optax.sgd(0.1))).init(tree(0))
