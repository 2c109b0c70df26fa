import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cmcl_jax import FeatureMemory, NullSpaceProjector, empty_memory, output_moment, projectors_from, update_memory
from cmcl_jax.null_space.ranks import THRESHOLD_RULES


def remember(*parts: np.ndarray) -> FeatureMemory:
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


def test_stacked_projectors_span_the_rows_with_a_one_behind_them(x64: None) -> None:
    rng = np.random.default_rng(4)
    x1, x2 = rng.normal(size=(2, 6)), rng.normal(size=(3, 6))
    head = {"kernel": jnp.eye(6), "bias": jnp.zeros(6)}
    memories = [remember(x1), remember(x2), empty_memory(6, jnp.float64)]
    found = projectors_from(memories, [(m, head) for m in memories], (1e-9, 1e-9), "relative", stacked=True)
    rows = np.pad(np.concatenate([x1, x2]), ((0, 0), (0, 1)), constant_values=1)
    np.testing.assert_allclose(found.inputs, np.linalg.pinv(rows) @ rows, atol=1e-9)
    assert found.outputs.shape == (6, 6)
    nothing = projectors_from(memories[2:], [(memories[2], head)], (1e-9, 1e-9), "relative", stacked=True)
    assert not nothing.inputs.any()


@functools.cache
def scaled(rule: str, of_inputs: float, of_first_partner: float) -> NullSpaceProjector:
    """Projectors of a modality that met two partners, given the scales of its features and of one partner's."""
    rng = np.random.default_rng(6)

    def features(scale: float) -> np.ndarray:  # two directions in noise
        signal = rng.normal(size=(200, 2)) @ rng.normal(size=(2, 8))
        return scale * (signal + 0.05 * rng.normal(size=(200, 8)))

    own = [remember(features(of_inputs)), remember(features(of_inputs))]
    partners = [remember(features(of_first_partner)[:, :6]), remember(features(1.0)[:, :6])]
    heads = [{"kernel": jnp.asarray(rng.normal(size=(6, 8))), "bias": jnp.zeros(8)} for _ in partners]
    threshold = {"noise": 1.1, "absolute": 0.05, "energy": 1e-2}.get(rule, 2e-3)
    return projectors_from(own, list(zip(partners, heads, strict=True)), (threshold, threshold), rule)


@pytest.mark.parametrize("rule", THRESHOLD_RULES)
def test_the_scale_of_a_modality_matters_to_the_absolute_rule_alone(rule: str, x64: None) -> None:
    once, own, partner = scaled(rule, 1, 1), scaled(rule, 20, 1), scaled(rule, 1, 20)
    if rule == "absolute":
        assert np.trace(own.inputs) > np.trace(once.inputs) + 1
        assert np.trace(partner.outputs) > np.trace(once.outputs) + 1
        return
    assert 0 < round(float(np.trace(once.inputs))) < 8, "or the threshold decides nothing"
    np.testing.assert_allclose(own.inputs, once.inputs, atol=1e-9)
    np.testing.assert_allclose(partner.outputs, once.outputs, atol=1e-9)
    np.testing.assert_allclose(partner.inputs, once.inputs, atol=1e-9)


def test_rows_met_twice_lower_the_edge_of_noise_and_lose_no_direction(x64: None) -> None:
    rng = np.random.default_rng(7)
    x = 3 * rng.normal(size=(96, 2)) @ rng.normal(size=(2, 48)) + rng.normal(size=(96, 48))
    head = {"kernel": jnp.eye(48), "bias": jnp.zeros(48)}
    once, twice = (
        projectors_from([remember(x)] * times, [(remember(x), head)] * times, (1.1, 1.1), "noise").inputs
        for times in (1, 2)
    )
    assert round(float(np.trace(once))) == 2
    assert np.trace(twice) > np.trace(once) + 1
    np.testing.assert_allclose(once @ twice, once, atol=1e-9)


@pytest.mark.parametrize("features", ["bfloat16", "float16", "float32", "float64"])
@pytest.mark.parametrize("kept", ["float32", "float64"])
def test_a_memory_and_its_projectors_keep_their_dtype_and_sum_in_it(kept: str, features: str, x64: None) -> None:
    rows = jnp.asarray(np.random.default_rng(0).normal(size=(64, 5)), features)
    memory = update_memory(empty_memory(5, kept), rows, jnp.ones(64, bool))
    assert {leaf.dtype.name for leaf in memory} == {kept}
    exact = np.asarray(rows, np.float64)
    np.testing.assert_allclose(memory.moment, exact.T @ exact / 64, atol=1e-6)
    head = {"kernel": jnp.ones((5, 3), kept), "bias": jnp.ones(3, kept)}
    found = projectors_from([memory], [(memory, head)], (1e-3, 1e-3), rule="noise")
    assert {side.dtype.name for side in found} == {kept}


def test_projectors_of_no_memories_at_all_are_refused() -> None:
    memory = empty_memory(2)
    with pytest.raises(ValueError, match="one memory at least.*give empty_memory"):
        projectors_from([memory], [], (0.1, 0.1))
