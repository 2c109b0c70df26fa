"""`X − P_in X P_out` for the arithmetic that the ranks of the projectors ask for.

With `W` the `m` fewer of a basis' vectors, those that are protected or those that are not, `X W W^T` takes two products
of a matrix with a thin one, `4 m d²` operations, and is `X P` or `X − X P`. Where half is protected that is as much as
the dense product `X P` takes, `2 d³`, and it is nothing where nothing or everything is protected.

`m` is data and shapes are not: the thin matrix has one of a few widths, and the smallest that holds all `m` is picked
at run time. Runs under `vmap` share one pick, that of the largest of their `m`; otherwise all widths would be computed.
The products of the picked width differentiate in every mode, which a loop over blocks of `W` does not.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Shaped

from cmcl_jax.null_space.projectors import HIGHEST, Subspace, Subspaces, adjoint

SIXTEENTHS = (0, 1, 2, 4, 6, 8)
"""The widths that there are to pick from, in sixteenths of the whole."""
SMALLEST = 128
"""Below this width one product with half of the basis costs no more than picking does."""


@jax.jit
def free_part(p: Subspaces, matrices: Float[Array, "*batch d_in d_out"]) -> Float[Array, "*batch d_in d_out"]:
    """`X − P_in X P_out`. Where next to nothing is free, rounding is relative to what is left, not to `X`.

    Args:
        p: sides as `fewer_first` orders them; `inputs=None` protects all inputs.
        matrices: `X`. In less precision than the basis, it is cast to that.
    """
    free = _free_of_outputs(p.outputs, matrices)
    return free if p.inputs is None else free + _free_of_inputs(p.inputs, matrices - free)


@jax.jit
def protected_part(p: Subspaces, matrices: Float[Array, "*batch d_in d_out"]) -> Float[Array, "*batch d_in d_out"]:
    """`P_in X P_out`; arguments as for `free_part`."""
    protected = matrices - _free_of_outputs(p.outputs, matrices)
    return protected if p.inputs is None else protected - _free_of_inputs(p.inputs, protected)


def fewer_first(side: Subspace) -> Subspace:
    """The same subspace with the vectors in front that are fewer: what it protects or, if that is more, the others.

    If one of the vectors has a NaN, all are NaNs.
    """
    order = jnp.argsort(~_are_fewer(side), axis=-1, stable=True)
    vectors = jnp.take_along_axis(side.vectors, order[..., None, :], axis=-1)
    finite = jnp.all(jnp.isfinite(vectors), axis=(-2, -1), keepdims=True)
    return Subspace(jnp.where(finite, vectors, jnp.nan), jnp.take_along_axis(side.protected, order, axis=-1))


def widths(d: int) -> tuple[int, ...]:
    """How wide the thin matrix may be for a basis of `d` vectors, the last of them at least half."""
    if d < SMALLEST:
        return (-(-d // 2),)
    return tuple(-(-d * share // 16) for share in SIXTEENTHS)


@jax.custom_batching.custom_vmap
def largest_of_runs(number: Shaped[Array, ""]) -> Shaped[Array, ""]:
    """The number itself; under `vmap` the largest of all, which then is one for all of them.

    What picks a branch should come from here: with a pick of its own for each, `vmap` computes every branch for all.
    """
    return number


@largest_of_runs.def_vmap
def _(axis_size: int, in_batched: list[bool], number: Shaped[Array, " n"]) -> tuple[Shaped[Array, ""], bool]:
    del axis_size
    return jnp.max(number, axis=0) if in_batched[0] else number, False


def _free_of_outputs(side: Subspace, x: Float[Array, "*batch d_in d_out"]) -> Float[Array, "*batch d_in d_out"]:
    """`X (I − P)`."""

    def onto(w: Float[Array, "*batch d m"], kept: Bool[Array, "*batch m"], x: Array) -> Array:
        return _matmul(jnp.where(kept[..., None, :], _matmul(x, w), 0), adjoint(w))

    return _free(side, x, onto)


def _free_of_inputs(side: Subspace, x: Float[Array, "*batch d_in d_out"]) -> Float[Array, "*batch d_in d_out"]:
    """`(I − P) X`."""

    def onto(w: Float[Array, "*batch d m"], kept: Bool[Array, "*batch m"], x: Array) -> Array:
        return _matmul(w, jnp.where(kept[..., :, None], _matmul(adjoint(w), x), 0))

    return _free(side, x, onto)


def _free(side: Subspace, x: Array, onto: Callable[[Array, Array, Array], Array]) -> Array:
    x = x.astype(jnp.result_type(x, side.vectors))
    fewer, of_width = _are_fewer(side), widths(side.vectors.shape[-1])
    mostly_protected = _mostly_protected(side)[..., None]

    def by(m: int) -> Callable[[Array], Array]:
        def free(x: Array) -> Array:
            part = onto(side.vectors[..., :m], fewer[..., :m], x) if m else jnp.zeros_like(x)
            return jnp.where(mostly_protected, part, x - part)

        return free

    if len(of_width) == 1:
        free = by(of_width[0])(x)
    else:
        count = jnp.max(jnp.sum(fewer, axis=-1))
        pick = largest_of_runs(jnp.sum(count > jnp.asarray(of_width[:-1])))
        free = jax.lax.switch(pick, [by(m) for m in of_width], x)
    return free * (1 + 0 * side.vectors[..., :1, :1])  # a basis of NaNs shows, although nothing may be read of it


def _mostly_protected(side: Subspace) -> Bool[Array, "*batch 1"]:
    return 2 * jnp.sum(side.protected, axis=-1, keepdims=True) > side.protected.shape[-1]


def _are_fewer(side: Subspace) -> Bool[Array, "*batch d"]:
    return side.protected != _mostly_protected(side)


def _matmul(a: Array, b: Array) -> Array:
    return jnp.matmul(a, b, precision=HIGHEST)
