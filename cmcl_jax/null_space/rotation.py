"""The exact-zero strength: an optimizer that runs where what is protected is a set of coordinates.

In the eigenbases `U_in`, `U_out` of the projectors a kernel is `C = U_in^T K U_out`, and `P_in K P_out` is the block of
`C` whose rows and columns are protected. There the projection is a mask, and its zeros are exact.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float, PyTree

from cmcl_jax.null_space.layouts import DimensionNumbers, WeightDimensionNumbers, as_matrices, numbers_of_leaves
from cmcl_jax.null_space.projectors import (
    HIGHEST,
    Subspaces,
    adjoint,
    fit_projectors,
    nothing_to_protect,
)
from cmcl_jax.null_space.protection import is_protecting, map_entries
from cmcl_jax.null_space.variables import with_variables_of, without_variables


class RotatedState(NamedTuple):
    """State of `in_rotated_coordinates`.

    Attributes:
        coordinates: the parameters' tree with `Subspaces` or `None` in place of each leaf.
        numbers: the same tree with the `WeightDimensionNumbers` or `None` of each leaf. They are static: no arrays.
        inner_state: that of the inner optimizer, in these coordinates.
    """

    coordinates: PyTree
    numbers: PyTree
    inner_state: PyTree

    def with_projectors(self, projectors: PyTree) -> RotatedState:
        """See `replace_projectors`."""
        fitted = fit_projectors(projectors, without_variables(self.coordinates))
        return self._replace(coordinates=with_variables_of(self.coordinates, fitted))

    def protected_part(self, updates: PyTree) -> PyTree:
        """The protected coordinates of each leaf, zeros elsewhere and for a leaf without coordinates."""
        part = lambda *of_leaf: _rotated(*of_leaf, keep_protected=True)  # noqa: E731
        return map_entries(part, self.coordinates, self.numbers, updates, without=jnp.zeros_like)


def in_rotated_coordinates(
    inner: optax.GradientTransformation, *, protect_biases: bool = True, dimension_numbers: DimensionNumbers = None
) -> optax.GradientTransformationExtraArgs:
    """Runs an optimizer in the eigenbases of the projectors, where protected coordinates receive exact zeros.

    Gradients and parameters are rotated, their protected coordinates set to zero, `inner` runs, the protected
    coordinates of what it emits are set to zero, and the result is rotated back. The promise: in these coordinates the
    emitted update is zero where it is protected, exactly, whatever `inner` does (Adam, sign, decay, noise of its own)
    and whatever its state holds. A leaf of which everything is protected keeps its bits. Otherwise the bases, rotating
    back and adding to the parameters round, as they do after `dual_null_space`; but none of it passes through `inner`.

    Unlike `dual_null_space` after an optimizer, it also keeps protected coordinates out of what `inner` sees: norms,
    clipping and factored moments are those of the free part. Optimizers that scale elements are another
    optimizer in other coordinates, so the path differs from that of the projected one, with the same promise.

    The coordinates of a `Subspace` are its own, so that those of a second moment are its principal directions. A
    projector given as a matrix knows no directions within what is protected, and within what is free: the decomposition
    picks one basis of many, the same on the same machine, perhaps another in another precision or with another LAPACK.
    An optimizer that scales elements then takes another path there, as with another random seed. So it does among
    principal directions of equal strength, such as those that no row has.

    Broken, as for every strength, by what comes *after* it and is not a scaling by a scalar: elementwise rescaling,
    sign or decay in the original coordinates. Put the decay inside.

    The state starts with nothing to protect, in the identity basis: a first step is that of `inner`, bit for bit (under
    jit, XLA may fuse other operations with it, which shows in the last bit). Put projectors in with
    `replace_projectors`, which finds the eigenbases of those that are matrices by `jnp.linalg.svd`; nothing is compiled
    again.

    The moments in `inner_state` stay as they are then, and belong to the old coordinates. Start the optimizer afresh
    for a new task, `replace_projectors(tx.init(params), …)`; going on with old moments costs direction and speed for as
    long as `inner` remembers, never the promise. An `inner` that keeps copies of the parameters (schedule-free,
    lookahead) or that calls a loss (line searches) cannot work here.

    Args:
        inner: the optimizer; parameters and extra arguments are passed on, the former rotated.
        protect_biases: as for `dual_null_space`; if False, biases reach `inner` and leave it as they are.
        dimension_numbers: as for `dual_null_space`. A leaf keeps its shape in the rotated coordinates.

    Returns:
        An `optax.GradientTransformationExtraArgs` whose state is a `RotatedState`. Its `init` raises `ValueError` as
        that of `dual_null_space` does, and if `inner` itself holds projectors.

    Example:
        >>> import jax.numpy as jnp, optax
        >>> from cmcl_jax import NullSpaceProjector, replace_projectors
        >>> head = {"kernel": jnp.ones((2, 2)), "bias": jnp.ones(2)}
        >>> tx = in_rotated_coordinates(optax.adam(1e-3))
        >>> onto_first = jnp.diag(jnp.array([1.0, 0.0]))
        >>> state = replace_projectors(tx.init(head), NullSpaceProjector(onto_first, onto_first))
        >>> updates, state = tx.update(head, state, head)
        >>> jnp.abs(updates["kernel"]).round(4)
        Array([[0.   , 0.001],
               [0.001, 0.001]], dtype=float32)
    """
    inner = optax.with_extra_args_support(inner)

    def init(params: PyTree) -> RotatedState:
        bare = without_variables(params)
        numbers = numbers_of_leaves(dimension_numbers, bare)
        inner_state = inner.init(params)
        if any(map(is_protecting, jax.tree.leaves(inner_state, is_leaf=is_protecting))):
            raise ValueError(
                "in_rotated_coordinates: inner holds projectors itself, which would be read in the wrong coordinates. "
                "Leave dual_null_space() out of it, or use it without in_rotated_coordinates()."
            )

        start = lambda leaf, numbers: nothing_to_protect(leaf, numbers, protect_biases)  # noqa: E731
        return RotatedState(jax.tree.map(start, bare, numbers), numbers, inner_state)

    def update(
        updates: PyTree, state: RotatedState, params: PyTree | None = None, **extra_args: Any
    ) -> tuple[PyTree, RotatedState]:
        rotate = lambda tree: map_entries(_free, state.coordinates, state.numbers, tree)  # noqa: E731
        rotated_params = None if params is None else rotate(params)
        emitted, inner_state = inner.update(rotate(updates), state.inner_state, rotated_params, **extra_args)
        emitted = map_entries(_rotated_back, state.coordinates, state.numbers, emitted)
        return emitted, state._replace(inner_state=inner_state)

    return optax.GradientTransformationExtraArgs(init, update)


def _free(c: Subspaces, numbers: WeightDimensionNumbers, leaf: Array) -> Array:
    return _rotated(c, numbers, leaf, keep_protected=False).astype(leaf.dtype)


def _rotated(c: Subspaces, numbers: WeightDimensionNumbers, leaf: Array, *, keep_protected: bool) -> Float[Array, ...]:
    matrices, undo = as_matrices(leaf, numbers)
    rotated = jnp.matmul(matrices, c.outputs.vectors, precision=HIGHEST)
    if c.inputs is not None:
        rotated = jnp.matmul(adjoint(c.inputs.vectors), rotated, precision=HIGHEST)
    return undo(jnp.where(_protected(c) == keep_protected, rotated, 0))


def _rotated_back(c: Subspaces, numbers: WeightDimensionNumbers, leaf: Array) -> Array:
    matrices, undo = as_matrices(leaf, numbers)
    masked = jnp.where(_protected(c), 0, matrices)
    back = jnp.matmul(masked, adjoint(c.outputs.vectors), precision=HIGHEST)
    if c.inputs is not None:
        back = jnp.matmul(c.inputs.vectors, back, precision=HIGHEST)
    return undo(back).astype(leaf.dtype)


def _protected(c: Subspaces) -> Bool[Array, "*batch d_in d_out"]:
    outputs = c.outputs.protected[..., None, :]
    return outputs if c.inputs is None else c.inputs.protected[..., :, None] & outputs
