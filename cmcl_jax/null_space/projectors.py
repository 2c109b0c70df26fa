"""Orthogonal projectors: what one leaf must not move, and how a second moment becomes a projector."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.typing import ArrayLike
from jaxtyping import Array, Float, PyTree

from cmcl_jax.null_space.layouts import WeightDimensionNumbers, sizes
from cmcl_jax.null_space.ranks import directions_kept
from cmcl_jax.null_space.variables import in_mapping_of

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


def projector(
    second_moment: Float[Array, "d d"],
    threshold: float | Float[Array, ""],
    rule: str = "absolute",
    *,
    rows: float | Array | None = None,
) -> Float[Array, "d d"]:
    """Orthogonal projector onto the directions that a second moment marks as used.

    Args:
        second_moment: `E[x x^T]`, symmetric and positive semidefinite; Hermitian, `E[x̄ x^T]`, of complex rows `x`.
        threshold: which directions count, see `rule`. May be traced; it never changes a shape.
        rule: with singular values `s`, largest first: "absolute" keeps `s > threshold` (the paper's λ_min), "relative"
          keeps `s > threshold · s[0]`, "energy" keeps the fewest directions that hold the share `1 − threshold` of
          the trace, "gap" keeps those before the widest gap above `threshold · s[0]`, and "noise" keeps what exceeds
          `threshold` times the upper edge of white noise of `rows` rows. `ranks.directions_kept` has the formulas. A
          second moment of zeros gives a projector of zeros under every rule.
        rows: number of rows behind the moment, which "noise" needs and no other rule reads. May be traced.

    Returns:
        `U_k U_k^T`, computed by `jnp.linalg.svd` in at least single precision.

    Raises:
        ValueError: for a rule that is not one of `THRESHOLD_RULES`, "noise" without rows, a moment that is not square,
          or one with a NaN or an infinity. Under jit and vmap, where values cannot raise, such a moment gives a
          projector of NaNs: it spoils the run visibly, where one of zeros would silently protect nothing.

    Example:
        >>> import jax.numpy as jnp
        >>> projector(jnp.diag(jnp.array([2.0, 1e-3])), threshold=0.01)
        Array([[1., 0.],
               [0., 0.]], dtype=float32)
    """
    if second_moment.ndim != 2 or second_moment.shape[0] != second_moment.shape[1]:
        raise ValueError(f"projector: second_moment must be square, (d, d), but its shape is {second_moment.shape}.")
    _check_finite(second_moment)
    moment = at_least_single(second_moment)
    finite = jnp.all(jnp.isfinite(moment))
    u, s, _ = jnp.linalg.svd(jnp.where(finite, moment, 0), hermitian=True)
    kept = jnp.where(directions_kept(s, threshold, rule, rows), u, 0)
    return jnp.where(finite, jnp.matmul(kept, adjoint(kept), precision=HIGHEST), jnp.nan)


def at_least_single(array: ArrayLike) -> Array:
    """Half precision as float32, all else as it is."""
    array = jnp.asarray(array)
    return array.astype(jnp.promote_types(array.dtype, jnp.float32))


def adjoint(matrices: Float[Array, "*batch m n"]) -> Float[Array, "*batch n m"]:
    """The transpose, conjugated where matrices are complex."""
    return matrices.mT.conj()


def _check_finite(second_moment: Float[Array, "d d"]) -> None:
    if isinstance(second_moment, jax.core.Tracer):
        return
    wrong = int(np.sum(~np.isfinite(np.asarray(second_moment))))
    if wrong:
        raise ValueError(
            f"projector: second_moment has {wrong} of {second_moment.size} entries that are NaN or infinite. Check the "
            "features that it was made of for NaNs, and for an overflow of their squares."
        )


def nothing_to_protect(
    leaf: Array, numbers: WeightDimensionNumbers | None, protect_biases: bool
) -> NullSpaceProjector | None:
    """Projectors of zeros for a leaf, of at least single precision; `None` if it is never to be projected."""
    if numbers is None or not (numbers.inputs or protect_biases):
        return None
    batch, d_in, d_out = sizes(leaf.shape, numbers)
    zeros = lambda d: jnp.zeros((*batch, d, d), jnp.promote_types(leaf.dtype, jnp.float32))  # noqa: E731
    return NullSpaceProjector(zeros(d_in) if numbers.inputs else None, zeros(d_out))


def is_entry(node: PyTree) -> bool:
    """Whether a node is what a tree of projectors has in place of a leaf; `masked` leaves a `MaskedNode` there."""
    return node is None or isinstance(node, NullSpaceProjector | optax.MaskedNode)


def fit_projectors(projectors: PyTree, like: PyTree) -> PyTree:
    """One projector per leaf, from projectors of leaves or of subtrees, in the shapes and dtypes of `like`."""
    try:
        return jax.tree.map_with_path(_fit_subtree, in_mapping_of(like, projectors), like, is_leaf=is_entry)
    except (ValueError, TypeError) as error:
        raise ValueError(
            f"replace_projectors: the projectors do not fit the optimizer state: {error}. Give a tree like the "
            "parameters, with a NullSpaceProjector or None for each leaf or whole layer; without dimension_numbers, "
            "only kernels (in, out) and biases (out,) can be protected."
        ) from error


def _fit_subtree(top: tuple[Any, ...], new: NullSpaceProjector | None, olds: PyTree) -> PyTree:
    entries = jax.tree.leaves(olds, is_leaf=is_entry)
    if new is not None and entries and all(old is None for old in entries):
        raise ValueError(
            f"{jax.tree_util.keystr(top)} has a NullSpaceProjector, but no dimension numbers by which it could be "
            "projected, or protect_biases=False"
        )
    name = lambda path: jax.tree_util.keystr(top + path)  # noqa: E731
    return jax.tree.map_with_path(lambda path, old: _fit(new, old, name(path)), olds, is_leaf=is_entry)


def _fit(new: NullSpaceProjector | None, old: NullSpaceProjector | None, name: str) -> NullSpaceProjector | None:
    if not isinstance(old, NullSpaceProjector):
        return old
    if new is None:
        new = NullSpaceProjector(*(None if side is None else jnp.zeros_like(side) for side in old))
    return NullSpaceProjector(
        None if old.inputs is None else _fit_side(f"{name}.inputs", new.inputs, old.inputs),
        None if old.outputs is None else _fit_side(f"{name}.outputs", new.outputs, old.outputs),
    )


def _fit_side(side: str, new: Array | None, old: Array) -> Array:
    if new is None:
        new = jnp.eye(old.shape[-1], dtype=old.dtype)
    # A copy, for one projector may serve many leaves and stays the caller's: a state that shares it cannot be donated.
    if new.shape == old.shape:
        return jnp.array(new, old.dtype, copy=True)
    if new.shape == old.shape[-2:]:
        return jnp.array(jnp.broadcast_to(new, old.shape), old.dtype, copy=True)
    for_all = f" or, for all of them, {old.shape[-2:]}" if old.ndim > 2 else ""
    raise ValueError(f"{side} has shape {new.shape} where the parameters need {old.shape}{for_all}")
