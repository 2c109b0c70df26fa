import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cmcl_jax import info_nce, init_heads
from cmcl_jax.heads import apply_head


def test_square_heads_start_as_the_identity() -> None:
    heads = init_heads(jax.random.key(0), {"text": 5, "audio": 5})
    x = jax.random.normal(jax.random.key(1), (3, 5))
    np.testing.assert_array_equal(apply_head(heads["audio"], x), x)


@pytest.mark.parametrize(("width", "output"), [(8, 5), (5, 8)])
def test_rectangular_heads_start_as_partial_isometries_that_depend_on_the_key(width: int, output: int) -> None:
    widths = {"text": width, "audio": width}
    kernels = [init_heads(jax.random.key(seed), widths, output)["text"]["kernel"] for seed in (0, 0, 1)]
    small = min(width, output)
    np.testing.assert_allclose(np.linalg.svd(kernels[0], compute_uv=False), np.ones(small), atol=1e-5)
    np.testing.assert_array_equal(kernels[0], kernels[1])
    assert np.abs(kernels[0] - kernels[2]).max() > 0.1


def test_heads_of_unequal_widths_share_the_smallest_as_output() -> None:
    heads = init_heads(jax.random.key(0), {"text": 6, "audio": 4})
    assert {m: head["kernel"].shape for m, head in heads.items()} == {"text": (6, 4), "audio": (4, 4)}


def numpy_info_nce(scores: np.ndarray) -> float:
    log_p = (
        scores
        - np.log(np.exp(scores - scores.max(1, keepdims=True)).sum(1, keepdims=True))
        - scores.max(1, keepdims=True)
    )
    return float(-np.diag(log_p).mean())


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), rows=st.integers(1, 7))
def test_info_nce_of_the_valid_rows_equals_numpy(seed: int, rows: int) -> None:
    rng = np.random.default_rng(seed)
    z_a, z_b = rng.normal(size=(2, 7, 4))
    scores = z_a[:rows] @ z_b[:rows].T / 0.5
    with jax.enable_x64(True):
        args = (jnp.asarray(z_a), jnp.asarray(z_b), jnp.arange(7) < rows, 0.5)
        one_way, both = (float(info_nce(*args, direction=d)) for d in ("a_to_b", "symmetric"))
    np.testing.assert_allclose(one_way, numpy_info_nce(scores), atol=1e-12)
    np.testing.assert_allclose(both, (numpy_info_nce(scores) + numpy_info_nce(scores.T)) / 2, atol=1e-12)


def test_gradient_of_info_nce_equals_a_finite_difference_and_is_zero_on_padding(x64: None) -> None:
    rng = np.random.default_rng(0)
    z_a, z_b, valid = jnp.asarray(rng.normal(size=(5, 3))), jnp.asarray(rng.normal(size=(5, 3))), jnp.arange(5) < 4
    gradient = jax.grad(info_nce)(z_a, z_b, valid)
    for i, j in ((0, 0), (3, 2)):
        bump = jnp.zeros((5, 3)).at[i, j].set(1e-6)
        slope = (info_nce(z_a + bump, z_b, valid) - info_nce(z_a - bump, z_b, valid)) / 2e-6
        np.testing.assert_allclose(gradient[i, j], slope, atol=1e-8)
    np.testing.assert_array_equal(gradient[4], 0)


def test_an_unknown_direction_is_named() -> None:
    with pytest.raises(ValueError, match="symmetric, a_to_b, but it is 'b_to_a'"):
        info_nce(jnp.eye(2), jnp.eye(2), jnp.ones(2, bool), direction="b_to_a")
