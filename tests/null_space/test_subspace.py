"""The basis in which a second moment gives what is protected."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cmcl_jax.null_space import subspace


@pytest.mark.parametrize(("dtype", "noise", "tolerance"), [("float32", 1e-7, 1e-4), ("float64", 1e-15, 1e-12)])
def test_rounding_does_not_choose_among_directions_that_no_row_has(
    dtype: str, noise: float, tolerance: float, x64: None
) -> None:
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(10, 40))
    moment = rows.T @ rows / 10
    found = [
        subspace(jnp.asarray(moment * (1 + noise * rng.normal(size=(40, 40))), dtype), 1e-3, "relative").vectors
        for _ in range(2)
    ]
    signs = np.sign(np.sum(np.asarray(found[0]) * np.asarray(found[1]), axis=0))
    np.testing.assert_allclose(found[0] * signs, found[1], atol=tolerance)
    np.testing.assert_allclose(found[0].T @ found[0], np.eye(40), atol=10 * tolerance)
    np.testing.assert_allclose(rows @ found[0][:, 10:], 0, atol=100 * tolerance)


def test_runs_take_turns_in_decompositions_whose_batches_could_hang() -> None:
    of_all = jax.jit(jax.vmap(lambda moment, threshold: subspace(moment, threshold, "relative")))
    program = of_all.lower(jnp.zeros((3, 4, 4)), jnp.zeros(3)).as_text()
    calls = [line for line in program.splitlines() if "@lapack_" in line]
    assert len(calls) >= 2, "an eigendecomposition and an orthonormalization"
    assert not any(re.search(r"tensor<3x4x4xf", line) for line in calls)
    moments = jnp.stack([jnp.diag(jnp.arange(4.0) * scale) for scale in (1.0, 2.0, 3.0)])
    np.testing.assert_array_equal(of_all(moments, jnp.array([0.5, 0.9, 0.1])).protected.sum(axis=1), [2, 1, 3])
