"""What the promise of `dual_null_space` is worth after, and before, the optimizers of optax."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from cmcl_jax import dual_null_space, protected_fraction, replace_projectors
from tests.optax_acceptance.company import assert_nothing_protected_moves, protection, tree

OPTIMIZERS: dict[str, Callable[[Any], optax.GradientTransformation]] = {
    "sgd": lambda rate: optax.sgd(rate, momentum=0.9),
    "adam": optax.adam,
    "adamw": lambda rate: optax.adamw(rate, weight_decay=0.1),
    "lion": lambda rate: optax.lion(rate, weight_decay=0.1),
    "adafactor": optax.adafactor,
    "muon": optax.contrib.muon,
    "lamb": lambda rate: optax.lamb(rate, weight_decay=0.1),
}


@pytest.fixture(params=sorted(OPTIMIZERS))
def optimizer(request: pytest.FixtureRequest) -> Callable[[Any], optax.GradientTransformation]:
    return OPTIMIZERS[request.param]


def test_after_any_optimizer_the_applied_update_moves_nothing_protected(
    optimizer: Callable[[Any], optax.GradientTransformation],
) -> None:
    schedule = optax.cosine_decay_schedule(1e-2, 10)
    tx = optax.chain(optax.clip_by_global_norm(1.0), optimizer(schedule), dual_null_space())
    params = tree(0)
    state = replace_projectors(tx.init(params), {"head": protection()})
    update = jax.jit(tx.update)
    for step in range(3):
        updates, state = update(tree(step + 1), state, params)
        assert_nothing_protected_moves(updates)
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
    assert_nothing_protected_moves(updates)


def test_inside_flatten_which_hides_the_shapes_of_matrices_it_is_refused() -> None:
    tx = optax.flatten(dual_null_space())
    with pytest.raises(ValueError, match=r"optax\.flatten hides .* Put dual_null_space\(\) outside"):
        tx.init(tree(0))
