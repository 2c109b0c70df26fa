"""What optax expects of a transformation, and what the promise of `dual_null_space` is worth in company."""

from collections.abc import Callable
from typing import Any

import flax.linen
import flax.nnx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax.training.train_state import TrainState

from cmcl_jax import NullSpaceProjector, dual_null_space, protected_fraction, replace_projectors

WIDTHS = (8, 6)
OPTIMIZERS: dict[str, Callable[[Any], optax.GradientTransformation]] = {
    "sgd": lambda rate: optax.sgd(rate, momentum=0.9),
    "adam": optax.adam,
    "adamw": lambda rate: optax.adamw(rate, weight_decay=0.1),
    "lion": lambda rate: optax.lion(rate, weight_decay=0.1),
    "adafactor": optax.adafactor,
    "muon": optax.contrib.muon,
    "lamb": lambda rate: optax.lamb(rate, weight_decay=0.1),
}


def onto(rows: np.ndarray) -> jax.Array:
    """Projector onto a row space by least squares, without an SVD."""
    return jnp.asarray(rows.T @ np.linalg.solve(rows @ rows.T, rows), jnp.float32)


def tree(seed: int) -> dict[str, dict[str, jax.Array]]:
    """Parameters, or gradients, of a head."""
    rng = np.random.default_rng(seed)
    draw = lambda *shape: jnp.asarray(rng.normal(size=shape), jnp.float32)  # noqa: E731
    return {"head": {"kernel": draw(*WIDTHS), "bias": draw(WIDTHS[1])}}


def protection(seed: int = 0) -> NullSpaceProjector:
    rng = np.random.default_rng(seed)
    return NullSpaceProjector(*(onto(rng.normal(size=(2, width))) for width in WIDTHS))


def assert_nothing_protected_moves(updates: Any, p: NullSpaceProjector) -> None:
    """In float64, relative to the update."""
    kernel, bias = (np.asarray(updates["head"][name], np.float64) for name in ("kernel", "bias"))
    inputs, outputs = np.asarray(p.inputs, np.float64), np.asarray(p.outputs, np.float64)
    assert np.linalg.norm(kernel) > 0 and np.linalg.norm(bias) > 0
    assert np.linalg.norm(inputs @ kernel @ outputs) <= 1e-5 * np.linalg.norm(kernel)
    assert np.linalg.norm(bias @ outputs) <= 1e-5 * np.linalg.norm(bias)


@pytest.fixture(params=sorted(OPTIMIZERS))
def optimizer(request: pytest.FixtureRequest) -> Callable[[Any], optax.GradientTransformation]:
    return OPTIMIZERS[request.param]


def test_after_any_optimizer_the_applied_update_moves_nothing_protected(
    optimizer: Callable[[Any], optax.GradientTransformation],
) -> None:
    schedule = optax.cosine_decay_schedule(1e-2, 10)
    tx = optax.chain(optax.clip_by_global_norm(1.0), optimizer(schedule), dual_null_space())
    params, p = tree(0), protection()
    state = replace_projectors(tx.init(params), {"head": p})
    update = jax.jit(tx.update)
    for step in range(3):
        updates, state = update(tree(step + 1), state, params)
        assert_nothing_protected_moves(updates, p)
        assert protected_fraction(updates, state) < 1e-5
        params = optax.apply_updates(params, updates)
    assert update._cache_size() == 1


def test_before_an_optimizer_that_rescales_elements_it_does_not(
    optimizer: Callable[[Any], optax.GradientTransformation], request: pytest.FixtureRequest
) -> None:
    tx = optax.chain(dual_null_space(), optimizer(1e-2))
    params = tree(0)
    state = replace_projectors(tx.init(params), {"head": protection()})
    updates, state = tx.update(tree(1), state, params)
    fraction = float(protected_fraction(updates, state))
    if request.node.callspec.params["optimizer"] == "sgd":  # scales all elements alike
        assert fraction < 1e-5
    else:
        assert fraction > 1e-3


def test_many_small_steps_are_one_large_one_under_multisteps() -> None:
    tx = optax.chain(optax.adam(1e-2), dual_null_space())
    steps = optax.MultiSteps(tx, 4)
    params, gradients = tree(0), [tree(seed) for seed in range(1, 5)]
    mean = jax.tree.map(lambda *leaves: sum(leaves) / 4, *gradients)
    at_once, _ = tx.update(mean, replace_projectors(tx.init(params), {"head": protection()}), params)
    state = replace_projectors(steps.init(params), {"head": protection()})
    for gradient in gradients:
        updates, state = steps.update(gradient, state, params)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), updates, at_once)
    assert_nothing_protected_moves(updates, protection())


def test_a_learning_rate_that_is_injected_changes_without_a_second_compilation() -> None:
    make = optax.inject_hyperparams(lambda learning_rate: optax.chain(optax.adam(learning_rate), dual_null_space()))
    tx = make(learning_rate=1e-2)
    params = tree(0)
    start = replace_projectors(tx.init(params), {"head": protection()})
    update = jax.jit(tx.update)
    first, _ = update(tree(1), start, params)
    hyperparams = {"learning_rate": jnp.asarray(2e-2, start.hyperparams["learning_rate"].dtype)}
    second, _ = update(tree(1), start._replace(hyperparams=hyperparams), params)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(2 * a, b, rtol=1e-5, atol=1e-8), first, second)
    assert update._cache_size() == 1


def test_a_step_that_is_not_finite_leaves_the_state_as_it_was_under_apply_if_finite() -> None:
    tx = optax.apply_if_finite(optax.chain(optax.adam(1e-2), dual_null_space()), 3)
    params = tree(0)
    state = replace_projectors(tx.init(params), {"head": protection()})
    updates, after = tx.update(jax.tree.map(lambda leaf: leaf * jnp.nan, params), state, params)
    assert not any(leaf.any() for leaf in jax.tree.leaves(updates))
    updates, _ = tx.update(tree(1), after, params)
    assert_nothing_protected_moves(updates, protection())


def test_seeds_under_vmap_and_steps_under_scan_are_what_a_loop_gives() -> None:
    tx = optax.chain(optax.adam(1e-2), dual_null_space())

    def train(params: Any, p: NullSpaceProjector, gradients: Any) -> Any:
        def step(carry: Any, gradient: Any) -> tuple[Any, None]:
            params, state = carry
            updates, state = tx.update(gradient, state, params)
            return (optax.apply_updates(params, updates), state), None

        state = replace_projectors(tx.init(params), {"head": p})
        return jax.lax.scan(step, (params, state), gradients)[0][0]

    stack = lambda *trees: jax.tree.map(lambda *leaves: jnp.stack(leaves), *trees)  # noqa: E731
    params = [tree(seed) for seed in range(3)]
    projectors = [protection(seed) for seed in range(3)]
    gradients = [stack(*(tree(10 * seed + step) for step in range(4))) for seed in range(3)]
    together = jax.jit(jax.vmap(train))(stack(*params), stack(*projectors), stack(*gradients))
    apart = stack(*(train(*arguments) for arguments in zip(params, projectors, gradients, strict=True)))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), together, apart)


def test_it_trains_a_linen_train_state() -> None:
    model = flax.linen.Dense(WIDTHS[1])
    params = model.init(jax.random.key(0), jnp.ones((1, WIDTHS[0])))["params"]
    tx = optax.chain(optax.adam(1e-2), dual_null_space())
    state = TrainState.create(apply_fn=model.apply, params={"head": params}, tx=tx)
    state = state.replace(opt_state=replace_projectors(state.opt_state, {"head": protection()}))
    after = state.apply_gradients(grads=tree(1))
    assert_nothing_protected_moves(jax.tree.map(jnp.subtract, after.params, state.params), protection())


def test_it_trains_an_nnx_module() -> None:
    module = flax.nnx.Linear(*WIDTHS, rngs=flax.nnx.Rngs(0))
    tx = optax.chain(optax.adam(1e-2), dual_null_space())
    p, before = protection(), (np.asarray(module.kernel[...]), np.asarray(module.bias[...]))
    state = tx.init(flax.nnx.state(module, flax.nnx.Param))
    state = replace_projectors(state, p)

    def loss(module: flax.nnx.Linear) -> jax.Array:
        return jnp.sum(jnp.sin(module(jnp.eye(WIDTHS[0]))))

    gradients = flax.nnx.grad(loss)(module)
    updates, _ = tx.update(gradients, state, flax.nnx.state(module, flax.nnx.Param))
    flax.nnx.update(module, optax.apply_updates(flax.nnx.state(module, flax.nnx.Param), updates))
    moved = {"kernel": np.asarray(module.kernel[...]) - before[0], "bias": np.asarray(module.bias[...]) - before[1]}
    assert_nothing_protected_moves({"head": moved}, p)


def test_inside_flatten_which_hides_the_shapes_of_matrices_it_is_refused() -> None:
    tx = optax.flatten(dual_null_space())
    with pytest.raises(ValueError, match=r"optax\.flatten hides .* Put dual_null_space\(\) outside"):
        tx.init(tree(0))
