"""What protected_fraction says of several states, of half precision and of what is not finite."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from cmcl_jax import NullSpaceProjector, dual_null_space, protected_fraction, replace_projectors
from cmcl_jax.null_space.rotation import in_rotated_coordinates
from cmcl_jax.null_space.stacking import stack_biases
from tests.optax_acceptance.company import STRENGTHS, WIDTHS, protection, stacked_protection, tree

HALF = ("float16", "bfloat16")


def leafwise_part(head: Any, seed: int = 0) -> float:
    """`‖P_in ΔK P_out‖` and `‖Δb P_out‖` together, in float64."""
    p = [np.asarray(side, np.float64) for side in protection(seed, jnp.float32)]
    kernel, bias = (np.asarray(head[name], np.float64) for name in ("kernel", "bias"))
    return float(np.hypot(np.linalg.norm(p[0] @ kernel @ p[1]), np.linalg.norm(bias @ p[1])))


def size(updates: Any) -> float:
    return float(np.sqrt(sum(np.sum(np.asarray(leaf, np.float64) ** 2) for leaf in jax.tree.leaves(updates))))


@pytest.mark.parametrize("forms", [dual_null_space, lambda: in_rotated_coordinates(optax.identity())])
def test_states_that_protect_the_same_count_once(forms: Any) -> None:
    updates, tx = tree(1), optax.chain(dual_null_space(), optax.scale_by_adam(), forms())
    state = replace_projectors(tx.init(tree(0)), {"head": protection()})
    fraction = float(protected_fraction(updates, state))
    assert fraction == pytest.approx(leafwise_part(updates["head"]) / size(updates), rel=1e-5)
    emitted, state = tx.update(updates, state, tree(0))
    assert protected_fraction(emitted, state) < 1e-6


def test_of_states_that_protect_different_things_the_one_that_moves_more_counts() -> None:
    updates, params = tree(1), tree(0)
    states = tuple(replace_projectors(dual_null_space().init(params), {"head": protection(seed)}) for seed in (0, 1))
    p = [[np.asarray(side, np.float64) for side in protection(seed)] for seed in (0, 1)]
    kernel, bias = (np.asarray(updates["head"][name], np.float64) for name in ("kernel", "bias"))
    of_kernel = max(np.linalg.norm(p_in @ kernel @ p_out) for p_in, p_out in p)
    of_bias = max(np.linalg.norm(bias @ p_out) for _, p_out in p)
    expected = np.hypot(of_kernel, of_bias) / size(updates)
    for order in (states, states[::-1]):
        assert float(protected_fraction(updates, order)) == pytest.approx(expected, rel=1e-5)


def test_parts_of_a_partition_add_up() -> None:
    """One protects its head leafwise, the other with stacked biases."""
    params, updates = ({"leafwise": tree(s)["head"], "stacked": tree(s + 2)["head"]} for s in (0, 1))
    groups = {"leafwise": dual_null_space(), "stacked": stack_biases(dual_null_space())}
    tx = optax.partition(groups, {"leafwise": "leafwise", "stacked": "stacked"})
    before = tx.init(params).inner_states
    state = {
        "leafwise": replace_projectors(before["leafwise"], {"leafwise": protection(), "stacked": None}),
        "stacked": replace_projectors(before["stacked"], {"leafwise": None, "stacked": stacked_protection()}),
    }
    matrix = np.vstack([updates["stacked"]["kernel"], updates["stacked"]["bias"]]).astype(np.float64)
    p_in, p_out = (np.asarray(side, np.float64) for side in stacked_protection())
    expected = np.hypot(leafwise_part(updates["leafwise"]), np.linalg.norm(p_in @ matrix @ p_out)) / size(updates)
    assert float(protected_fraction(updates, state)) == pytest.approx(expected, rel=1e-5)
    after, _ = tx.update(updates, optax.transforms.PartitionState(state), params)
    assert protected_fraction(after, state) < 1e-6


@pytest.mark.parametrize("scale", [1e-4, 1.0, 1e3])
@pytest.mark.parametrize("dtype", HALF)
@pytest.mark.parametrize("strength", sorted(STRENGTHS))
def test_half_precision_neither_under_nor_overflows(strength: str, dtype: str, scale: float) -> None:
    """The squares of 1e-4 and of 1e3 are none that float16 has."""
    tx = STRENGTHS[strength].make(1e-2)
    state = replace_projectors(tx.init(tree(0)), {"head": STRENGTHS[strength].protect(0, jnp.float32)})
    updates = jax.tree.map(lambda leaf: leaf * scale, tree(1))
    rounded = jax.tree.map(lambda leaf: leaf.astype(dtype), updates)
    fraction = protected_fraction(rounded, state)
    assert fraction.dtype == jnp.float32
    assert float(fraction) == pytest.approx(float(protected_fraction(updates, state)), rel=1e-2)
    assert float(fraction) > 0.1


@pytest.mark.parametrize("wrong", [np.nan, np.inf])
def test_updates_that_are_not_finite_have_no_fraction(wrong: float) -> None:
    tx, updates = dual_null_space(), tree(1)
    state = replace_projectors(tx.init(tree(0)), {"head": protection()})
    updates["head"]["bias"] = updates["head"]["bias"].at[0].set(wrong)
    assert np.isnan(protected_fraction(updates, state))


def test_a_projector_of_one_side_protects_all_of_the_other() -> None:
    tx, updates = dual_null_space(), tree(1)
    p = protection()
    state = replace_projectors(
        tx.init(tree(0)), {"head": {"kernel": NullSpaceProjector(None, p.outputs), "bias": None}}
    )
    kernel = np.asarray(updates["head"]["kernel"], np.float64)
    assert kernel.shape == WIDTHS
    expected = np.linalg.norm(kernel @ np.asarray(p.outputs, np.float64)) / size(updates)
    assert float(protected_fraction(updates, state)) == pytest.approx(expected, rel=1e-5)
