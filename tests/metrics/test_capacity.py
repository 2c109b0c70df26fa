"""Effective ranks, free dimensions, and how long they last."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cmcl_jax.metrics.capacity import effective_rank, forecast, free_dimensions, stable_rank
from cmcl_jax.null_space import NullSpaceProjector, dual_null_space, replace_projectors


@settings(max_examples=30, deadline=None)
@given(s=st.lists(st.floats(1e-3, 1e3), min_size=1, max_size=6), zeros=st.integers(0, 3))
def test_effective_ranks_are_between_one_and_the_rank_and_blind_to_scale_and_order(s: list[float], zeros: int) -> None:
    with jax.enable_x64(True):
        values = jnp.asarray([*s, *[0.0] * zeros])
        for measure in (effective_rank, stable_rank):
            found = float(measure(values))
            assert 1 - 1e-9 <= found <= len(s) + 1e-9
            assert float(measure(values[::-1] * 37)) == pytest.approx(found, rel=1e-9)


def test_effective_ranks_by_hand() -> None:
    assert float(effective_rank(jnp.array([1.0, 1.0, 1.0, 1.0]))) == pytest.approx(4)
    assert float(stable_rank(jnp.array([1.0, 1.0, 1.0, 1.0]))) == pytest.approx(4)
    assert float(effective_rank(jnp.array([2.0, 1.0, 1.0]))) == pytest.approx(2**1.5)  # entropy 1.5 bits
    for measure in (effective_rank, stable_rank):
        assert float(measure(jnp.zeros(3))) == 0


@pytest.mark.parametrize(("r_in", "r_out"), [(0, 0), (2, 1), (4, 0), (4, 3), (1, 3)])
def test_free_dimensions_are_the_rank_of_what_the_transform_lets_through(r_in: int, r_out: int, x64: None) -> None:
    rng = np.random.default_rng(0)
    onto = lambda d, r: (lambda q: jnp.asarray(q @ q.T))(np.linalg.qr(rng.normal(size=(d, d)))[0][:, :r])  # noqa: E731
    protect = NullSpaceProjector(onto(4, r_in), onto(3, r_out))
    head = {"kernel": jnp.zeros((4, 3)), "bias": jnp.zeros(3)}
    basis = [jax.tree.unflatten(jax.tree.structure(head), leaves) for leaves in unit_leaves()]
    for biases in ("leafwise", "free"):
        tx = dual_null_space(protect_biases=biases == "leafwise")
        state = replace_projectors(tx.init(head), protect)
        through = [jnp.concatenate([u.ravel() for u in jax.tree.leaves(tx.update(one, state)[0])]) for one in basis]
        assert float(free_dimensions(protect, biases)) == np.linalg.matrix_rank(np.stack(through), tol=1e-8)


def unit_leaves() -> list[list[jnp.ndarray]]:
    return [[jnp.asarray(row[:3]), jnp.asarray(row[3:].reshape(4, 3))] for row in np.eye(15)]


def test_free_dimensions_of_stacked_biases_count_the_bias_as_a_row_of_inputs() -> None:
    protect = NullSpaceProjector(jnp.diag(jnp.array([1.0, 1.0, 0.0])), jnp.diag(jnp.array([1.0, 0.0])))
    assert float(free_dimensions(protect, "stacked")) == 3 * 2 - 2 * 1  # d_in = 2, and the row of ones


def test_forecasts_by_hand() -> None:
    one_sided = np.array([4.0, 4.0])
    # Two of eight inputs a step, all outputs: two more steps if they are new; the share √½ a step if they are not.
    assert forecast(np.array([2.0, 4.0]), one_sided, 8, 4, reserve=0.0625) == (2.0, 6.0)
    assert forecast(np.array([4.0]), np.array([4.0]), 8, 4, biases="free").soonest == float("inf")  # 4 of 36 stay free
    assert forecast(np.zeros(3), np.zeros(3), 8, 4) == (float("inf"), float("inf"))
    assert forecast(np.array([8.0]), np.array([4.0]), 8, 4) == (0.0, 0.0)


def test_ranks_of_independent_data_meet_the_soonest_and_of_shared_data_lie_between() -> None:
    d, step = 60, 6
    linear = np.minimum(d, step * np.arange(1, 31))
    saturating = d * (1 - 0.9 ** np.arange(1, 301))
    for ranks, index in ((linear, 0), (saturating, 1)):
        seen, outputs = ranks[:4], np.full(4, float(d))
        used_up = int(np.argmax((d - ranks) * d <= 0.01 * (d * d + d))) + 1
        assert forecast(seen, outputs, d, d)[index] == used_up - 4
        found = forecast(seen, outputs, d, d)
        assert found.soonest <= used_up - 4 <= found.latest


def test_bad_input_is_named() -> None:
    eye = NullSpaceProjector(jnp.eye(2), jnp.eye(2))
    with pytest.raises(ValueError, match="biases must be one of leafwise, stacked, free, but it is 'none'"):
        free_dimensions(eye, "none")
    with pytest.raises(ValueError, match=r"one is None.*Pass jnp.eye\(width\)"):
        free_dimensions(NullSpaceProjector(None, eye.outputs))
    with pytest.raises(ValueError, match="one entry per step so far, at least one"):
        forecast(np.array([]), np.array([]), 4, 4)
    with pytest.raises(ValueError, match="at least one"):
        forecast(np.array([1.0, 2.0]), np.array([1.0]), 4, 4)
    with pytest.raises(ValueError, match="ranks_in must be between 0 and the width 4"):
        forecast(np.array([5.0]), np.array([1.0]), 4, 4)
    with pytest.raises(ValueError, match="ranks_out must be between"):
        forecast(np.array([1.0]), np.array([np.nan]), 4, 4)
