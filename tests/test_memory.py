import jax
import jax.numpy as jnp
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from cmcl_jax import empty_memory, output_moment, projectors_from, update_memory


def remember(*parts: np.ndarray):
    memory = empty_memory(parts[0].shape[1], jnp.asarray(parts[0]).dtype)
    for part in parts:
        memory = update_memory(memory, jnp.asarray(part), jnp.ones(len(part), bool))
    return memory


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), cut=st.integers(1, 19))
def test_remembering_in_parts_equals_remembering_at_once(seed: int, cut: int) -> None:
    x = np.random.default_rng(seed).normal(size=(20, 4))
    with jax.enable_x64(True):
        memory = remember(x[:cut], x[cut:])
    np.testing.assert_allclose(memory.moment, x.T @ x / 20, atol=1e-12)
    np.testing.assert_allclose(memory.mean, x.mean(axis=0), atol=1e-12)
    assert int(memory.rows) == 20


def test_padding_is_not_remembered(x64: None) -> None:
    x = np.random.default_rng(0).normal(size=(6, 3))
    padded = np.concatenate([x, np.full((2, 3), np.nan)])
    memory = update_memory(empty_memory(3, jnp.float64), jnp.asarray(padded), jnp.arange(8) < 6)
    np.testing.assert_allclose(memory.moment, x.T @ x / 6, atol=1e-12)


def test_output_moment_is_that_of_the_outputs_themselves(x64: None) -> None:
    rng = np.random.default_rng(1)
    x, kernel, bias = rng.normal(size=(50, 4)) + 1, rng.normal(size=(4, 3)), rng.normal(size=3)
    z = x @ kernel + bias
    found = output_moment(remember(x), {"kernel": jnp.asarray(kernel), "bias": jnp.asarray(bias)})
    np.testing.assert_allclose(found, z.T @ z / 50, atol=1e-12)


def test_projectors_span_all_inputs_and_all_partner_outputs_ever_met(x64: None) -> None:
    rng = np.random.default_rng(2)
    x1, x2 = rng.normal(size=(2, 8)), rng.normal(size=(3, 8))
    y1, y2 = rng.normal(size=(2, 5)), rng.normal(size=(1, 5))
    heads = [{"kernel": jnp.asarray(rng.normal(size=(5, 8))), "bias": jnp.asarray(rng.normal(size=8))} for _ in "12"]
    found = projectors_from(
        [remember(x1), remember(x2)], [(remember(y1), heads[0]), (remember(y2), heads[1])], (1e-9, 1e-9), "relative"
    )
    z = np.concatenate(
        [y @ np.asarray(h["kernel"]) + np.asarray(h["bias"]) for y, h in ((y1, heads[0]), (y2, heads[1]))]
    )
    for rows, p in ((np.concatenate([x1, x2]), found.inputs), (z, found.outputs)):
        np.testing.assert_allclose(rows @ np.asarray(p), rows, atol=1e-9)
        np.testing.assert_allclose(np.trace(p), len(rows), atol=1e-9)


def test_what_was_never_met_protects_nothing_even_through_a_bias() -> None:
    head = {"kernel": jnp.eye(3), "bias": jnp.ones(3)}
    for one_sided in (False, True):
        found = projectors_from([empty_memory(3)], [(empty_memory(3), head)], (0.0, 0.0), one_sided=one_sided)
        assert not found.inputs.any()
        assert not found.outputs.any()


def test_one_sided_protects_all_outputs_once_something_was_met() -> None:
    head = {"kernel": jnp.eye(3), "bias": jnp.zeros(3)}
    memory = remember(np.eye(3, dtype=np.float32)[:1])
    found = projectors_from([memory], [(memory, head)], (1e-3, 1e-3), one_sided=True)
    np.testing.assert_array_equal(found.outputs, np.eye(3))
