"""The basis in which a second moment gives what is protected."""

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
