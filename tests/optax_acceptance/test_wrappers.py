"""Which wrappers and which later transforms keep the promise, and which break it: the list of docs/optax.md."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from cmcl_jax import NullSpaceProjector, dual_null_space, replace_projectors
from tests.optax_acceptance.company import (
    WIDTHS,
    assert_nothing_protected_moves,
    difference,
    moved,
    old_rows,
    onto,
    protection,
    tree,
)

Transform = optax.GradientTransformation


def dns_adam(rate: Any = 1e-2) -> Transform:
    return optax.chain(optax.adam(rate), dual_null_space())


def then(*transforms: Transform) -> Callable[[], Transform]:
    return lambda: optax.chain(dns_adam(), *transforms)


KEEP: dict[str, Callable[[], Transform]] = {
    "scale": then(optax.scale(0.5)),
    "a schedule": then(optax.scale_by_schedule(optax.warmup_cosine_decay_schedule(0.1, 1.0, 2, 6))),
    "clip_by_global_norm": then(optax.clip_by_global_norm(1e-2)),
    "normalize_by_update_norm": then(optax.normalize_by_update_norm()),
    "ema": then(optax.ema(0.9)),
    "trace": then(optax.trace(0.9)),
    "scale_by_trust_ratio": then(optax.scale_by_trust_ratio()),
    "zero_nans": then(optax.zero_nans()),
    "reduce_on_plateau": then(optax.contrib.reduce_on_plateau(patience=1, factor=0.5)),
    "schedule_free": lambda: optax.contrib.schedule_free(dns_adam(), 1e-2, b1=0.9),
    "after schedule_free": lambda: optax.chain(optax.contrib.schedule_free_adamw(1e-2), dual_null_space()),
    "sam, after whole periods": lambda: optax.contrib.sam(dns_adam(), optax.sgd(0.05), sync_period=2),
}
BREAK: dict[str, Callable[[], Transform]] = {
    "scale_by_sign": then(optax.scale_by_sign()),
    "clip": then(optax.clip(5e-3)),
    "adaptive_grad_clip": then(optax.adaptive_grad_clip(1e-3)),
    "add_decayed_weights": then(optax.add_decayed_weights(1e-3)),
    "add_noise": then(optax.add_noise(1e-3, 0.5, key=0)),
    "centralize": then(optax.centralize()),
    "keep_params_nonnegative": then(optax.keep_params_nonnegative()),
    "mechanize": lambda: optax.contrib.mechanize(dns_adam()),
}


def change(tx: Transform, tx_needs_a_value: bool = False, steps: int = 6) -> Any:
    """How far the parameters go in a few steps that protect something."""
    params = start = tree(0)
    state = replace_projectors(tx.init(params), {"head": protection()})
    extra = {"value": 1.0} if tx_needs_a_value else {}
    update = jax.jit(partial(tx.update, **extra))
    for step in range(steps):
        updates, state = update(tree(step + 1), state, params)
        params = optax.apply_updates(params, updates)
    return difference(params, start)


@pytest.mark.parametrize("name", sorted(KEEP))
def test_these_keep_it(name: str) -> None:
    assert_nothing_protected_moves(change(KEEP[name](), name == "reduce_on_plateau"))


@pytest.mark.parametrize("name", sorted(BREAK))
def test_these_break_it(name: str) -> None:
    head = change(BREAK[name]())["head"]
    assert moved(head["kernel"], head["bias"]) > 1e-3


def test_lookahead_keeps_it_for_its_slow_parameters() -> None:
    tx = optax.lookahead(dns_adam(), sync_period=2, slow_step_size=0.5)
    start = params = optax.LookaheadParams.init_synced(tree(0))
    state = replace_projectors(tx.init(params), {"head": protection()})
    for step in range(4):
        updates, state = jax.jit(tx.update)(tree(step + 1), state, params)
        params = optax.apply_updates(params, updates)
    assert_nothing_protected_moves(difference(params.slow, start.slow))


CARRY_ON: dict[str, Callable[[], Transform]] = {
    "trace": then(optax.trace(0.9)),
    "ema": then(optax.ema(0.9)),
    "schedule_free": lambda: optax.contrib.schedule_free(dns_adam(), 1e-2, b1=0.9),
}


@pytest.mark.parametrize("afresh", [True, False], ids=["started afresh", "carried on"])
@pytest.mark.parametrize("name", sorted(CARRY_ON))
def test_what_averages_after_it_must_start_afresh_with_new_projectors(name: str, afresh: bool) -> None:
    """Otherwise it goes on with updates of before, which were free then and are not now."""
    tx, params = CARRY_ON[name](), tree(0)
    state = replace_projectors(tx.init(params), {"head": protection(1)})
    update = jax.jit(tx.update)
    for step in range(3):
        updates, state = update(tree(step), state, params)
        params = optax.apply_updates(params, updates)
    state = replace_projectors(tx.init(params) if afresh else state, {"head": protection()})
    updates, _ = update(tree(4), state, params)
    distance = moved(updates["head"]["kernel"], updates["head"]["bias"])
    assert distance < 1e-5 if afresh else distance > 1e-3


def test_masked_and_partition_protect_their_part_and_leave_the_rest_to_others() -> None:
    params, gradients = ({"head": tree(s)["head"], "other": tree(s + 9)["head"]} for s in (0, 1))
    free, _ = optax.adam(1e-2).update(gradients, optax.adam(1e-2).init(params))
    only_head = {"head": True, "other": False}
    chains = {
        "masked": optax.chain(optax.adam(1e-2), optax.masked(dual_null_space(), only_head)),
        "masked by a function": optax.chain(optax.adam(1e-2), optax.masked(dual_null_space(), lambda _: only_head)),
        "partition": optax.partition(
            {"protected": dns_adam(), "free": optax.adam(1e-2)}, {"head": "protected", "other": "free"}
        ),
        "nested chains": optax.chain(optax.chain(optax.identity(), optax.chain(dns_adam())), optax.identity()),
    }
    for tx in chains.values():
        state = replace_projectors(tx.init(params), {"head": protection(), "other": None})
        updates, _ = jax.jit(tx.update)(gradients, state, params)
        assert_nothing_protected_moves(updates)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), updates["other"], free["other"])


def test_freezing_a_part_and_protecting_the_other() -> None:
    params = {"head": tree(0)["head"], "backbone": tree(9)["head"]}
    tx = optax.partition({"train": dns_adam(), "freeze": optax.set_to_zero()}, {"head": "train", "backbone": "freeze"})
    state = replace_projectors(tx.init(params), {"head": protection(), "backbone": None})
    updates, _ = tx.update(params, state, params)
    assert_nothing_protected_moves(updates)
    assert not any(leaf.any() for leaf in jax.tree.leaves(updates["backbone"]))


def test_multisteps_that_skips_a_step_keeps_what_it_has() -> None:
    steps = optax.MultiSteps(dns_adam(), 2, should_skip_update_fn=optax.skip_not_finite)
    params = tree(0)
    state = replace_projectors(steps.init(params), {"head": protection()})
    bad = jax.tree.map(lambda leaf: leaf * jnp.nan, params)
    update = jax.jit(steps.update)
    for gradient in (tree(1), bad, tree(2)):
        updates, state = update(gradient, state, params)
    mean = jax.tree.map(lambda a, b: (a + b) / 2, tree(1), tree(2))
    tx = dns_adam()
    expected, _ = tx.update(mean, replace_projectors(tx.init(params), {"head": protection()}), params)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), updates, expected)
    assert_nothing_protected_moves(updates)


@pytest.mark.parametrize("steps", [1, 30])
def test_bfloat16_gradients_of_float32_masters_leak_no_more_than_float32(steps: int) -> None:
    """Gradients come in bfloat16 and are cast once, before the optimizer: all that is kept is float32."""
    start = masters = tree(0)
    tx = dns_adam()
    state = replace_projectors(tx.init(masters), {"head": protection()})

    @jax.jit
    def step(masters: Any, state: Any, gradients: Any) -> Any:
        gradients = optax.tree.cast(gradients, jnp.float32)
        updates, state = tx.update(gradients, state, masters)
        return optax.apply_updates(masters, updates), state

    for number in range(steps):
        masters, state = step(masters, state, tree(number + 1, jnp.bfloat16))
    assert {leaf.dtype for leaf in jax.tree.leaves((masters, state)) if leaf.ndim} == {
        jnp.dtype(jnp.float32),
        jnp.dtype(bool),
    }
    assert_nothing_protected_moves(difference(masters, start))


def test_updates_in_bfloat16_round_out_of_the_null_space_by_three_digits() -> None:
    """The projection itself is in float32; what it gives is rounded to the dtype of the update."""
    tx, params = dns_adam(), tree(0, jnp.bfloat16)
    state = replace_projectors(tx.init(params), {"head": protection()})
    updates, _ = tx.update(tree(1, jnp.bfloat16), state, params)
    assert updates["head"]["kernel"].dtype == jnp.bfloat16
    assert state[1].projectors["head"]["kernel"].inputs.vectors.dtype == jnp.float32
    assert 1e-5 < moved(updates["head"]["kernel"], updates["head"]["bias"]) < 1e-2


def test_a_learnable_scale_passes_untouched_and_moves_no_ranking() -> None:
    """A temperature has no matrix; it multiplies all old scores alike, by what the optimizer makes of it."""
    params = {**tree(0), "log_scale": jnp.zeros(())}
    gradients = {**tree(1), "log_scale": jnp.ones(())}
    tx = dns_adam()
    state = replace_projectors(tx.init(params), {"head": protection(), "log_scale": None})
    updates, _ = tx.update(gradients, state, params)
    assert updates["log_scale"] == pytest.approx(-1e-2, rel=1e-4)
    inputs, outputs = old_rows()

    def scores(params: Any) -> np.ndarray:
        z = inputs @ np.asarray(params["head"]["kernel"]) + np.asarray(params["head"]["bias"])
        return np.exp(params["log_scale"]) * z @ outputs.T

    after = optax.apply_updates(params, updates)
    np.testing.assert_allclose(scores(after), np.exp(-1e-2) * scores(params), rtol=1e-4)


def test_projectors_of_one_side_freeze_what_they_cover() -> None:
    inputs = onto(old_rows()[0])
    tx, params = dns_adam(), tree(0)
    state = replace_projectors(tx.init(params), {"head": NullSpaceProjector(jnp.asarray(inputs, jnp.float32), None)})
    updates, _ = tx.update(tree(1), state, params)
    assert np.linalg.norm(old_rows()[0] @ updates["head"]["kernel"]) < 1e-6
    assert not np.any(updates["head"]["bias"]) and np.linalg.norm(updates["head"]["kernel"]) > 0
    assert updates["head"]["kernel"].shape == WIDTHS
