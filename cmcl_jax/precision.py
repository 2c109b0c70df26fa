"""How precisely the products of a training step are computed: float32, or what tensor cores do faster.

`"float32"` is the default everywhere: on GPUs and TPUs JAX's own default would round operands. The others round what
enters a product, forward and backward, to the format's mantissa and add up in float32. Rounding is explicit, so that a
CPU gives the numbers of a GPU to the order of the sums, and the effect on a metric can be measured without one.
"""

from __future__ import annotations

import functools
from typing import Any

import jax
from jaxtyping import Array, Float

PRECISIONS = ("float32", "tensorfloat32", "bfloat16")
MANTISSA_BITS = {"tensorfloat32": 10, "bfloat16": 7}
HARDWARE = {"float32": jax.lax.Precision.HIGHEST, "tensorfloat32": jax.lax.Precision.HIGH}


def matmul(a: Float[Array, "*n k"], b: Float[Array, "k m"], precision: str = "float32") -> Float[Array, "*n m"]:
    """`a @ b` with operands of that precision.

    >>> import jax.numpy as jnp
    >>> third = jnp.full((1, 1), 1 / 3)
    >>> [float(matmul(third, jnp.ones((1, 1)), precision)[0, 0]) for precision in PRECISIONS]
    [0.3333333432674408, 0.333251953125, 0.333984375]
    """
    return dot_general(a, b, (((a.ndim - 1,), (0,)), ((), ())), name=precision)


def dot_general(lhs: Array, rhs: Array, dimension_numbers: Any, *, name: str, **unused: Any) -> Array:
    """`jax.lax.dot_general` with operands of that precision; takes its place in Flax modules."""
    del unused
    if name == "float32":
        exact: Array = jax.lax.dot_general(lhs, rhs, dimension_numbers, precision=HARDWARE[name])
        return exact
    return _rounded(lhs, rhs, dimension_numbers, name)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def _rounded(lhs: Array, rhs: Array, dimension_numbers: Any, name: str) -> Array:
    return _product(_round(lhs, name), _round(rhs, name), dimension_numbers, name)


def _forward(lhs: Array, rhs: Array, dimension_numbers: Any, name: str) -> tuple[Array, tuple[Array, Array]]:
    rounded = _round(lhs, name), _round(rhs, name)
    return _product(*rounded, dimension_numbers, name), rounded


def _backward(dimension_numbers: Any, name: str, rounded: tuple[Array, Array], gradient: Array) -> tuple[Array, Array]:
    product = functools.partial(_product, dimension_numbers=dimension_numbers, name=name)
    gradients: tuple[Array, Array] = jax.vjp(product, *rounded)[1](_round(gradient, name))
    return gradients


_rounded.defvjp(_forward, _backward)


def _round(array: Array, name: str) -> Array:
    rounded: Array = jax.lax.reduce_precision(array, exponent_bits=8, mantissa_bits=MANTISSA_BITS[name])
    return rounded


def _product(lhs: Array, rhs: Array, dimension_numbers: Any, name: str) -> Array:
    """Of rounded operands, on which the hardware's own rounding changes nothing."""
    product: Array = jax.lax.dot_general(lhs, rhs, dimension_numbers, precision=HARDWARE.get(name))
    return product
