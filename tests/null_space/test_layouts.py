"""Kernels that are not (in, out): the projection is that of the matrix which the dimension numbers describe."""

import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from cmcl_jax import (
    NullSpaceProjector,
    WeightDimensionNumbers,
    dual_null_space,
    protected_fraction,
    replace_projectors,
)
from cmcl_jax.null_space.rotation import in_rotated_coordinates

# Of each layout: the shape, the dimension numbers, and by hand to (batch, d_in, d_out) and back.
LAYOUTS: dict[str, tuple[tuple[int, ...], WeightDimensionNumbers, Any, Any]] = {
    "dense": ((4, 3), WeightDimensionNumbers((0,), (1,)), lambda w: w[None], lambda m: m[0]),
    "torch": ((3, 4), WeightDimensionNumbers((1,), (0,)), lambda w: w.T[None], lambda m: m[0].T),
    "negative axes": ((3, 4), WeightDimensionNumbers((-1,), (-2,)), lambda w: w.T[None], lambda m: m[0].T),
    "convolution": (
        (2, 3, 2, 5),
        WeightDimensionNumbers((0, 1, 2), (3,)),
        lambda w: w.reshape(1, 12, 5),
        lambda m: m.reshape(2, 3, 2, 5),
    ),
    "torch convolution": (
        (5, 2, 2, 3),  # (out, in, h, w), its patches flattened as (h, w, in)
        WeightDimensionNumbers((2, 3, 1), (0,)),
        lambda w: np.einsum("oihw->hwio", w).reshape(1, 12, 5),
        lambda m: np.einsum("hwio->oihw", m.reshape(2, 3, 2, 5)),
    ),
    "query": (
        (6, 2, 3),
        WeightDimensionNumbers((0,), (1, 2)),
        lambda w: w.reshape(1, 6, 6),
        lambda m: m.reshape(6, 2, 3),
    ),
    "attention out": (
        (2, 3, 5),
        WeightDimensionNumbers((0, 1), (2,)),
        lambda w: w.reshape(1, 6, 5),
        lambda m: m.reshape(2, 3, 5),
    ),
    "stacked": ((3, 4, 5), WeightDimensionNumbers((1,), (2,)), lambda w: w, lambda m: m),
    "stacked last": (
        (4, 5, 3),
        WeightDimensionNumbers((0,), (1,)),
        lambda w: np.moveaxis(w, 2, 0),
        lambda m: np.moveaxis(m, 0, 2),
    ),
}


def in_rotated_sgd(**numbers: Any) -> optax.GradientTransformation:
    return in_rotated_coordinates(optax.sgd(0.1), **numbers)


def onto(rng: np.random.Generator, width: int, batch: tuple[int, ...] = ()) -> np.ndarray:
    """Projectors onto random row spaces of half the width, by QR, without an SVD."""
    q, _ = np.linalg.qr(rng.normal(size=(*batch, width, width // 2)))
    return q @ np.swapaxes(q, -1, -2)


@pytest.fixture(params=sorted(LAYOUTS))
def layout(request: pytest.FixtureRequest) -> tuple[tuple[int, ...], WeightDimensionNumbers, Any, Any]:
    return LAYOUTS[request.param]


def test_the_update_is_that_of_the_matrix_taken_out_by_hand(layout: Any, x64: None) -> None:
    shape, numbers, to_matrices, from_matrices = layout
    rng = np.random.default_rng(0)
    weight = rng.normal(size=shape)
    matrices = to_matrices(weight)
    batch, d_in, d_out = matrices.shape
    axes = (batch,) if len(numbers.inputs + numbers.outputs) < len(shape) else ()
    inputs, outputs = onto(rng, d_in, axes), onto(rng, d_out, axes)
    tx = dual_null_space(dimension_numbers=numbers)
    state = tx.init(jnp.asarray(weight))
    assert [side.vectors.shape for side in state.projectors] == [inputs.shape, outputs.shape]
    state = replace_projectors(state, NullSpaceProjector(jnp.asarray(inputs), jnp.asarray(outputs)))
    updates, after = jax.jit(tx.update)(jnp.asarray(weight), state)
    np.testing.assert_allclose(updates, from_matrices(matrices - inputs @ matrices @ outputs), atol=1e-13)
    assert np.abs(updates - weight).max() > 1e-2  # and not nothing
    assert protected_fraction(updates, after) < 1e-14
    assert protected_fraction(jnp.asarray(weight), after) > 0.1


@pytest.mark.parametrize("strength", [dual_null_space, in_rotated_sgd], ids=["updates", "exact"])
def test_the_fraction_of_a_square_weight_in_torch_layout_is_that_of_its_matrix(strength: Any, x64: None) -> None:
    rng = np.random.default_rng(12)
    weight, inputs, outputs = rng.normal(size=(6, 6)), onto(rng, 6), onto(rng, 6)
    tx = strength(dimension_numbers=WeightDimensionNumbers((1,), (0,)))
    state = tx.init(jnp.asarray(weight))
    state = replace_projectors(state, NullSpaceProjector(jnp.asarray(inputs), jnp.asarray(outputs)))
    expected = np.linalg.norm(inputs @ weight.T @ outputs) / np.linalg.norm(weight)
    assert abs(expected - np.linalg.norm(inputs @ weight @ outputs) / np.linalg.norm(weight)) > 1e-2
    for transformed in (lambda state: state, jax.jit(lambda state: state), lambda s: jax.tree.map(jnp.asarray, s)):
        found = jax.jit(protected_fraction)(jnp.asarray(weight), transformed(state))
        assert float(found) == pytest.approx(expected, rel=1e-12)


def test_a_fresh_state_passes_every_layout_bit_for_bit(layout: Any) -> None:
    shape, numbers, _, _ = layout
    weight = jnp.asarray(np.random.default_rng(1).normal(size=shape), jnp.bfloat16)
    tx = dual_null_space(dimension_numbers=numbers)
    updates, state = tx.update(weight, tx.init(weight))
    assert updates.dtype == jnp.bfloat16
    assert {leaf.dtype for leaf in jax.tree.leaves(state)} == {jnp.dtype(jnp.float32), jnp.dtype(bool)}
    np.testing.assert_array_equal(updates, weight)


def stacked(rng: np.random.Generator) -> tuple[dict[str, jax.Array], dict[str, WeightDimensionNumbers]]:
    layers = {"kernel": jnp.asarray(rng.normal(size=(3, 4, 6))), "bias": jnp.asarray(rng.normal(size=(3, 6)))}
    return layers, {"kernel": WeightDimensionNumbers((1,), (2,)), "bias": WeightDimensionNumbers((), (1,))}


@pytest.mark.parametrize("batch", [(3,), ()], ids=["a projector per layer", "one for all layers"])
def test_stacked_layers_are_what_a_loop_over_them_gives(batch: tuple[int, ...], x64: None) -> None:
    rng = np.random.default_rng(2)
    layers, numbers = stacked(rng)
    p = NullSpaceProjector(jnp.asarray(onto(rng, 4, batch)), jnp.asarray(onto(rng, 6, batch)))
    tx = dual_null_space(dimension_numbers=numbers)
    together, _ = tx.update(layers, replace_projectors(tx.init(layers), p))
    plain = dual_null_space()
    for i in range(3):
        layer = jax.tree.map(lambda leaf: leaf[i], layers)  # noqa: B023
        of_layer = jax.tree.map(lambda side: side[i] if batch else side, p)  # noqa: B023
        alone, _ = plain.update(layer, replace_projectors(plain.init(layer), of_layer))
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a[i], b, atol=1e-13), together, alone)  # noqa: B023


def test_one_sided_projection_of_stacked_layers_freezes_their_biases(x64: None) -> None:
    rng = np.random.default_rng(3)
    layers, numbers = stacked(rng)
    inputs = onto(rng, 4, (3,))
    tx = dual_null_space(dimension_numbers=numbers)
    updates, _ = tx.update(layers, replace_projectors(tx.init(layers), NullSpaceProjector(jnp.asarray(inputs), None)))
    np.testing.assert_allclose(inputs @ np.asarray(updates["kernel"]), 0, atol=1e-13)
    np.testing.assert_allclose(updates["bias"], 0, atol=1e-13)


def test_a_bias_of_heads_is_flattened_and_passes_if_biases_are_not_protected(x64: None) -> None:
    rng = np.random.default_rng(4)
    bias, outputs = rng.normal(size=(2, 3)), onto(rng, 6)
    numbers = WeightDimensionNumbers((), (0, 1))
    tx = dual_null_space(dimension_numbers=numbers)
    state = replace_projectors(tx.init(jnp.asarray(bias)), NullSpaceProjector(None, jnp.asarray(outputs)))
    updates, _ = tx.update(jnp.asarray(bias), state)
    np.testing.assert_allclose(updates, (bias.ravel() - bias.ravel() @ outputs).reshape(2, 3), atol=1e-13)
    assert np.linalg.norm(updates - bias) > 1e-2
    assert dual_null_space(protect_biases=False, dimension_numbers=numbers).init(bias).projectors is None


def test_a_convolution_answers_old_patches_as_before(x64: None) -> None:
    rng = np.random.default_rng(5)
    images, new_images = rng.normal(size=(2, 1, 4, 3, 2))
    kernel = jnp.asarray(rng.normal(size=(2, 2, 2, 5)))
    # One image has six windows (2, 2, 2), of eight numbers each.
    windows = [images[0, i : i + 2, j : j + 2].ravel() for i in range(3) for j in range(2)]
    q, _ = np.linalg.qr(np.stack(windows).T)
    assert q.shape == (8, 6)
    tx = dual_null_space(dimension_numbers=lambda _: {"kernel": WeightDimensionNumbers((0, 1, 2), (3,))})
    state = replace_projectors(tx.init({"kernel": kernel}), NullSpaceProjector(jnp.asarray(q @ q.T), None))
    update = tx.update({"kernel": jnp.asarray(rng.normal(size=kernel.shape))}, state)[0]["kernel"]
    answer = lambda x, k: jax.lax.conv_general_dilated(  # noqa: E731
        x, k, (1, 1), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC"), precision="highest"
    )
    np.testing.assert_allclose(answer(images, kernel + update), answer(images, kernel), atol=1e-12)
    assert np.abs(answer(new_images, update)).max() > 1e-1


def test_a_leaf_of_none_has_no_state_and_passes_bit_for_bit() -> None:
    rng = np.random.default_rng(6)
    draw = lambda *shape: jnp.asarray(rng.normal(size=shape), jnp.float32)  # noqa: E731
    params = {"embed": {"table": draw(7, 4), "scale": draw(4)}, "head": {"weight": draw(6, 4)}}
    numbers = {"embed": None, "head": WeightDimensionNumbers((1,), (0,))}
    tx = dual_null_space(dimension_numbers=numbers)
    p = NullSpaceProjector(jnp.eye(4), jnp.eye(6))
    state = replace_projectors(tx.init(params), {"embed": None, "head": p})
    assert state.projectors["embed"] == {"table": None, "scale": None}
    assert [leaf.shape for leaf in jax.tree.leaves(state)] == [(4, 4), (4,), (6, 6), (6,)]
    updates, _ = tx.update(params, state)
    jax.tree.map(np.testing.assert_array_equal, updates["embed"], params["embed"])
    np.testing.assert_array_equal(updates["head"]["weight"], 0)


def test_a_projector_for_what_is_never_projected_is_refused_rather_than_ignored() -> None:
    params = {"conv": jnp.ones((3, 3, 2, 4)), "head": {"kernel": jnp.ones((4, 2)), "bias": jnp.ones(2)}}
    state = dual_null_space().init(params)
    p = NullSpaceProjector(jnp.eye(4), jnp.eye(2))
    with pytest.raises(ValueError, match=r"\['conv'\] has a NullSpaceProjector, but no dimension numbers"):
        replace_projectors(state, {"conv": NullSpaceProjector(jnp.eye(18), jnp.eye(4)), "head": None})
    free = dual_null_space(protect_biases=False).init(params)
    with pytest.raises(ValueError, match=r"\['head'\]\['bias'\] has a NullSpaceProjector.* or protect_biases=False"):
        replace_projectors(free, {"conv": None, "head": {"kernel": p, "bias": p}})
    replace_projectors(free, {"conv": None, "head": p})  # of a layer, that some leaf takes it is enough


def test_without_dimension_numbers_leaves_of_three_axes_have_no_state() -> None:
    tree = {"kernel": jnp.ones((4, 3)), "bias": jnp.ones(3), "conv": jnp.ones((2, 2, 2)), "scalar": jnp.ones(())}
    state = dual_null_space().init(tree)
    assert [leaf.shape for leaf in jax.tree.leaves(state)] == [(3, 3), (3,), (4, 4), (4,), (3, 3), (3,)]
    explicit = {"kernel": WeightDimensionNumbers((0,), (1,)), "bias": WeightDimensionNumbers((), (0,))}
    same = dual_null_space(dimension_numbers={**explicit, "conv": None, "scalar": None})
    assert jax.tree.structure(same.init(tree)) == jax.tree.structure(state)
    rng = np.random.default_rng(7)
    p = NullSpaceProjector(jnp.asarray(onto(rng, 4)), jnp.asarray(onto(rng, 3)))
    updates = [tx.update(tree, replace_projectors(state, p))[0] for tx in (dual_null_space(), same)]
    jax.tree.map(np.testing.assert_array_equal, *updates)


def test_refreshing_projectors_compiles_nothing_anew() -> None:
    rng = np.random.default_rng(8)
    layers, numbers = stacked(rng)
    tx = optax.chain(optax.adam(1e-3), dual_null_space(dimension_numbers=numbers))
    update, state = jax.jit(tx.update), tx.init(layers)
    for batch in ((3,), (), (3,)):
        _, state = update(layers, state, layers)
        p = NullSpaceProjector(jnp.asarray(onto(rng, 4, batch)), jnp.asarray(onto(rng, 6, batch)))
        state = replace_projectors(state, p)
    assert update._cache_size() == 1


def test_seeds_under_vmap_are_what_a_loop_gives(x64: None) -> None:
    rng = np.random.default_rng(9)
    seeds = [stacked(rng)[0] for _ in range(2)]
    projectors = [NullSpaceProjector(jnp.asarray(onto(rng, 4, (3,))), jnp.asarray(onto(rng, 6))) for _ in range(2)]
    tx = dual_null_space(dimension_numbers=stacked(rng)[1])
    project = lambda layers, p: tx.update(layers, replace_projectors(tx.init(layers), p))[0]  # noqa: E731
    stack = lambda *trees: jax.tree.map(lambda *leaves: jnp.stack(leaves), *trees)  # noqa: E731
    together = jax.vmap(project)(stack(*seeds), stack(*projectors))
    apart = stack(*map(project, seeds, projectors))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-13), together, apart)


@pytest.mark.parametrize(
    "wrap",
    [
        lambda tx: optax.masked(tx, {"text": True, "audio": False}),
        lambda tx: optax.partition({"on": tx, "off": optax.set_to_zero()}, {"text": "on", "audio": "off"}),
    ],
    ids=["masked", "partition"],
)
def test_the_tree_of_all_parameters_serves_inside_wrappers_that_cut_some_out(wrap: Any) -> None:
    layers, numbers = stacked(np.random.default_rng(10))
    params = {"text": layers, "audio": layers}
    tx = wrap(dual_null_space(dimension_numbers={"text": numbers, "audio": numbers}))
    state = replace_projectors(tx.init(params), {"text": NullSpaceProjector(jnp.eye(4), jnp.eye(6)), "audio": None})
    updates, _ = tx.update(params, state, params)
    jax.tree.map(lambda leaf: np.testing.assert_array_equal(leaf, 0), updates["text"])


def test_a_tree_that_can_be_called_is_still_a_tree() -> None:
    @jax.tree_util.register_pytree_with_keys_class
    class Layer:  # as an Equinox module
        def __init__(self, weight: Any) -> None:
            self.weight = weight

        def __call__(self, x: Any) -> Any:
            raise AssertionError("called")

        def tree_flatten_with_keys(self) -> Any:
            return [(jax.tree_util.GetAttrKey("weight"), self.weight)], None

        @classmethod
        def tree_unflatten(cls, _: None, children: Any) -> "Layer":
            return cls(*children)

    numbers = Layer(WeightDimensionNumbers((1,), (0,)))
    state = dual_null_space(dimension_numbers=numbers).init(Layer(jnp.ones((2, 3))))
    assert state.projectors.weight.inputs.vectors.shape == (3, 3)


@pytest.mark.parametrize(
    ("numbers", "problem"),
    [
        (WeightDimensionNumbers((0,), (2,)), "axis 2 is out of range. Use axes below 2"),
        (WeightDimensionNumbers((-3,), (1,)), "axis -3 is out of range"),
        (WeightDimensionNumbers((0, 0), (1,)), "axis 0 is repeated in inputs. Name each axis once"),
        (WeightDimensionNumbers((), (1, -1)), "axis 1 is repeated in outputs"),
        (WeightDimensionNumbers((0,), (-2,)), "axis 0 is in inputs and in outputs. Keep it in one"),
        (WeightDimensionNumbers((0,), ()), "outputs is empty. Name at least one output axis"),
        (WeightDimensionNumbers(0, 1), "tuples of integers. Write (0,)"),  # type: ignore[arg-type]
    ],
)
def test_dimension_numbers_that_do_not_fit_are_named_with_leaf_and_remedy(
    numbers: WeightDimensionNumbers, problem: str
) -> None:
    tx = dual_null_space(dimension_numbers={"head": {"weight": numbers}})
    with pytest.raises(ValueError, match=re.escape(problem)) as error:
        tx.init({"head": {"weight": jnp.ones((3, 4))}})
    assert f"{numbers} of the leaf ['head']['weight'] of shape (3, 4)" in str(error.value)


@pytest.mark.parametrize("numbers", [{"head": {"kernel": None}}, {"head": {"weight": (0, 1)}}])
def test_a_leaf_without_an_entry_is_named(numbers: Any) -> None:
    with pytest.raises(ValueError, match=r"no entry for the leaf \['head'\]\['weight'\] of shape \(3, 4\). Give"):
        dual_null_space(dimension_numbers=numbers).init({"head": {"weight": jnp.ones((3, 4))}})


def test_projectors_of_a_wrong_shape_are_named_with_their_leaf() -> None:
    layers, numbers = stacked(np.random.default_rng(11))
    state = dual_null_space(dimension_numbers=numbers).init(layers)
    fits = NullSpaceProjector(jnp.eye(4), jnp.eye(6))
    wrong = NullSpaceProjector(jnp.zeros((2, 4, 4)), jnp.eye(6))
    expected = r"\['kernel'\].inputs has shape \(2, 4, 4\) where the parameters need \(3, 4, 4\) or, for all.*\(4, 4\)"
    with pytest.raises(ValueError, match=expected):
        replace_projectors(state, {"kernel": wrong, "bias": fits})
