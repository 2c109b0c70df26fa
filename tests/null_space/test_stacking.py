"""Kernel and bias as one matrix: the tight form protects what `[x, 1]` spans and nothing else."""

from typing import Any

import flax.core
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cmcl_jax import NullSpaceProjector, dns_adamw, dual_null_space, replace_projectors
from cmcl_jax.null_space.rotation import in_rotated_coordinates
from cmcl_jax.null_space.stacking import StackedBiasesState, stack_biases

D_IN, D_OUT = 4, 3


def onto(rows: np.ndarray) -> jax.Array:
    """Projector onto a row space of any rank, by QR with the rank from numpy, without the library's own."""
    rank = np.linalg.matrix_rank(rows)
    _, _, v = np.linalg.svd(rows)
    return jnp.asarray(v[:rank].T @ v[:rank])


def with_one(x: np.ndarray) -> np.ndarray:
    return np.hstack([x, np.ones((len(x), 1))])


def projected(layer: Any, x: np.ndarray, z: np.ndarray, form: str) -> Any:
    """A layer's update after the stacked or the leafwise projection of old inputs and partner outputs."""
    tx, rows = (stack_biases(dual_null_space()), with_one(x)) if form == "stacked" else (dual_null_space(), x)
    state = replace_projectors(tx.init({"l": layer}), {"l": NullSpaceProjector(onto(rows), onto(z))})
    return tx.update({"l": layer}, state)[0]["l"]


def free_dimensions(x: np.ndarray, z: np.ndarray, form: str) -> int:
    """Rank of the projection, as the trace of the linear map: one update for each unit vector."""
    size = (D_IN + 1) * D_OUT
    units = jnp.eye(size).reshape(size, D_IN + 1, D_OUT)
    layers = {"kernel": units[:, :-1], "bias": units[:, -1]}
    out = jax.vmap(lambda layer: projected(layer, x, z, form))(layers)
    flat = np.concatenate([np.asarray(out["kernel"]), np.asarray(out["bias"])[:, None]], axis=1).reshape(size, size)
    trace = float(np.trace(flat))
    assert trace == pytest.approx(round(trace), abs=1e-9)
    return round(trace)


def scores_moved(layer: Any, x: np.ndarray, z: np.ndarray) -> float:
    return float(np.abs((x @ np.asarray(layer["kernel"]) + np.asarray(layer["bias"])) @ z.T).max())


def draw(seed: int, rank_x: int = 2, rank_z: int = 2, n: int = 6) -> tuple[Any, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    layer = {"kernel": jnp.asarray(rng.normal(size=(D_IN, D_OUT))), "bias": jnp.asarray(rng.normal(size=D_OUT))}
    of_rank = lambda rank, width: rng.normal(size=(n, rank)) @ rng.normal(size=(rank, width))  # noqa: E731
    return layer, of_rank(rank_x, D_IN), of_rank(rank_z, D_OUT)


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), rank_x=st.integers(1, D_IN), rank_z=st.integers(1, D_OUT))
def test_old_scores_stay_and_the_tight_form_is_never_more_conservative(seed: int, rank_x: int, rank_z: int) -> None:
    with jax.enable_x64(True):
        layer, x, z = draw(seed, rank_x, rank_z, n=3)  # up to three rows: [x, 1] may or may not have a rank more
        rank_z = int(np.linalg.matrix_rank(z))
        size, rank_1 = (D_IN + 1) * D_OUT, int(np.linalg.matrix_rank(with_one(x)))
        for form in ("stacked", "leafwise"):
            assert scores_moved(projected(layer, x, z, form), x, z) < 1e-11 * (1 + np.abs(x).max() * np.abs(z).max())
        assert free_dimensions(x, z, "stacked") == size - rank_1 * rank_z
        leafwise = free_dimensions(x, z, "leafwise")
        assert leafwise == size - (int(np.linalg.matrix_rank(x)) + 1) * rank_z
        assert leafwise <= size - rank_1 * rank_z


def test_both_forms_are_one_if_the_ones_are_no_combination_of_the_inputs(x64: None) -> None:
    layer, x, z = draw(0)
    assert np.linalg.matrix_rank(with_one(x)) == np.linalg.matrix_rank(x) + 1
    forms = [projected(layer, x, z, form) for form in ("stacked", "leafwise")]
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-13), *forms)


def test_the_tight_form_has_more_freedom_if_they_are(x64: None) -> None:
    layer, x, z = draw(0, rank_x=D_IN, n=2)  # two rows: [x, 1] has their rank, 2, and leafwise protects 3
    assert free_dimensions(x, z, "stacked") == free_dimensions(x, z, "leafwise") + np.linalg.matrix_rank(z)
    stacked, leafwise = (projected(layer, x, z, form) for form in ("stacked", "leafwise"))
    assert scores_moved(stacked, x, z) < 1e-13
    assert np.linalg.norm(stacked["bias"] - leafwise["bias"]) > 0.1


def test_it_protects_what_x_and_one_span_together_and_no_more(x64: None) -> None:
    _, x, z = draw(1, n=2)
    rng = np.random.default_rng(2)
    basis, _ = np.linalg.qr(with_one(x).T, mode="complete")
    orthogonal = basis[:, 2:] @ rng.normal(size=(3, D_OUT))  # answers nothing to [x, 1]
    as_layer = lambda m: {"kernel": jnp.asarray(m[:-1]), "bias": jnp.asarray(m[-1])}  # noqa: E731
    passed = projected(as_layer(orthogonal), x, z, "stacked")
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-13), passed, as_layer(orthogonal))
    spanned = projected(as_layer(with_one(x).T @ rng.normal(size=(2, len(z))) @ z), x, z, "stacked")
    assert max(np.abs(leaf).max() for leaf in spanned.values()) < 1e-12
    jax.tree.map(lambda leaf: np.testing.assert_array_less(0.1, np.abs(leaf).max()), as_layer(orthogonal))


def test_blocks_of_the_stacked_projector_do_not_keep_old_scores(x64: None) -> None:
    layer, x, z = draw(3, n=2)
    p_in, p_out = np.asarray(onto(with_one(x))), np.asarray(onto(z))
    kernel, bias = np.asarray(layer["kernel"]), np.asarray(layer["bias"])
    sliced = {
        "kernel": kernel - p_in[:-1, :-1] @ kernel @ p_out,
        "bias": bias - p_in[-1, -1] * bias @ p_out,
    }
    assert scores_moved(sliced, x, z) > 0.01 * scores_moved(layer, x, z)
    assert scores_moved(projected(layer, x, z, "stacked"), x, z) < 1e-13


def test_rotated_coordinates_of_stacked_layers_keep_old_scores(x64: None) -> None:
    layer, x, z = draw(4, n=2)
    tx = stack_biases(in_rotated_coordinates(optax.adamw(1e-2, weight_decay=0.1)))
    state = replace_projectors(tx.init({"l": layer}), {"l": NullSpaceProjector(onto(with_one(x)), onto(z))})
    moved = layer
    for step in range(3):
        updates, state = tx.update({"l": draw(step)[0]}, state, {"l": moved})
        moved = optax.apply_updates(moved, updates["l"])
    difference = jax.tree.map(jnp.subtract, moved, layer)
    assert scores_moved(difference, x, z) < 1e-14
    assert np.linalg.norm(difference["kernel"]) > 1e-2


def test_without_projectors_dns_adamw_with_stacked_biases_is_adamw_bit_for_bit() -> None:
    layer = jax.tree.map(lambda leaf: leaf.astype(jnp.float32), draw(5)[0])
    stacked, plain = dns_adamw(1e-2, biases="stacked"), dns_adamw(1e-2, project=None)
    updates, _ = stacked.update({"l": layer}, stacked.init({"l": layer}), {"l": layer})
    expected, _ = plain.update({"l": layer}, plain.init({"l": layer}), {"l": layer})
    jax.tree.map(np.testing.assert_array_equal, updates, expected)


def test_layers_are_found_in_any_mapping_and_stacked_along_with_their_batch_axes() -> None:
    seen: list[Any] = []
    spy = optax.stateless(lambda updates, params=None: seen.append(updates) or updates)
    layers = {"kernel": jnp.ones((2, 3, 4)), "bias": jnp.zeros((2, 4))}
    params = {"a": {"b": layers}, "norm": {"scale": jnp.ones(4), "bias": jnp.ones(4)}, "lone": jnp.ones(2)}
    for tree in (params, flax.core.freeze(params)):
        tx = stack_biases(spy)
        updates, state = tx.update(tree, tx.init(tree))
        assert isinstance(state, StackedBiasesState)
        jax.tree.map(np.testing.assert_array_equal, updates, tree)
        assert jax.tree.structure(updates) == jax.tree.structure(tree)
        assert seen[-1]["a"]["b"].shape == (2, 4, 4)
        np.testing.assert_array_equal(seen[-1]["a"]["b"][:, -1], 0)
        assert seen[-1]["norm"]["bias"].shape == seen[-1]["norm"]["scale"].shape == (4,)


def test_new_projectors_compile_nothing() -> None:
    layer, x, z = draw(6)
    layer = jax.tree.map(lambda leaf: leaf.astype(jnp.float32), layer)
    tx = dns_adamw(1e-2, biases="stacked")
    update, state = jax.jit(tx.update), tx.init({"l": layer})
    for factor in (1.0, 2.0):
        _, state = update({"l": layer}, state, {"l": layer})
        p = NullSpaceProjector(onto(with_one(factor * x)), onto(z))
        state = replace_projectors(state, {"l": p})
    assert update._cache_size() == 1


def test_what_cannot_be_stacked_is_named() -> None:
    with pytest.raises(ValueError, match=r"no layer, that is no mapping of exactly a kernel and a bias. Leave"):
        stack_biases(dual_null_space()).init({"weight": jnp.ones((2, 3)), "bias": jnp.ones(3)})
    with pytest.raises(ValueError, match=r"kernel of shape \(3, 2\) and a bias of shape \(3,\), where"):
        stack_biases(dual_null_space()).init({"kernel": jnp.ones((3, 2)), "bias": jnp.ones(3)})
    layer = {"l": {"kernel": jnp.ones((3, 2)), "bias": jnp.ones(2)}}
    state = stack_biases(dual_null_space()).init(layer)
    with pytest.raises(ValueError, match=r"inputs has shape \(3, 3\) where the parameters need \(4, 4\)"):
        replace_projectors(state, {"l": NullSpaceProjector(jnp.eye(3), jnp.eye(2))})
    with pytest.raises(ValueError, match=r"'stacked' does not go with project='exact'. Rotated coordinates .* mix"):
        dns_adamw(1e-3, project="exact", biases="stacked")
    with pytest.raises(ValueError, match=r"'stacked' takes kernels \(in, out\).*no dimension_numbers"):
        dns_adamw(1e-3, biases="stacked", dimension_numbers={})
    with pytest.raises(ValueError, match="biases must be leafwise, stacked or free, but it is 'none'"):
        dns_adamw(1e-3, biases="none")
