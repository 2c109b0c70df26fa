"""Every way of protecting a head under wrappers that own a part of the parameters, and the life of its state."""

import copy
import pickle
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from cmcl_jax import NullSpaceProjector, dns_adamw, protected_fraction, replace_projectors
from tests.optax_acceptance.company import (
    STRENGTHS,
    Strength,
    assert_nothing_protected_moves,
    protection,
    stacked_protection,
    tree,
    types,
)

CHAINS = {
    **STRENGTHS,
    **{
        f"dns_adamw, {name}": Strength(
            lambda rate, settings=settings: dns_adamw(rate, **settings),
            lambda rate: dns_adamw(rate, project=None),
            stacked_protection if "biases" in settings else protection,
        )
        for name, settings in {
            "updates": {},
            "exact": {"project": "exact"},
            "stacked": {"biases": "stacked"},
        }.items()
    },
}
ONLY_HEAD = {"head": True, "other": False}
WRAPPERS: dict[str, Callable[[Any], optax.GradientTransformation]] = {
    "masked": lambda tx: optax.masked(tx, ONLY_HEAD),
    "masked by a function": lambda tx: optax.masked(tx, lambda _: ONLY_HEAD),
    "partition": lambda tx: optax.partition(
        {"protected": tx, "free": optax.sgd(1.0)}, {"head": "protected", "other": "free"}
    ),
    "partition of two that are protected": lambda tx: optax.partition(
        {"a": tx, "b": optax.chain(tx, optax.scale(0.5))}, {"head": "a", "other": "b"}
    ),
}


@pytest.fixture(params=sorted(CHAINS))
def strength(request: pytest.FixtureRequest) -> Strength:
    return CHAINS[request.param]


@pytest.mark.parametrize("wrapper", sorted(WRAPPERS))
def test_a_part_of_the_parameters_is_protected_and_the_rest_is_not(strength: Strength, wrapper: str) -> None:
    params, gradients = ({"head": tree(s)["head"], "other": tree(s + 9)["head"]} for s in (0, 1))
    tx = WRAPPERS[wrapper](strength.make(1e-2))
    before = tx.init(params)
    p = strength.protect(0, jnp.float32)
    state = jax.jit(replace_projectors)(before, {"head": p, "other": None})
    assert types(state) == types(before)
    updates, state = jax.jit(tx.update)(gradients, state, params)
    assert_nothing_protected_moves(updates)
    assert protected_fraction({**updates, "other": jax.tree.map(jnp.zeros_like, updates["other"])}, state) < 1e-5
    assert protected_fraction({**updates, "head": gradients["head"]}, state) > 1e-2
    if wrapper != "partition of two that are protected":
        sign = -1 if wrapper == "partition" else 1
        jax.tree.map(lambda a, b: np.testing.assert_array_equal(a, sign * b), updates["other"], gradients["other"])
    else:
        both = jax.jit(replace_projectors)(before, {"head": p, "other": p})
        updates, _ = jax.jit(tx.update)(gradients, both, params)
        for part in ("head", "other"):
            assert_nothing_protected_moves({"head": updates[part]})


def test_a_state_can_be_donated_and_the_projectors_stay_with_who_made_them(strength: Strength) -> None:
    """One projector serves kernel and bias, and maybe several layers: no two leaves of the state may share a buffer."""
    params, tx = {"head": tree(0)["head"], "other": tree(9)["head"]}, strength.make(1e-2)
    p = strength.protect(0, jnp.float32)
    state = replace_projectors(tx.init(params), {"head": p, "other": p})
    update = jax.jit(tx.update, donate_argnums=1)
    for _ in range(2):
        updates, state = update(params, state, params)
    assert_nothing_protected_moves(updates)
    state = replace_projectors(state, {"head": p, "other": p})
    updates, _ = update(params, state, params)
    assert_nothing_protected_moves(updates)
    assert not any(side.is_deleted() for side in p)


def test_projectors_in_float64_numpy_compile_nothing_again(strength: Strength) -> None:
    params, tx = tree(0), strength.make(1e-2)
    state, update = tx.init(params), jax.jit(tx.update)
    update(tree(1), state, params)
    p = NullSpaceProjector(*(np.asarray(side, np.float64) for side in strength.protect(0, jnp.float32)))
    updates, _ = update(tree(1), replace_projectors(state, {"head": p}), params)
    assert_nothing_protected_moves(updates)
    assert update._cache_size() == 1


@pytest.mark.parametrize("again", [copy.deepcopy, lambda state: pickle.loads(pickle.dumps(state))])
def test_copies_of_a_state_are_that_state(strength: Strength, again: Callable[[Any], Any]) -> None:
    params, tx = tree(0), strength.make(1e-2)
    state = replace_projectors(tx.init(params), {"head": strength.protect(0, jnp.float32)})
    assert types(again(state)) == types(state)
    expected, _ = tx.update(tree(1), state, params)
    jax.tree.map(np.testing.assert_array_equal, tx.update(tree(1), again(state), params)[0], expected)


def test_leaves_of_other_kinds_pass_to_the_plain_optimizer(strength: Strength) -> None:
    """Scalars, Python's among them, `None`, empty subtrees and leaves of three axes."""
    others = {"scale": jnp.ones(()), "number": 2.0, "none": None, "empty": {}, "cube": jnp.ones((2, 2, 2))}
    params, gradients = ({**tree(s), **others} for s in (0, 1))
    tx, plain = strength.make(1e-2), strength.plain(1e-2)
    nothing = {name: None for name in others}
    state = replace_projectors(tx.init(params), {"head": strength.protect(0, jnp.float32), **nothing})
    updates, state = tx.update(gradients, state, params)
    assert_nothing_protected_moves(updates)
    head = updates.pop("head")
    expected, _ = plain.update(gradients, plain.init(params), params)
    expected.pop("head")
    assert jax.tree.structure(updates) == jax.tree.structure(expected)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), updates, expected)
    assert np.isfinite(protected_fraction({**updates, "head": head}, state))


def test_no_parameters_at_all_are_no_problem(strength: Strength) -> None:
    tx = strength.make(1e-2)
    assert tx.update({}, tx.init({}), {})[0] == {}


def test_projectors_may_be_replaced_inside_a_scan_that_recomputes_its_forward_pass(strength: Strength) -> None:
    params, tx = tree(0), strength.make(1e-2)
    p = {"head": strength.protect(0, jnp.float32)}

    @jax.checkpoint
    def loss(params: Any) -> jax.Array:
        return sum(jnp.sum(jnp.sin(leaf)) for leaf in jax.tree.leaves(params))

    def step(carry: Any, number: jax.Array) -> Any:
        params, state = carry
        state = jax.lax.cond(number == 2, lambda: replace_projectors(tx.init(params), p), lambda: state)
        updates, state = tx.update(jax.grad(loss)(params), state, params)
        return (optax.apply_updates(params, updates), state), updates

    updates = jax.jit(lambda carry: jax.lax.scan(step, carry, jnp.arange(4))[1])((params, tx.init(params)))
    at = lambda number: jax.tree.map(lambda leaf: leaf[number], updates)  # noqa: E731
    for number in (0, 1):
        with pytest.raises(AssertionError):
            assert_nothing_protected_moves(at(number), 1e-2)
    for number in (2, 3):
        assert_nothing_protected_moves(at(number))
