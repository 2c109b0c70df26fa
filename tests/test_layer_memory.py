"""What is captured of a network's layers, against derivatives by hand and by finite differences."""

import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jaxtyping import Array, PyTree

from cmcl_jax.layer_memory import (
    LayerRows,
    capture_layers,
    empty_layer_memories,
    layer_projectors,
    moment_rows,
    remember_layers,
    update_layer_memories,
)

pytestmark = pytest.mark.usefixtures("x64")


class Mlp(nn.Module):
    """One hidden layer and a layer norm, which no dense layer covers."""

    hidden: int = 5
    width: int = 3

    @nn.compact
    def __call__(self, x: Array) -> Array:
        hidden = nn.LayerNorm(param_dtype=x.dtype)(jnp.tanh(nn.Dense(self.hidden, param_dtype=x.dtype)(x)))
        out: Array = nn.Dense(self.width, param_dtype=x.dtype)(hidden)
        return out


def normal(seed: int, *shape: int) -> Array:
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape))


def initialised(module: nn.Module, *inputs: Array) -> Any:
    """Variables with no bias or scale at its special initial value."""
    variables = jax.jit(module.init)(jax.random.key(0), *inputs)
    return jax.tree.map(lambda leaf: leaf + 0.1 * normal(leaf.size, *leaf.shape), variables)


@jax.jit
def remembered(rows: PyTree) -> PyTree:
    return update_layer_memories(empty_layer_memories(rows), rows)


@functools.partial(jax.jit, static_argnums=0)
def capture(module: nn.Module, variables: PyTree, x: Array, scores: Array | None) -> PyTree:
    return capture_layers(module, variables, x, scores=scores)


def test_inputs_and_directions_of_an_mlp_are_those_derived_by_hand() -> None:
    x, partners = normal(1, 4, 6), normal(2, 2, 3)
    mlp = nn.Sequential([nn.Dense(5, param_dtype=x.dtype), nn.tanh, nn.Dense(3, param_dtype=x.dtype)])
    variables = initialised(mlp, x)
    rows = capture_layers(mlp, variables, x, scores=partners)
    first, last = (jax.tree.map(np.asarray, variables["params"][f"layers_{i}"]) for i in (0, 2))
    hidden = np.tanh(np.asarray(x) @ first["kernel"] + first["bias"])
    np.testing.assert_array_equal(rows["layers_0"].inputs, x)
    np.testing.assert_allclose(rows["layers_2"].inputs, hidden, atol=1e-14)
    for j, z in enumerate(np.asarray(partners)):
        for i in range(4):
            jacobian = last["kernel"].T * (1 - hidden[i] ** 2)  # of z in what comes out of the first layer
            np.testing.assert_allclose(rows["layers_0"].directions[j, i], jacobian.T @ z, atol=1e-14)
            np.testing.assert_allclose(rows["layers_2"].directions[j, i], z, atol=1e-14)


def test_directions_are_the_derivatives_of_scores_in_every_kernel() -> None:
    """Finite differences: a kernel moved along ΔK moves score ij by x_i ΔK d_ij."""
    x, partners = normal(1, 4, 6), normal(2, 7, 3)
    mlp = Mlp()
    variables = initialised(mlp, x)
    rows = capture(mlp, variables, x, partners)
    assert rows["LayerNorm_0"] == {"scale": None, "bias": None}
    for name in ("Dense_0", "Dense_1"):
        change = normal(3, *variables["params"][name]["kernel"].shape)

        def scores(eps: float, name: str = name, change: Array = change) -> np.ndarray:
            layer = {**variables["params"][name], "kernel": variables["params"][name]["kernel"] + eps * change}
            return np.asarray(mlp.apply({"params": {**variables["params"], name: layer}}, x) @ partners.T)

        expected = np.einsum("id,de,jie->ij", rows[name].inputs, change, rows[name].directions)
        np.testing.assert_allclose((scores(1e-6) - scores(-1e-6)) / 2e-6, expected, atol=1e-8)


def test_factors_of_the_partner_moment_stand_for_any_number_of_partners() -> None:
    x, partners = normal(1, 4, 6), normal(2, 50, 3)
    mlp = Mlp()
    variables = initialised(mlp, x)
    moment = partners.T @ partners / 50
    all_partners, factors = (
        remembered(capture(mlp, variables, x, scores)) for scores in (partners, moment_rows(moment))
    )
    for name in ("Dense_0", "Dense_1"):
        np.testing.assert_allclose(factors[name].outputs.moment, all_partners[name].outputs.moment, atol=1e-13)
        assert (factors[name].outputs.rows, all_partners[name].outputs.rows) == (4 * 3, 4 * 50)


def test_scores_may_be_a_function_of_the_output() -> None:
    x, partners = normal(1, 4, 6), normal(2, 2, 3)
    variables = initialised(Mlp(), x)
    rows = lambda scores: jax.jit(lambda: capture_layers(Mlp(), variables, x, scores=scores))()  # noqa: E731
    directions = lambda scores: rows(scores)["Dense_0"].directions  # noqa: E731
    np.testing.assert_allclose(directions(lambda z: z @ partners.T), directions(partners), atol=1e-14)
    np.testing.assert_allclose(directions(lambda z: (z @ partners.T)[:, 1]), directions(partners[1:]), atol=1e-14)
    unit = lambda z: z / jnp.linalg.norm(z, axis=-1, keepdims=True)  # noqa: E731
    of_cosines = rows(lambda z: unit(z) @ partners.T)
    cosines, last = of_cosines["Dense_0"].directions, np.asarray(of_cosines["Dense_1"].directions)
    outputs = np.asarray(Mlp().apply(variables, x))
    np.testing.assert_allclose(np.einsum("kio,io->ki", last, outputs), 0, atol=1e-14)  # cosines know no length
    assert np.abs(cosines).max() > 1e-3


def test_batches_give_what_all_rows_give_at_once_and_padding_counts_for_nothing() -> None:
    x, partners = normal(1, 10, 6), normal(2, 4, 3)
    variables = initialised(Mlp(), x)

    @jax.jit
    def see(memories: PyTree, batch: Array, valid: Array) -> PyTree:
        return update_layer_memories(memories, capture_layers(Mlp(), variables, batch, scores=partners), valid)

    whole = remembered(capture(Mlp(), variables, x, partners))
    parts = see(jax.tree.map(jnp.zeros_like, whole), x[:6], jnp.arange(6) < 6)
    parts = see(parts, jnp.concatenate([x[6:], 9 + x[:2]]), jnp.arange(6) < 4)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-13), parts, whole)


def test_one_score_at_a_time_gives_the_same_memories() -> None:
    x, partners = normal(1, 10, 6), normal(2, 4, 3)
    variables, valid = initialised(Mlp(), x), jnp.arange(10) < 7
    empty = empty_layer_memories(jax.eval_shape(lambda: capture_layers(Mlp(), variables, x, scores=partners)))
    remember = jax.jit(lambda memories: remember_layers(memories, Mlp(), variables, x, scores=partners, valid=valid))
    whole = remembered(capture(Mlp(), variables, x[:7], partners))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-13), remember(empty), whole)


def test_attention_and_tokens_are_captured_in_the_layout_of_the_kernels() -> None:
    x = normal(1, 2, 4, 6)
    attention = nn.MultiHeadDotProductAttention(num_heads=3, qkv_features=6, param_dtype=x.dtype)
    variables = initialised(attention, x)
    rows = jax.jit(lambda: capture_layers(attention, variables, x, scores=lambda z: z.sum(1)))()
    assert {name: tuple(side.shape for side in layer) for name, layer in rows.items()} == {
        "query": ((8, 6), (6, 8, 6)),
        "key": ((8, 6), (6, 8, 6)),
        "value": ((8, 6), (6, 8, 6)),
        "out": ((8, 6), (6, 8, 6)),
    }
    change = normal(3, 3, 2, 6)
    moved = {**variables["params"], "out": {**variables["params"]["out"]}}
    moved["out"]["kernel"] = moved["out"]["kernel"] + change  # the output is linear in its last kernel
    apply = jax.jit(attention.apply)
    difference = (apply({"params": moved}, x) - apply(variables, x)).sum(1)
    out = rows["out"]
    expected = np.einsum("rd,de,kre->kr", out.inputs, change.reshape(6, 6), out.directions).reshape(6, 2, 4).sum(2)
    np.testing.assert_allclose(difference, expected.T, atol=1e-12)
    one_token = jnp.zeros((2, 4), bool).at[0, 1].set(True)
    seen = update_layer_memories(empty_layer_memories(rows), rows, one_token)["query"]
    np.testing.assert_allclose(seen.inputs.moment, np.outer(x[0, 1], x[0, 1]), atol=1e-14)


def test_a_layer_that_is_called_twice_has_the_rows_of_both_calls() -> None:
    class Twice(nn.Module):
        @nn.compact
        def __call__(self, x: Array) -> Array:
            layer = nn.Dense(3, param_dtype=x.dtype)
            out: Array = layer(jnp.tanh(layer(x)))
            return out

    x = normal(1, 4, 3)
    variables = initialised(Twice(), x)
    layer = capture(Twice(), variables, x, jnp.eye(3))["Dense_0"]
    change = normal(2, 3, 3)
    apply = lambda eps: Twice().apply(  # noqa: E731
        {"params": {"Dense_0": {**variables["params"]["Dense_0"], "kernel": kernel + eps * change}}}, x
    )
    kernel = variables["params"]["Dense_0"]["kernel"]
    expected = np.einsum("rd,de,kre->kr", layer.inputs, change, layer.directions).reshape(3, 2, 4).sum(1)
    np.testing.assert_allclose((apply(1e-6) - apply(-1e-6)) / 2e-6, expected.T, atol=1e-8)


def test_layers_without_scores_are_protected_one_sided_and_unseen_ones_not_at_all() -> None:
    x = normal(1, 4, 6)
    rows = capture(Mlp(), initialised(Mlp(), x), x, None)
    assert rows["Dense_0"].directions.shape == (0, 4, 5)
    found = layer_projectors(remembered(rows), (1e-10, 1e-10))
    np.testing.assert_array_equal(found["Dense_0"].outputs, np.eye(5))
    np.testing.assert_allclose(found["Dense_0"].inputs @ x.T, x.T, atol=1e-13)
    assert found["LayerNorm_0"] == {"scale": None, "bias": None}
    for stacked in (False, True):
        nothing = layer_projectors(empty_layer_memories(rows), (1e-10, 1e-10), stacked=stacked)
        assert all(not leaf.any() for leaf in jax.tree.leaves(nothing))


def test_stacked_input_projectors_are_onto_the_rows_with_a_one() -> None:
    x = normal(1, 4, 6)
    memories = remembered(capture(Mlp(), initialised(Mlp(), x), x, None))
    rows = np.concatenate([x, np.ones((4, 1))], axis=1)
    expected = np.linalg.pinv(rows) @ rows
    np.testing.assert_allclose(
        layer_projectors(memories, (1e-10, 1e-10), stacked=True)["Dense_0"].inputs, expected, atol=1e-12
    )


def test_what_cannot_be_captured_is_refused() -> None:
    x = normal(1, 4, 6)
    with pytest.raises(ValueError, match=r"LayerNorm calls no nn.Dense"):
        capture_layers(nn.LayerNorm(), nn.LayerNorm().init(jax.random.key(0), x), x)
    variables = initialised(Mlp(), x)
    with pytest.raises(ValueError, match=r"scores has shape \(2, 4\).*\(k, 3\)"):
        capture_layers(Mlp(), variables, x, scores=jnp.ones((2, 4)))
    batched = nn.DenseGeneral(3, batch_dims=(0,), axis=-1)
    with pytest.raises(ValueError, match=r"batch_dims=\(0,\)"):
        capture_layers(batched, batched.init(jax.random.key(0), x), x)
    rows = {"layer": LayerRows(x, jnp.zeros((0, 4, 2)))}
    with pytest.raises(ValueError, match=r"valid has shape \(3,\).*4 rows"):
        update_layer_memories(empty_layer_memories(rows), rows, jnp.ones(3, bool))
