"""Products in lower precision against numpy on rounded operands."""

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest

from cmcl_jax.methods.base import Batch
from cmcl_jax.methods.dns_factored import FactoredDualNullSpace, FactoredState, Sides
from cmcl_jax.methods.vanilla import Vanilla
from cmcl_jax.null_space import Subspace, as_matrix
from cmcl_jax.precision import matmul
from tests.streams import MODALITIES, heads_of_one_seed, learn_all, tasks, training

RNG = np.random.default_rng(0)
A, B, WEIGHTS = (RNG.normal(size=shape).astype(np.float32) for shape in ((3, 5), (5, 4), (3, 4)))


def rounded(array: np.ndarray, precision: str) -> np.ndarray:
    """In float64, with the operand's mantissa rounded to nearest, ties to even."""
    if precision == "float32":
        return array.astype(np.float64)
    if precision == "bfloat16":
        return array.astype(ml_dtypes.bfloat16).astype(np.float64)
    mantissa, exponent = np.frexp(array.astype(np.float64))
    return np.ldexp(np.rint(mantissa * 2**11) / 2**11, exponent)  # 10 bits after the leading one


@pytest.mark.parametrize("precision", ["float32", "tensorfloat32", "bfloat16"])
def test_products_and_their_gradients_are_those_of_rounded_operands(precision: str) -> None:
    a, b, g = (rounded(x, precision) for x in (A, B, WEIGHTS))
    product, gradients = jax.vjp(lambda a, b: matmul(a, b, precision), jnp.asarray(A), jnp.asarray(B))
    np.testing.assert_allclose(product, a @ b, rtol=1e-6, atol=1e-6)
    for found, expected in zip(gradients(jnp.asarray(WEIGHTS)), (g @ b.T, a.T @ g), strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-6)


def test_lower_precision_moves_a_trained_head_by_about_its_rounding(x64: None) -> None:
    stream, heads = tasks(MODALITIES[:2]), heads_of_one_seed()
    exact, *others = (
        learn_all(Vanilla(training(precision=precision)), stream, heads)[-1][0]["text"]["kernel"]
        for precision in ("float32", "tensorfloat32", "bfloat16")
    )
    differences = [float(jnp.linalg.norm(other - exact) / jnp.linalg.norm(exact)) for other in others]
    assert 1e-6 < differences[0] < differences[1] < 0.1


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_projected_gradient_has_nothing_protected_whatever_the_precision(precision: str) -> None:
    rng = np.random.default_rng(0)
    old, rows = (rng.normal(size=(n, 32)).astype(np.float32) for n in (8, 16))
    sides = [Subspace(jnp.asarray(np.linalg.svd(old.T @ old)[0]), jnp.arange(32) < 8) for _ in range(2)]
    protect = Sides(as_matrix(sides[0]), as_matrix(sides[1]), jnp.asarray(False))
    method = FactoredDualNullSpace(training(precision=precision), "gradients", "relative", 0.1, 0.1)
    state = FactoredState({role: protect for role in "ab"}, {})
    heads = {role: {"kernel": jnp.eye(32), "bias": jnp.zeros(32)} for role in "ab"}
    by_role = method.enter_rows(state, {role: jnp.asarray(rows) for role in "ab"})
    _, gradients = method.gradient(state, heads, Batch(by_role, jnp.ones(16, bool)))
    kernel = np.asarray(gradients["a"]["kernel"], np.float64)
    p_in, p_out = (np.asarray(side, np.float64) for side in protect[:2])
    assert np.linalg.norm(p_in @ kernel @ p_out) < 1e-5 * np.linalg.norm(kernel)
