"""Moments that are hard on a decomposition, and moments that are none."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cmcl_jax import NullSpaceProjector, dns_adamw, dual_null_space, projector, replace_projectors

SCALES = [1e-30, 1.0, 1e30]


def basis(width: int, rank: int) -> np.ndarray:
    q, _ = np.linalg.qr(np.random.default_rng(width + rank).normal(size=(width, rank)))
    return q


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("rule", ["relative", "energy", "gap", "noise"])
@pytest.mark.parametrize("spectrum", [(1.0, 1.0, 1.0), (3.0, 2.0, 1.0), (1.0, 1.0, 5e-2)])
def test_rank_deficient_tiny_huge_and_repeated_spectra_give_the_projector(
    spectrum: tuple[float, ...], rule: str, scale: float
) -> None:
    q = basis(8, 3)
    moment = jnp.asarray(scale * (q * spectrum) @ q.T, jnp.float32)
    threshold = 1.1 if rule == "noise" else 1e-4
    found = jax.jit(projector, static_argnames="rule")(moment, threshold, rule, rows=100.0)
    # Of an eigenvalue of 5e-2 of the largest, float32 knows the direction to 1e-5.
    np.testing.assert_allclose(found, q @ q.T, atol=3e-5)


@pytest.mark.parametrize("scale", SCALES)
def test_the_absolute_rule_reads_its_threshold_at_any_scale(scale: float) -> None:
    q = basis(8, 3)
    moment = jnp.asarray(scale * (q * [3.0, 2.0, 0.5]) @ q.T, jnp.float32)
    np.testing.assert_allclose(projector(moment, scale), q[:, :2] @ q[:, :2].T, atol=1e-5)


@pytest.mark.parametrize("wrong", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("rule", ["absolute", "relative", "energy", "gap"])
def test_a_moment_with_a_nan_poisons_its_projector_under_jit_and_vmap_and_no_other(rule: str, wrong: float) -> None:
    moments = jnp.stack([jnp.eye(3), jnp.eye(3).at[0, 1].set(wrong), jnp.diag(jnp.array([1.0, 0.0, 0.0]))])
    found = jax.jit(jax.vmap(lambda moment: projector(moment, 1e-3, rule)))(moments)
    assert np.isnan(found[1]).all()
    np.testing.assert_allclose(found[0], np.eye(3), atol=1e-6)
    np.testing.assert_allclose(found[2], np.diag([1.0, 0, 0]), atol=1e-6)
    assert np.isnan(jax.jit(lambda moment: projector(moment, 1e-3, rule))(moments[1])).all()
    assert np.isnan(jax.vmap(lambda moment: projector(moment, 1e-3, rule))(moments)[1]).all()
    with pytest.raises(ValueError, match="1 of 9 entries that are NaN or infinite"):
        projector(moments[1], 1e-3, rule)


@pytest.mark.parametrize("project", ["gradients", "updates", "exact"])
def test_a_poisoned_projector_reaches_the_parameters(project: str) -> None:
    head: Any = {"kernel": jnp.ones((3, 2)), "bias": jnp.ones(2)}
    tx = dns_adamw(1e-3, project=project)

    @jax.jit
    def step(moment: jax.Array) -> Any:
        p = NullSpaceProjector(projector(moment, 1e-3), jnp.eye(2))
        return tx.update(head, replace_projectors(tx.init(head), p), head)[0]

    assert np.isnan(step(jnp.eye(3).at[0, 0].set(jnp.nan))["kernel"]).all()
    assert np.isfinite(step(jnp.diag(jnp.array([1.0, 0.0, 0.0])))["kernel"]).all()


def test_a_poisoned_projector_does_not_spoil_other_leaves() -> None:
    params = {"a": jnp.ones((2, 2)), "b": jnp.ones((2, 2))}
    tx = dual_null_space()
    bad = NullSpaceProjector(jnp.full((2, 2), jnp.nan), jnp.eye(2))
    updates, _ = tx.update(params, replace_projectors(tx.init(params), {"a": bad, "b": None}))
    assert np.isnan(updates["a"]).all()
    np.testing.assert_array_equal(updates["b"], params["b"])


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_a_moment_in_half_precision_gives_a_projector_in_float32(dtype: str) -> None:
    moment = jnp.asarray(np.diag([2.0, 1.0, 0.0]), dtype)
    found = projector(moment, 0.1)
    assert found.dtype == jnp.float32
    np.testing.assert_array_equal(found, np.diag([1.0, 1.0, 0.0]))
    with pytest.raises(ValueError, match="2 of 9 entries that are NaN or infinite"):
        projector(moment.at[0, 1].set(jnp.nan).at[1, 0].set(jnp.inf), 0.1)
