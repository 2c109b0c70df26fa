"""Complex leaves are protected as well: scores of complex rows are `x ΔK z^H`."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from cmcl_jax import NullSpaceProjector, projector, protected_fraction, replace_projectors
from tests.optax_acceptance.company import STRENGTHS


@pytest.mark.parametrize("strength", ["updates of Adam", "exact, of Adam", "stacked and exact, of Adam"])
def test_old_scores_of_complex_rows_stay(strength: str, x64: None) -> None:
    rng = np.random.default_rng(0)
    draw = lambda *shape: rng.normal(size=shape) + 1j * rng.normal(size=shape)  # noqa: E731
    x, z = draw(3, 6), draw(2, 5)
    seen = np.column_stack([x, np.ones(3)]) if "stacked" in strength else x
    p = NullSpaceProjector(*(projector(jnp.asarray(rows.conj().T @ rows), 1e-9, "relative") for rows in (seen, z)))
    np.testing.assert_allclose(seen @ p.inputs, seen, atol=1e-12)  # it is onto the rows
    params, gradients = ({"kernel": jnp.asarray(draw(6, 5)), "bias": jnp.asarray(draw(5))} for _ in range(2))
    tx = STRENGTHS[strength].make(1e-2)
    state = replace_projectors(tx.init(params), p)
    updates, state = jax.jit(tx.update)(gradients, state, params)
    moved = (x @ updates["kernel"] + updates["bias"]) @ z.conj().T
    assert np.abs(moved).max() < 1e-13
    assert np.abs(updates["kernel"]).max() > 1e-3
    assert protected_fraction(updates, state) < 1e-13
    free, _ = optax.adam(1e-2).update(gradients, optax.adam(1e-2).init(params))
    assert protected_fraction(free, state) > 0.1
