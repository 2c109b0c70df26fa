import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cmcl_jax import (
    DualNullSpaceState,
    NullSpaceProjector,
    dns_adamw,
    dual_null_space,
    projector,
    protected_fraction,
    replace_projectors,
)
from cmcl_jax.null_space import as_matrix

D_IN, D_OUT = 6, 5


def onto(rows: np.ndarray) -> np.ndarray:
    """Projector onto a row space by least squares, without an SVD."""
    return rows.T @ np.linalg.solve(rows @ rows.T, rows)


def random_projectors(rng: np.random.Generator) -> NullSpaceProjector:
    return NullSpaceProjector(
        jnp.asarray(onto(rng.normal(size=(2, D_IN)))), jnp.asarray(onto(rng.normal(size=(3, D_OUT))))
    )


def random_heads(rng: np.random.Generator, dtype: type = np.float32) -> dict[str, dict[str, jax.Array]]:
    return {
        m: {
            "kernel": jnp.asarray(rng.normal(size=(D_IN, D_OUT)), dtype),
            "bias": jnp.asarray(rng.normal(size=D_OUT), dtype),
        }
        for m in ("text", "audio")
    }


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), rank=st.integers(1, D_IN))
def test_projector_is_the_orthogonal_projector_onto_the_row_space(seed: int, rank: int) -> None:
    rows = np.random.default_rng(seed).normal(size=(rank, D_IN))
    with jax.enable_x64(True):
        found = projector(jnp.asarray(rows.T @ rows / rank), 1e-9, "relative")
    np.testing.assert_allclose(found, onto(rows), atol=1e-6 * np.linalg.cond(rows) ** 2)


def test_threshold_rules_keep_the_directions_that_they_describe() -> None:
    moment = jnp.diag(jnp.array([8.0, 1.5, 0.4, 0.1]))
    kept = lambda threshold, rule: int(jnp.trace(projector(moment, threshold, rule)).round())  # noqa: E731
    assert kept(0.4, "absolute") == 2  # strictly greater
    assert kept(0.04, "relative") == 3  # of 8.0
    assert kept(0.06, "energy") == 2  # 8 + 1.5 of 10 is 95 %
    assert kept(0.04, "energy") == 3
    assert kept(0.0, "energy") == 4


@pytest.mark.parametrize("rule", ["absolute", "relative", "energy"])
def test_no_moment_protects_nothing_under_any_rule(rule: str) -> None:
    assert not projector(jnp.zeros((3, 3)), 0.0, rule).any()


@pytest.mark.parametrize("rule", ["relative", "energy"])
def test_scale_free_rules_do_not_see_the_scale_of_the_features(rule: str) -> None:
    rows = np.random.default_rng(0).normal(size=(4, D_IN)).astype(np.float32)
    small, large = projector(rows.T @ rows, 1e-3, rule), projector(400 * rows.T @ rows, 1e-3, rule)
    np.testing.assert_allclose(small, large, atol=1e-5)


def test_projector_names_an_unknown_rule_and_a_wrong_shape() -> None:
    with pytest.raises(ValueError, match="absolute, relative, energy.*'sharp'"):
        projector(jnp.eye(2), 0.1, "sharp")
    with pytest.raises(ValueError, match=r"\(2, 3\)"):
        projector(jnp.zeros((2, 3)), 0.1)


def test_projected_update_leaves_old_alignment_unchanged(x64: None) -> None:
    rng = np.random.default_rng(1)
    x, z_partner = rng.normal(size=(3, D_IN)), rng.normal(size=(4, D_OUT))
    heads = random_heads(rng, np.float64)
    projectors = NullSpaceProjector(jnp.asarray(onto(x)), jnp.asarray(onto(z_partner)))
    tx = dual_null_space()
    state = replace_projectors(tx.init(heads), {"text": projectors, "audio": None})
    updates, _ = tx.update(heads, state)
    moved = (x @ np.asarray(updates["text"]["kernel"]) + np.asarray(updates["text"]["bias"])) @ z_partner.T
    assert np.abs(moved).max() < 1e-13 * np.abs(x @ np.asarray(heads["text"]["kernel"]) @ z_partner.T).max()
    assert np.linalg.norm(updates["text"]["kernel"]) > 0.5  # not frozen altogether
    np.testing.assert_array_equal(updates["audio"]["kernel"], heads["audio"]["kernel"])


def test_update_equals_its_formula_in_numpy(x64: None) -> None:
    rng = np.random.default_rng(2)
    heads, p = random_heads(rng, np.float64), random_projectors(rng)
    tx = dual_null_space()
    updates, _ = tx.update(heads, replace_projectors(tx.init(heads), {"text": p, "audio": p}))
    p_in, p_out = np.asarray(p.inputs), np.asarray(p.outputs)
    kernel, bias = (np.asarray(heads["audio"][leaf]) for leaf in ("kernel", "bias"))
    np.testing.assert_allclose(updates["audio"]["kernel"], kernel - p_in @ kernel @ p_out, atol=1e-13)
    np.testing.assert_allclose(updates["audio"]["bias"], bias - bias @ p_out, atol=1e-13)


def test_a_fresh_state_passes_updates_unchanged() -> None:
    heads = random_heads(np.random.default_rng(3))
    tx = dual_null_space()
    updates, _ = tx.update(heads, tx.init(heads))
    jax.tree.map(np.testing.assert_array_equal, updates, heads)


def test_one_sided_projection_protects_every_output_and_freezes_the_bias() -> None:
    rng = np.random.default_rng(4)
    heads, p = random_heads(rng), random_projectors(rng)
    tx = dual_null_space()
    updates, _ = tx.update(heads, replace_projectors(tx.init(heads), NullSpaceProjector(p.inputs, None)))
    np.testing.assert_allclose(p.inputs @ updates["text"]["kernel"], 0, atol=1e-5)
    np.testing.assert_array_equal(updates["text"]["bias"], 0)


def test_unprotected_biases_pass_unchanged() -> None:
    rng = np.random.default_rng(5)
    heads, p = random_heads(rng), random_projectors(rng)
    tx = dual_null_space(protect_biases=False)
    updates, _ = tx.update(heads, replace_projectors(tx.init(heads), p))
    np.testing.assert_array_equal(updates["text"]["bias"], heads["text"]["bias"])


@pytest.mark.parametrize(
    "wrap",
    [
        lambda tx: optax.chain(optax.clip_by_global_norm(1.0), tx, optax.scale(-1.0)),
        lambda tx: optax.masked(tx, {"text": True, "audio": False}),
        lambda tx: optax.partition({"on": tx, "off": optax.set_to_zero()}, {"text": "on", "audio": "off"}),
        lambda tx: optax.MultiSteps(tx, 2),
        lambda tx: optax.apply_if_finite(tx, 3),
    ],
    ids=["chain", "masked", "partition", "MultiSteps", "apply_if_finite"],
)
def test_projectors_are_found_and_replaced_under_every_wrapper(wrap: object) -> None:
    rng = np.random.default_rng(6)
    heads, p = random_heads(rng), random_projectors(rng)
    tx = wrap(dual_null_space())  # type: ignore[operator]
    before = tx.init(heads)
    after = replace_projectors(before, {"text": p, "audio": p})
    assert jax.tree.structure(before) == jax.tree.structure(after)
    is_state = lambda node: isinstance(node, DualNullSpaceState)  # noqa: E731
    [state] = [s for s in jax.tree.leaves(after, is_leaf=is_state) if is_state(s)]
    np.testing.assert_allclose(as_matrix(state.projectors["text"]["kernel"].inputs), p.inputs, atol=1e-6)


def test_refreshing_projectors_compiles_nothing_anew() -> None:
    rng = np.random.default_rng(7)
    heads = random_heads(rng)
    tx = dns_adamw(1e-3)
    update = jax.jit(tx.update)
    state = tx.init(heads)
    for _ in range(3):
        _, state = update(heads, state, heads)
        state = replace_projectors(state, random_projectors(rng))
    assert update._cache_size() == 1


def test_dtypes_of_updates_and_state_are_kept_for_bfloat16_gradients() -> None:
    heads = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), random_heads(np.random.default_rng(8)))
    tx = dual_null_space()
    state = tx.init(heads)
    updates, after = tx.update(heads, replace_projectors(state, random_projectors(np.random.default_rng(9))))
    assert {leaf.dtype for leaf in jax.tree.leaves(updates)} == {jnp.dtype(jnp.bfloat16)}
    assert jax.tree.map(lambda x: x.dtype, state) == jax.tree.map(lambda x: x.dtype, after)
    assert {leaf.dtype for leaf in jax.tree.leaves(after)} == {jnp.dtype(jnp.float32), jnp.dtype(bool)}


def test_replacing_without_the_transform_is_an_error_that_says_so() -> None:
    heads = random_heads(np.random.default_rng(0))
    with pytest.raises(ValueError, match=r"holds no DualNullSpaceState and no.*Put dual_null_space\(\) into the chain"):
        replace_projectors(optax.adam(1e-3).init(heads), None)


def test_projectors_of_a_wrong_shape_are_named() -> None:
    state = dual_null_space().init(random_heads(np.random.default_rng(0)))
    with pytest.raises(ValueError, match=r"inputs has shape \(5, 5\) where the parameters need \(6, 6\)"):
        replace_projectors(state, NullSpaceProjector(jnp.eye(D_OUT), jnp.eye(D_OUT)))


def test_projecting_the_update_holds_where_projecting_the_gradient_does_not() -> None:
    rng = np.random.default_rng(10)
    heads, p = random_heads(rng), random_projectors(rng)
    fraction = {}
    for project in ("updates", "gradients"):
        tx = dns_adamw(1e-3, project=project)
        state = replace_projectors(tx.init(heads), p)
        updates, _ = tx.update(jax.tree.map(jnp.sin, heads), state, heads)
        fraction[project] = float(protected_fraction(updates, state))
    assert fraction["updates"] < 1e-6
    assert fraction["gradients"] > 1e-2


def test_protected_fraction_is_one_inside_and_zero_for_no_update() -> None:
    rng = np.random.default_rng(11)
    heads, p = random_heads(rng), random_projectors(rng)
    tx = dual_null_space()
    state = replace_projectors(tx.init(heads), p)
    free, _ = tx.update(heads, state)
    protected = jax.tree.map(jnp.subtract, heads, free)
    assert float(protected_fraction(protected, state)) == pytest.approx(1, abs=1e-5)
    assert float(protected_fraction(jax.tree.map(jnp.zeros_like, heads), state)) == 0
    with pytest.raises(ValueError, match="holds no DualNullSpaceState"):
        protected_fraction(heads, optax.adam(1e-3).init(heads))


def test_unknown_place_of_the_projection_is_named() -> None:
    with pytest.raises(ValueError, match="updates, gradients, exact or None, but it is 'weights'"):
        dns_adamw(1e-3, project="weights")
