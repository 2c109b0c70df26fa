"""Dual-sided null-space projection of updates, as an optax gradient transformation.

Row-vector convention: features `X` (n, d_in), head `Z = X K + b`, alignment of a pair `A = Z_a Z_b^T`. Changing the
head of `a` by `ΔK, Δb` moves `A` by `(X_a ΔK + 1 Δb) Z_b^T` to first order. With `P_in` the projector onto the row
space of all old inputs `X_a` and `P_out` the projector onto the row space of all old partner outputs `Z_b`,

    ΔK ← ΔK − P_in ΔK P_out            Δb ← Δb − Δb P_out

moves no old alignment. (Continual Multimodal Contrastive Learning, arXiv 2503.14963; the bias rule and the update
form are this project's: docs/architecture.md.)
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, PyTree

from cmcl_jax.null_space.free_part import fewer_first, free_part, protected_part
from cmcl_jax.null_space.layouts import DimensionNumbers, WeightDimensionNumbers, as_matrices, numbers_of_leaves
from cmcl_jax.null_space.projectors import Subspace, Subspaces, fit_projectors, nothing_to_protect
from cmcl_jax.null_space.protection import map_entries
from cmcl_jax.null_space.variables import with_variables_of, without_variables


class DualNullSpaceState(NamedTuple):
    """State of `dual_null_space`.

    Attributes:
        projectors: the parameters' tree with `Subspaces` or `None` in place of each leaf; `as_matrix` of a side gives
          the projector's matrix.
        numbers: the same tree with the `WeightDimensionNumbers` or `None` of each leaf. They are static: no arrays.
    """

    projectors: PyTree
    numbers: PyTree

    def with_projectors(self, projectors: PyTree) -> DualNullSpaceState:
        """See `replace_projectors`."""
        fitted = fit_projectors(projectors, without_variables(self.projectors))
        fitted = jax.tree.map(fewer_first, fitted, is_leaf=lambda node: isinstance(node, Subspace))
        return self._replace(projectors=with_variables_of(self.projectors, fitted))

    def protected_part(self, updates: PyTree) -> PyTree:
        """`P_in U P_out` of each leaf, zeros for one without a projector."""
        return map_entries(_protected, self.projectors, self.numbers, updates, without=jnp.zeros_like)


def dual_null_space(
    *, protect_biases: bool = True, dimension_numbers: DimensionNumbers = None
) -> optax.GradientTransformationExtraArgs:
    """Projects what passes through onto the null space of old alignments.

    The state starts with projectors of zeros: there is nothing to protect, and updates pass unchanged. After a task,
    put new ones in with `replace_projectors`; shapes stay, so nothing is compiled again.

    There are three strengths (biases protected, `outputs` fresh), and `dns_adamw(project=…)` has each ready-made:

    | strength  | chain                                                    | what holds                                |
    |-----------|----------------------------------------------------------|-------------------------------------------|
    | gradients | clip → `dual_null_space` → Adam, decay → −lr, as         | the gradient is in the null space; the    |
    |           | published                                                | update is not                             |
    | updates   | clip → Adam, decay → `dual_null_space` → −lr             | the update is, to rounding: old alignments|
    |           |                                                          | stay, to first order in heads that move   |
    | exact     | clip → `in_rotated_coordinates(Adam, decay)` → −lr       | the same, and protected coordinates get   |
    |           |                                                          | exact zeros: what is all protected keeps  |
    |           |                                                          | its bits                                  |

    *Gradients*: Adam's elementwise rescaling, which also blows up the float32 rounding left where the projected
    gradient should be zero, and weight decay leave the null space again. Before plain SGD it is as good as *updates*.

    *Updates*: elementwise rescaling, sign or decay *after* this transform break the promise. Scaling by a scalar keeps
    it, and so does momentum as long as the projectors stay; a momentum that outlives `replace_projectors` carries old
    updates on. Where few directions are left free, rounding is relative to what passes, and where none is, nothing
    passes. Adding the update to the parameters rounds as well, and over many updates that is the larger part of the
    drift (`python -m benchmarks.drift`): keep float32 masters of bfloat16 parameters.

    Biases are protected leafwise, with their input of 1 on its own; `stack_biases` has the tight form.

    An update takes `4 d_in d_out (m_in + m_out)` operations a kernel, with `m` the directions of a side that are
    protected or those that are not, whichever are fewer, rounded up to one of a few widths: none where nothing or
    everything is protected, and where half is, those of a product with dense projectors (`free_part.py`). Under `vmap`
    all runs take the largest width of them.

    Args:
        protect_biases: biases are projected by `I − P_out`; if False they pass unchanged (as published), and old
          alignments drift with them.
        dimension_numbers: which axes of each leaf are its matrix. `None`: 2-d leaves are kernels `(d_in, d_out)`, 1-d
          leaves are biases `(d_out,)`, all others pass unchanged. Otherwise a tree with `WeightDimensionNumbers` for
          each leaf of the parameters or for a whole subtree, or a function that makes such a tree from the parameters
          that `init` is given. `None` in that tree: passes unchanged, and takes no memory, where a kernel takes
          `d_in² + d_out²` entries and `d_in + d_out` flags; give it for embeddings.

    Returns:
        An `optax.GradientTransformationExtraArgs` whose state is a `DualNullSpaceState`. Its `init` raises `ValueError`
        for dimension numbers that do not fit the parameters and, without them, for parameters that are a single vector,
        as inside `optax.flatten`.

    Example:
        >>> import jax.numpy as jnp, optax
        >>> from cmcl_jax import NullSpaceProjector, protected_fraction, replace_projectors
        >>> heads = {"text": {"kernel": jnp.ones((2, 2)), "bias": jnp.ones(2)}}
        >>> tx = optax.chain(optax.scale_by_adam(), dual_null_space(), optax.scale_by_learning_rate(1e-3))
        >>> state = tx.init(heads)
        >>> onto_first = jnp.diag(jnp.array([1.0, 0.0]))
        >>> state = replace_projectors(state, {"text": NullSpaceProjector(onto_first, onto_first)})
        >>> updates, state = tx.update(heads, state, heads)
        >>> (-updates["text"]["kernel"]).round(4)
        Array([[0.   , 0.001],
               [0.001, 0.001]], dtype=float32)

        In torch's layout, a weight is (out, in). A linear layer of three inputs and two outputs:

        >>> layer = {"weight": jnp.ones((2, 3)), "bias": jnp.ones(2)}
        >>> numbers = {"weight": WeightDimensionNumbers((1,), (0,)), "bias": WeightDimensionNumbers((), (0,))}
        >>> tx = dual_null_space(dimension_numbers=numbers)
        >>> p = NullSpaceProjector(jnp.diag(jnp.array([1.0, 0.0, 0.0])), jnp.diag(jnp.array([0.0, 1.0])))
        >>> state = replace_projectors(tx.init(layer), p)
        >>> updates, state = tx.update(layer, state)
        >>> updates["weight"]
        Array([[1., 1., 1.],
               [0., 1., 1.]], dtype=float32)
        >>> print(protected_fraction(updates, state))
        0.0
    """

    def init(params: PyTree) -> DualNullSpaceState:
        params = without_variables(params)
        numbers = numbers_of_leaves(dimension_numbers, params)
        start = lambda leaf, numbers: nothing_to_protect(leaf, numbers, protect_biases)  # noqa: E731
        return DualNullSpaceState(jax.tree.map(start, params, numbers), numbers)

    def update(
        updates: PyTree, state: DualNullSpaceState, params: PyTree | None = None, **extra_args: Any
    ) -> tuple[PyTree, DualNullSpaceState]:
        del params, extra_args
        return map_entries(_free, state.projectors, state.numbers, updates), state

    return optax.GradientTransformationExtraArgs(init, update)


def _free(p: Subspaces, numbers: WeightDimensionNumbers, update: Array) -> Array:
    matrices, undo = as_matrices(update, numbers)
    return undo(free_part(p, matrices)).astype(update.dtype)


def _protected(p: Subspaces, numbers: WeightDimensionNumbers, update: Array) -> Array:
    matrices, undo = as_matrices(update, numbers)
    return undo(protected_part(p, matrices))
