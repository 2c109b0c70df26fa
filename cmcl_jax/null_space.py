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
import numpy as np
import optax
from jaxtyping import Array, Float, PyTree

from cmcl_jax.layouts import DimensionNumbers, WeightDimensionNumbers, as_matrices, numbers_of_leaves, sizes
from cmcl_jax.ranks import THRESHOLD_RULES as THRESHOLD_RULES
from cmcl_jax.ranks import directions_kept
from cmcl_jax.variables import in_mapping_of, with_variables_of, without_variables

HIGHEST = jax.lax.Precision.HIGHEST


class NullSpaceProjector(NamedTuple):
    """What one leaf must not move: a pair of orthogonal projectors, `None` on a side standing for the identity.

    A leaf of several matrices (`WeightDimensionNumbers` with batch axes) has them in front: `(*batch, d_in, d_in)`.

    Attributes:
        inputs: `(d_in, d_in)` onto the space of old inputs. `None`: all of it, as for a bias, whose input is always 1.
        outputs: `(d_out, d_out)` onto the space of old partner outputs. `None`: all of it (one-sided projection).
    """

    inputs: Float[Array, "*batch d_in d_in"] | None
    outputs: Float[Array, "*batch d_out d_out"] | None


class DualNullSpaceState(NamedTuple):
    """State of `dual_null_space`.

    Attributes:
        projectors: the parameters' tree with a `NullSpaceProjector` or `None` in place of each leaf.
    """

    projectors: PyTree


def projector(
    second_moment: Float[Array, "d d"],
    threshold: float | Float[Array, ""],
    rule: str = "absolute",
    *,
    rows: float | Array | None = None,
) -> Float[Array, "d d"]:
    """Orthogonal projector onto the directions that a second moment marks as used.

    Args:
        second_moment: `E[x x^T]`, symmetric and positive semidefinite.
        threshold: which directions count, see `rule`. May be traced; it never changes a shape.
        rule: with singular values `s`, largest first: "absolute" keeps `s > threshold` (the paper's λ_min), "relative"
          keeps `s > threshold · s[0]`, "energy" keeps the fewest directions that hold the share `1 − threshold` of
          the trace, "gap" keeps those before the widest gap above `threshold · s[0]`, and "noise" keeps what exceeds
          `threshold` times the upper edge of white noise of `rows` rows. `cmcl_jax.ranks.directions_kept` has the
          formulas. A second moment of zeros gives a projector of zeros under every rule.
        rows: number of rows behind the moment, which "noise" needs and no other rule reads. May be traced.

    Returns:
        `U_k U_k^T`, computed by `jnp.linalg.svd`.

    Raises:
        ValueError: for a rule that is not one of `THRESHOLD_RULES`, "noise" without rows, a moment that is not square,
          or one with a NaN or an infinity. Under jit and vmap values are not looked at: a moment of NaNs gives a
          projector of zeros there, which protects nothing.

    Example:
        >>> import jax.numpy as jnp
        >>> projector(jnp.diag(jnp.array([2.0, 1e-3])), threshold=0.01)
        Array([[1., 0.],
               [0., 0.]], dtype=float32)
    """
    if second_moment.ndim != 2 or second_moment.shape[0] != second_moment.shape[1]:
        raise ValueError(f"projector: second_moment must be square, (d, d), but its shape is {second_moment.shape}.")
    _check_finite(second_moment)
    u, s, _ = jnp.linalg.svd(second_moment, hermitian=True)
    kept = jnp.where(directions_kept(s, threshold, rule, rows), u, 0)
    return jnp.matmul(kept, kept.T, precision=HIGHEST)


def _check_finite(second_moment: Float[Array, "d d"]) -> None:
    if isinstance(second_moment, jax.core.Tracer):
        return
    wrong = int(np.sum(~np.isfinite(np.asarray(second_moment))))
    if wrong:
        raise ValueError(
            f"projector: second_moment has {wrong} of {second_moment.size} entries that are NaN or infinite. Check the "
            "features that it was made of for NaNs, and for an overflow of their squares."
        )


def dual_null_space(
    *, protect_biases: bool = True, dimension_numbers: DimensionNumbers = None
) -> optax.GradientTransformationExtraArgs:
    """Projects what passes through onto the null space of old alignments.

    The state starts with projectors of zeros: there is nothing to protect, and updates pass unchanged. After a task,
    put new ones in with `replace_projectors`; shapes stay, so nothing is compiled again.

    Where it stands in a chain decides what holds (biases protected, `outputs` fresh):

    * *last before the scaling by the learning rate* — after Adam and weight decay — the applied update itself is in
      the null space: old alignments of the protected rows stay, to first order in the heads that move.
    * *before Adam*, as published, it projects gradients; Adam's elementwise rescaling, which also blows up the
      float32 rounding left where the projected gradient should be zero, and weight decay leave the null space again.

    Elementwise rescaling, sign or decay *after* this transform break the promise. Scaling by a scalar keeps it, and so
    does momentum as long as the projectors stay; a momentum that outlives `replace_projectors` carries old updates on.

    Args:
        protect_biases: biases are projected by `I − P_out`; if False they pass unchanged (as published), and old
          alignments drift with them.
        dimension_numbers: which axes of each leaf are its matrix. `None`: 2-d leaves are kernels `(d_in, d_out)`, 1-d
          leaves are biases `(d_out,)`, all others pass unchanged. Otherwise a tree with `WeightDimensionNumbers` for
          each leaf of the parameters or for a whole subtree, or a function that makes such a tree from the parameters
          (it is also called with the updates). `None` in that tree: passes unchanged, and takes no memory.

    Returns:
        An `optax.GradientTransformationExtraArgs` whose state is a `DualNullSpaceState`. Its `init` raises `ValueError`
        for dimension numbers that do not fit the parameters and, without them, for parameters that are a single vector,
        as inside `optax.flatten`.

    Example:
        >>> import jax.numpy as jnp, optax
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
        >>> updates, _ = tx.update(layer, replace_projectors(tx.init(layer), p))
        >>> updates["weight"]
        Array([[1., 1., 1.],
               [0., 1., 1.]], dtype=float32)
    """

    def init(params: PyTree) -> DualNullSpaceState:
        params = without_variables(params)
        if dimension_numbers is None and isinstance(params, jax.Array) and params.ndim == 1:
            raise ValueError(
                f"dual_null_space: the parameters are one vector of {params.size} numbers; optax.flatten hides which "
                "of them are kernels and biases. Put dual_null_space() outside of flatten, after it in the chain."
            )
        numbers = numbers_of_leaves(dimension_numbers, params)
        zeros = lambda leaf, numbers: _nothing_to_protect(leaf, numbers, protect_biases)  # noqa: E731
        return DualNullSpaceState(jax.tree.map(zeros, params, numbers))

    def update(
        updates: PyTree, state: DualNullSpaceState, params: PyTree | None = None, **extra_args: Any
    ) -> tuple[PyTree, DualNullSpaceState]:
        del params, extra_args
        return _project_tree(state.projectors, updates, dimension_numbers), state

    return optax.GradientTransformationExtraArgs(init, update)


def replace_projectors(opt_state: PyTree, projectors: PyTree) -> PyTree:
    """The optimizer state with new projectors in every `DualNullSpaceState` inside it.

    Args:
        opt_state: any optimizer state that holds a `DualNullSpaceState`, however deep (`chain`, `masked`, `partition`,
          `MultiSteps`, …).
        projectors: a tree with a `NullSpaceProjector` or `None` (protect nothing) for each leaf of the parameters or
          for a whole subtree. One for a subtree serves its kernels with both sides and its biases with `outputs`.
          A projector `(d, d)` serves all matrices of a leaf with batch axes, `(*batch, d, d)` each its own.

    Returns:
        The same state with the same shapes and dtypes.

    Raises:
        ValueError: if there is no `DualNullSpaceState`, or if a projector's shape or the trees do not fit.
    """
    found = []

    def replace(node: PyTree) -> PyTree:
        if not _is_state(node):
            return node
        found.append(node)
        olds = without_variables(node.projectors)
        replaced = _broadcast(in_mapping_of(olds, projectors), olds)
        return with_variables_of(node, DualNullSpaceState(replaced))

    replaced = jax.tree.map(replace, opt_state, is_leaf=_is_state)
    if not found:
        raise ValueError(
            f"replace_projectors: opt_state (a {type(opt_state).__name__}) holds no DualNullSpaceState. Put "
            "dual_null_space() into the chain whose init made this state."
        )
    return replaced


def protected_fraction(
    updates: PyTree, opt_state: PyTree, *, dimension_numbers: DimensionNumbers = None
) -> Float[Array, ""]:
    """Share of the updates' norm that lies in the protected space, from 0 (nothing protected moves) to 1.

    Leaves without a projector count as free: with `protect_biases=False` it says nothing about what biases move.

    Args:
        updates: what is about to be applied, the parameters' tree.
        opt_state: an optimizer state with exactly one `DualNullSpaceState`.
        dimension_numbers: those given to `dual_null_space`; the state does not hold them.

    Raises:
        ValueError: if the state holds none or several.
    """
    states = [node for node in jax.tree.leaves(opt_state, is_leaf=_is_state) if _is_state(node)]
    if len(states) != 1:
        raise ValueError(f"protected_fraction: opt_state must hold one DualNullSpaceState, but it holds {len(states)}.")
    free = _project_tree(states[0].projectors, updates, dimension_numbers)
    protected = jax.tree.map(jnp.subtract, updates, free)
    total = optax.tree.norm(updates)
    return jnp.where(total > 0, optax.tree.norm(protected) / jnp.where(total > 0, total, 1), 0)


def _is_state(node: PyTree) -> bool:
    return isinstance(node, DualNullSpaceState)


def _is_projector(node: PyTree) -> bool:
    return node is None or isinstance(node, NullSpaceProjector)


def _nothing_to_protect(
    leaf: Array, numbers: WeightDimensionNumbers | None, protect_biases: bool
) -> NullSpaceProjector | None:
    if numbers is None or not (numbers.inputs or protect_biases):
        return None
    batch, d_in, d_out = sizes(leaf.shape, numbers)
    zeros = lambda d: jnp.zeros((*batch, d, d), jnp.promote_types(leaf.dtype, jnp.float32))  # noqa: E731
    return NullSpaceProjector(zeros(d_in) if numbers.inputs else None, zeros(d_out))


def _project_tree(projectors: PyTree, updates: PyTree, dimension_numbers: DimensionNumbers) -> PyTree:
    bare = without_variables(updates)
    numbers = numbers_of_leaves(dimension_numbers, bare)
    projected = jax.tree.map(_project, without_variables(projectors), bare, numbers, is_leaf=_is_projector)
    return with_variables_of(updates, projected)


def _project(p: NullSpaceProjector | None, update: Array, numbers: WeightDimensionNumbers | None) -> Array:
    if p is None:
        return update
    if numbers is None:
        return _project_matrix(p, update)
    matrices, undo = as_matrices(update, numbers)
    project = _project_matrix
    for _ in range(update.ndim - len(numbers.inputs + numbers.outputs)):
        project = jax.vmap(project)
    return undo(project(p, matrices))


def _project_matrix(p: NullSpaceProjector, update: Array) -> Array:
    protected = update if p.outputs is None else jnp.matmul(update, p.outputs, precision=HIGHEST)
    if p.inputs is not None:
        protected = jnp.matmul(p.inputs, protected, precision=HIGHEST)
    return (update - protected).astype(update.dtype)


def _broadcast(projectors: PyTree, like: PyTree) -> PyTree:
    """One projector per leaf, from projectors of leaves or of subtrees, in the shapes and dtypes of `like`."""
    try:
        return jax.tree.map_with_path(
            lambda top, new, olds: jax.tree.map_with_path(
                lambda path, old: _fit(new, old, jax.tree_util.keystr(top + path)), olds, is_leaf=_is_projector
            ),
            projectors,
            like,
            is_leaf=_is_projector,
        )
    except (ValueError, TypeError) as error:
        raise ValueError(f"replace_projectors: the projectors do not fit the optimizer state: {error}") from error


def _fit(new: NullSpaceProjector | None, old: NullSpaceProjector | None, name: str) -> NullSpaceProjector | None:
    if old is None:
        return None
    if new is None:
        new = NullSpaceProjector(*(None if side is None else jnp.zeros_like(side) for side in old))
    return NullSpaceProjector(
        None if old.inputs is None else _fit_side(f"{name}.inputs", new.inputs, old.inputs),
        None if old.outputs is None else _fit_side(f"{name}.outputs", new.outputs, old.outputs),
    )


def _fit_side(side: str, new: Array | None, old: Array) -> Array:
    if new is None:
        new = jnp.eye(old.shape[-1], dtype=old.dtype)
    if new.shape == old.shape:
        return new.astype(old.dtype)
    if new.shape == old.shape[-2:]:
        return jnp.broadcast_to(new, old.shape).astype(old.dtype)
    for_all = f" or, for all of them, {old.shape[-2:]}" if old.ndim > 2 else ""
    raise ValueError(f"{side} has shape {new.shape} where the parameters need {old.shape}{for_all}")
