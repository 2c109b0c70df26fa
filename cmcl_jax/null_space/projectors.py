"""Orthogonal projectors: what one leaf must not move, and how a second moment becomes a projector."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float, PyTree

from cmcl_jax.null_space.layouts import WeightDimensionNumbers, sizes
from cmcl_jax.null_space.ranks import directions_kept
from cmcl_jax.null_space.variables import in_mapping_of

HIGHEST = jax.lax.Precision.HIGHEST


class Subspace(NamedTuple):
    """A subspace as a set of coordinates: an orthonormal basis of the whole space, and which of its vectors span it.

    Attributes:
        vectors: `(*batch, d, d)`, orthonormal columns. The identity where all of them or none are protected.
        protected: `(*batch, d)`, the columns that span the subspace.
    """

    vectors: Float[Array, "*batch d d"]
    protected: Bool[Array, "*batch d"]


class NullSpaceProjector(NamedTuple):
    """What one leaf must not move: a pair of orthogonal projectors, `None` on a side standing for the identity.

    A leaf of several matrices (`WeightDimensionNumbers` with batch axes) has them in front: `(*batch, d_in, d_in)`.

    Attributes:
        inputs: `(d_in, d_in)` onto the space of old inputs. `None`: all of it, as for a bias, whose input is always 1.
        outputs: `(d_out, d_out)` onto the space of old partner outputs. `None`: all of it (one-sided projection).
    """

    inputs: Float[Array, "*batch d_in d_in"] | None
    outputs: Float[Array, "*batch d_out d_out"] | None


class Subspaces(NamedTuple):
    """The same as coordinates: what a transform that works in an eigenbasis need not find again.

    Attributes:
        inputs, outputs: what the projectors of `NullSpaceProjector` project onto.
    """

    inputs: Subspace | None
    outputs: Subspace


Protected = NullSpaceProjector | Subspaces
Side = Array | Subspace


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
    return as_matrix(subspace(second_moment, threshold, rule, rows=rows))


def subspace(
    second_moment: Float[Array, "d d"],
    threshold: float | Float[Array, ""],
    rule: str = "absolute",
    *,
    rows: float | Array | None = None,
) -> Subspace:
    """The directions that a second moment marks as used, in its own eigenbasis; arguments as those of `projector`.

    Example:
        >>> import jax.numpy as jnp
        >>> subspace(jnp.diag(jnp.array([1e-3, 2.0])), threshold=0.01).protected
        Array([ True, False], dtype=bool)
    """
    if second_moment.ndim != 2 or second_moment.shape[0] != second_moment.shape[1]:
        raise ValueError(f"projector: second_moment must be square, (d, d), but its shape is {second_moment.shape}.")
    _check_finite(second_moment)
    moment = at_least_single(second_moment)
    finite = jnp.all(jnp.isfinite(moment))
    vectors, s, _ = jnp.linalg.svd(jnp.where(finite, moment, 0), hermitian=True)
    protected = directions_kept(s, threshold, rule, rows)
    empty = (s <= s.shape[0] * jnp.finfo(s.dtype).eps * s[0]) & ~protected
    return _in_basis(_settled(vectors, empty), protected, finite)


def _settled(vectors: Float[Array, "d d"], empty: Bool[Array, " d"]) -> Float[Array, "d d"]:
    """The basis with those of its directions that no row has chosen anew, by the space that they span alone.

    Which of them a decomposition returns is up to rounding: to the batch that it is computed in, the device, the
    precision. Here they are what an orthonormalization makes of fixed directions in that space.
    """
    kept = jnp.where(empty, 0, vectors)
    drawn = jax.random.normal(jax.random.key(0), vectors.shape, jnp.float32).astype(vectors.dtype)
    space = drawn - jnp.matmul(kept, jnp.matmul(adjoint(kept), drawn, precision=HIGHEST), precision=HIGHEST)
    settled, _ = jnp.linalg.qr(jnp.where(empty, space, vectors))
    return jnp.where(empty, settled, vectors)


def as_subspace(side: Float[Array, "*batch d d"] | Subspace) -> Subspace:
    """A projector in an eigenbasis of its own, found by `jnp.linalg.svd`; a `Subspace` as it is.

    Within what is protected, and within what is free, a projector's matrix knows no directions: the basis is whichever
    the decomposition gives.
    """
    if isinstance(side, Subspace):
        return side
    finite = jnp.all(jnp.isfinite(side), axis=(-2, -1))
    vectors, values, _ = jnp.linalg.svd(jnp.where(finite[..., None, None], side, 0), hermitian=True)
    return _in_basis(vectors, values > 0.5, finite)


def as_matrix(side: Float[Array, "*batch d d"] | Subspace) -> Float[Array, "*batch d d"]:
    """The projector's matrix `U_k U_k^T`."""
    if not isinstance(side, Subspace):
        return side
    kept = jnp.where(side.protected[..., None, :], side.vectors, side.vectors * 0)  # 0 · NaN stays NaN
    return jnp.matmul(kept, adjoint(kept), precision=HIGHEST)


def _in_basis(vectors: Float[Array, "*batch d d"], protected: Bool[Array, "*batch d"], finite: Array) -> Subspace:
    all_or_none = jnp.all(protected == protected[..., :1], axis=-1)[..., None, None]
    vectors = jnp.where(all_or_none, jnp.eye(vectors.shape[-1], dtype=vectors.dtype), vectors)
    return Subspace(jnp.where(finite[..., None, None], vectors, jnp.nan), protected)


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
    return node is None or isinstance(node, NullSpaceProjector | Subspaces | optax.MaskedNode)


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


def _fit_subtree(top: tuple[Any, ...], new: Protected | None, olds: PyTree) -> PyTree:
    entries = jax.tree.leaves(olds, is_leaf=is_entry)
    if new is not None and entries and all(old is None for old in entries):
        raise ValueError(
            f"{jax.tree_util.keystr(top)} has a NullSpaceProjector, but no dimension numbers by which it could be "
            "projected, or protect_biases=False"
        )
    name = lambda path: jax.tree_util.keystr(top + path)  # noqa: E731
    return jax.tree.map_with_path(lambda path, old: _fit(new, old, name(path)), olds, is_leaf=is_entry)


def _fit(new: Protected | None, old: Protected | None, name: str) -> Protected | None:
    if not isinstance(old, NullSpaceProjector | Subspaces):
        return old
    if new is None:
        new = NullSpaceProjector(*(None if side is None else jnp.zeros_like(_matrix_like(side)) for side in old))
    sides = zip(old._fields, new, old, strict=True)
    fitted: list[Any] = [None if had is None else _fit_side(f"{name}.{side}", given, had) for side, given, had in sides]
    return type(old)(*fitted)


def _fit_side(side: str, new: Side | None, old: Side) -> Side:
    like = _matrix_like(old)
    if new is None:
        new = jnp.eye(like.shape[-1], dtype=like.dtype)
    shape = _matrix_like(new).shape
    if shape not in (like.shape, like.shape[-2:]):
        for_all = f" or, for all of them, {like.shape[-2:]}" if like.ndim > 2 else ""
        raise ValueError(f"{side} has shape {shape} where the parameters need {like.shape}{for_all}")
    fitted = as_subspace(new) if isinstance(old, Subspace) else as_matrix(new)
    # A copy, for one projector may serve many leaves and stays the caller's: a state that shares it cannot be donated.
    copied = lambda new, old: jnp.array(jnp.broadcast_to(new, old.shape), old.dtype, copy=True)  # noqa: E731
    placed: Side = jax.tree.map(copied, fitted, old)
    return placed


def _matrix_like(side: Side) -> Array:
    """Something of the shape and dtype of the projector's matrix."""
    return side.vectors if isinstance(side, Subspace) else side
