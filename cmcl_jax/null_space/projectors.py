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
    """The same as bases: what the states of transforms hold, and what no eigenbasis need be found of again.

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
    vectors, s = _principal_directions(jnp.where(finite, moment, 0))
    protected = directions_kept(s, threshold, rule, rows)
    empty = (s <= s.shape[0] * jnp.finfo(s.dtype).eps * s[0]) & ~protected
    return _in_basis(_settled(vectors, empty), protected, finite)


# Under vmap these take turns: programs with several batched decompositions can hang on few cores with JAX 0.10.


@jax.custom_batching.sequential_vmap  # type: ignore[untyped-decorator]
def _principal_directions(moment: Float[Array, "d d"]) -> tuple[Float[Array, "d d"], Float[Array, " d"]]:
    vectors, s, _ = jnp.linalg.svd(moment, hermitian=True)
    return vectors, s


@jax.custom_batching.sequential_vmap  # type: ignore[untyped-decorator]
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

    A matrix that is no projector stands for the nearest one: its eigenvalues are rounded to 0 or 1. Within what is
    protected, and within what is free, a projector's matrix knows no directions: the basis is whichever the
    decomposition gives.
    """
    return side if isinstance(side, Subspace) else _eigenbasis(side)


@jax.jit
def _eigenbasis(matrix: Float[Array, "*batch d d"]) -> Subspace:
    matrix = at_least_single(matrix)
    finite = jnp.all(jnp.isfinite(matrix), axis=(-2, -1))
    vectors, values, _ = jnp.linalg.svd(jnp.where(finite[..., None, None], matrix, 0), hermitian=True)
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


def nothing_to_protect(leaf: Array, numbers: WeightDimensionNumbers | None, protect_biases: bool) -> Subspaces | None:
    """What protects nothing of a leaf, in at least single precision; `None` if it is never to be projected."""
    if numbers is None or not (numbers.inputs or protect_biases):
        return None
    batch, d_in, d_out = sizes(leaf.shape, numbers)
    dtype = jnp.promote_types(leaf.dtype, jnp.float32)
    nothing = lambda d: _all_or_nothing((*batch, d, d), dtype, protected=False)  # noqa: E731
    return Subspaces(nothing(d_in) if numbers.inputs else None, nothing(d_out))


def is_entry(node: PyTree) -> bool:
    """Whether a node is what a tree of projectors has in place of a leaf; `masked` leaves a `MaskedNode` there."""
    return node is None or isinstance(node, NullSpaceProjector | Subspaces | optax.MaskedNode)


def in_eigenbases(projectors: PyTree) -> PyTree:
    """The tree with a `Subspace` for each side that is a matrix, found once where several leaves share the matrix."""
    found: dict[int, tuple[Any, Subspace]] = {}

    def convert(side: Any) -> Any:
        square = getattr(side, "ndim", 0) >= 2 and side.shape[-2] == side.shape[-1]
        if isinstance(side, Subspace) or not square:
            return side
        if id(side) not in found:
            found[id(side)] = side, as_subspace(side)  # with the side, which keeps its id from being given again
        return found[id(side)][1]

    def of_entry(entry: Any) -> Any:
        return NullSpaceProjector(*map(convert, entry)) if isinstance(entry, NullSpaceProjector) else entry

    return jax.tree.map(of_entry, projectors, is_leaf=is_entry)


def fit_projectors(projectors: PyTree, like: PyTree) -> PyTree:
    """`Subspaces` per leaf, from projectors of leaves or of subtrees, in the shapes and dtypes of `like`."""
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


def _fit(new: Protected | None, old: Subspaces | None, name: str) -> Subspaces | None:
    if not isinstance(old, Subspaces):
        return old
    protected = new is not None
    given = new if new is not None else NullSpaceProjector(None, None)
    sides = zip(old._fields, given, old, strict=True)
    fitted: list[Any] = [
        None if had is None else _fit_side(f"{name}.{side}", of_side, had, protected) for side, of_side, had in sides
    ]
    return Subspaces(*fitted)


def _fit_side(side: str, new: Side | None, old: Subspace, protected: bool) -> Subspace:
    if new is None:
        new = _all_or_nothing(old.vectors.shape, old.vectors.dtype, protected)
    like, shape = old.vectors, (new.vectors if isinstance(new, Subspace) else new).shape
    if shape not in (like.shape, like.shape[-2:]):
        for_all = f" or, for all of them, {like.shape[-2:]}" if like.ndim > 2 else ""
        raise ValueError(f"{side} has shape {shape} where the parameters need {like.shape}{for_all}")
    # A copy, for one projector may serve many leaves and stays the caller's: a state that shares it cannot be donated.
    copied = lambda new, old: jnp.array(jnp.broadcast_to(new, old.shape), old.dtype, copy=True)  # noqa: E731
    placed: Subspace = jax.tree.map(copied, as_subspace(new), old)
    return placed


def _all_or_nothing(shape: tuple[int, ...], dtype: Any, protected: bool) -> Subspace:
    return Subspace(jnp.zeros(shape, dtype) + jnp.eye(shape[-1], dtype=dtype), jnp.full(shape[:-1], protected))
