"""How far old alignment scores moved, and how far they can have moved at most. docs/theory.md has the derivations.

Notation: features `X` (n, d_in), homogeneous features `H = [X, 1]`, a head as one matrix `Θ = [K; b]`, its outputs
`Z = H Θ`, the alignment of a pair `A = Z_a Z_b^T` (n, n), and `D = Θ_after − Θ_before`. Then, to all orders (eq. 3),

    A_after − A_before = H_a D_a Z_b^T + Z_a D_b^T H_b^T + H_a D_a D_b^T H_b^T.

Three functions measure it, and each needs less than the one before:

* `deviation_on_rows`: the old rows. The comparison for the others.
* `deviation_from_memory`: second moments and means of both sides, and both heads before and after. It is no estimate:
  the Frobenius norm of all n² scores is a function of these moments (eq. 7).
* `projected_bound`: how much of each side the projectors cover, and norms of the change. It says what a projection
  with truncated, stale or missing projectors can cost at most (eq. 13 to 17).

All are in units of one score: Frobenius norms divided by n, the root mean square over the n² scores. A pair is
`{"a": head, "b": head}`, as in `methods.base.active_pair`. Everything runs under jit and vmap. A second moment holds
the square of what is asked for, so a deviation below `√eps` of the score's scale is lost in it: 3e-4 in float32,
1e-8 in float64. Compute in float64 where that matters.

Other measures of the same theory, importable from here: `plasticity` and `capacity`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from cmcl_jax.heads import Head
from cmcl_jax.memory import FeatureMemory, output_moment, stacked_moment
from cmcl_jax.metrics.capacity import effective_rank as effective_rank
from cmcl_jax.metrics.capacity import forecast as forecast
from cmcl_jax.metrics.capacity import free_dimensions as free_dimensions
from cmcl_jax.metrics.capacity import stable_rank as stable_rank
from cmcl_jax.metrics.plasticity import first_order_decrease as first_order_decrease
from cmcl_jax.metrics.plasticity import higher_order_ratio as higher_order_ratio
from cmcl_jax.null_space import HIGHEST, NullSpaceProjector

Pair = Mapping[str, Head]
Memories = Mapping[str, FeatureMemory]


class Terms(NamedTuple):
    """The three terms of a change of alignment (eq. 3), or a bound of each: root mean squares over the n² scores.

    Attributes:
        first_a: of first order, from the head of `a`.
        first_b: of first order, from the head of `b`.
        second: of second order, there only if both heads moved.
    """

    first_a: Float[Array, ""]
    first_b: Float[Array, ""]
    second: Float[Array, ""]

    @property
    def bound(self) -> Float[Array, ""]:
        """Their sum, which bounds the deviation by the triangle inequality (eq. 8)."""
        return self.first_a + self.first_b + self.second


class Deviation(NamedTuple):
    """What became of the alignment scores of an old pair.

    Attributes:
        rms: root mean square change of a score, `‖A_after − A_before‖_F / n`.
        terms: the same of each of its three terms; `rms <= terms.bound`.
        scale: root mean square of a score before, `‖A_before‖_F / n`.
    """

    rms: Float[Array, ""]
    terms: Terms
    scale: Float[Array, ""]

    @property
    def relative(self) -> Float[Array, ""]:
        """`‖A_after − A_before‖_F / ‖A_before‖_F`; 0 where there were no scores but zeros."""
        return jnp.where(self.scale > 0, self.rms / jnp.where(self.scale > 0, self.scale, 1), 0)


class Norms(NamedTuple):
    """Norms of a matrix, or bounds of them; of a matrix of n rows, divided by √n."""

    spectral: Float[Array, ""]
    frobenius: Float[Array, ""]


class Covered(NamedTuple):
    """Norms of a matrix `X` of old rows in the directions that a projector covers and outside of them.

    Attributes:
        inside: of `X P`.
        outside: of `X (I − P)`: what truncation, or a stale projector, leaves unprotected.
        whole: of `X`.
    """

    inside: Norms
    outside: Norms
    whole: Norms


def deviation_from_memory(memories: Memories, before: Pair, after: Pair) -> Deviation:
    """How far the scores of an old pair moved, from what is remembered of it (eq. 7).

    Args:
        memories: `{"a": FeatureMemory, "b": FeatureMemory}` of the pair's rows.
        before, after: the pair's heads at both times, `{"a": head, "b": head}`.

    Returns:
        The `Deviation`, exact up to `√eps` of the scale of the scores.

    Example:
        >>> import jax.numpy as jnp
        >>> eye = {"kernel": jnp.eye(2), "bias": jnp.zeros(2)}
        >>> moved = {"kernel": jnp.diag(jnp.array([1.0, 3.0])), "bias": jnp.zeros(2)}
        >>> first = FeatureMemory(jnp.diag(jnp.array([1.0, 0.0])), jnp.array([1.0, 0.0]), jnp.array(1.0))
        >>> second = FeatureMemory(jnp.diag(jnp.array([0.0, 1.0])), jnp.array([0.0, 1.0]), jnp.array(1.0))
        >>> both = lambda memory: {"a": memory, "b": memory}
        >>> deviation_from_memory(both(second), both(eye), {"a": moved, "b": eye}).relative  # 1 became 3
        Array(2., dtype=float32)
        >>> deviation_from_memory(both(first), both(eye), {"a": moved, "b": eye}).relative
        Array(0., dtype=float32)
    """
    return _deviation({side: _root(stacked_moment(memory)) for side, memory in memories.items()}, before, after)


def deviation_on_rows(features: Mapping[str, Float[Array, "n d"]], before: Pair, after: Pair) -> Deviation:
    """The same on the rows themselves, exact up to `eps`; the n × n scores are never formed.

    Args:
        features: `{"a": (n, d_a), "b": (n, d_b)}`.
        before, after: as in `deviation_from_memory`.
    """
    return _deviation({side: _root_of_rows(rows) for side, rows in features.items()}, before, after)


def projected_bound(
    memories: Memories,
    before: Pair,
    after: Pair,
    projectors: Mapping[str, NullSpaceProjector],
    stacked: bool = False,
) -> Terms:
    """Bound of each term of the change of an old pair's scores, through what its projectors cover (eq. 13 to 17).

    It holds for any change and any projectors. It is small if the change was projected, the input projectors cover
    the old inputs, and the output projectors cover the partner's outputs *with its head before the change*.

    On Gaussian heads and changes, and Gaussian rows of full or a third of the rank, the sum is within a factor of 25 of
    the deviation for widths up to 48 (tests/metrics/test_stability.py); it is looser by about `√(d / stable rank)` for
    each factor that is far from isotropic (docs/theory.md, section 4). `Deviation.terms` is within 2.

    Args:
        memories, before, after: as in `deviation_from_memory`.
        projectors: of both heads. `None` on a side is the identity, as in `dual_null_space`.
        stacked: input projectors are `(d_in + 1, d_in + 1)`, onto rows `[x, 1]`, and bias and kernel are one matrix.

    Returns:
        `Terms` of bounds; `bound` is that of the whole deviation. They include the rounding of the moments, so even
        with nothing outside the projectors they do not fall below about `√(d eps)` of the scale.
    """
    sides = {side: _side(memories[side], before[side], after[side], projectors[side], stacked) for side in before}
    moved_a, moved_b = sides["a"].moved, sides["b"].moved
    return Terms(
        first_a=_first_order(sides["a"], projectors["a"], output_moment(memories["b"], before["b"])),
        first_b=_first_order(sides["b"], projectors["b"], output_moment(memories["a"], before["a"])),
        second=_product(moved_a, moved_b).frobenius,
    )


def covered(moment: Float[Array, "d d"], projector: Float[Array, "d d"] | None) -> Covered:
    """How much of the rows behind a second moment a projector covers: `‖X (I − P)‖_F² = n tr((I − P) S)` (eq. 11).

    Args:
        moment: `E[x x^T]` of the rows in question. They need not be those that the projector was made of.
        projector: orthogonal; `None` is the identity.

    Returns:
        Norms divided by √n. Rounding of `d · eps` of the moment is added to the squares, so that they are bounds.
    """
    whole = _norms(moment, moment)
    if projector is None:
        zero = jnp.zeros_like(whole.spectral)
        return Covered(whole, Norms(zero, zero), whole)
    inside = _between(projector, moment)
    outside = _between(jnp.eye(moment.shape[0], dtype=moment.dtype) - projector, moment)
    return Covered(_norms(inside, moment), _norms(outside, moment), whole)


def dropped_norms(
    spectrum: Float[Array, " d"], kept: Bool[Array, " d"], share: float | Float[Array, ""] = 1.0
) -> Norms:
    """Bound of `Covered.outside` by the singular values that a threshold rule drops (eq. 12).

    Args:
        spectrum: singular values of the second moment that the projector was made of.
        kept: what `ranks.directions_kept` says of them.
        share: of the rows behind that moment, the share of those in question (one pair of several pooled ones): they
          can hold all of what was dropped, so their own mean is larger by `1 / share`.

    Returns:
        Norms of `X (I − P)`, divided by the square root of the number of rows of `X`.

    Example:
        >>> import jax.numpy as jnp
        >>> dropped_norms(jnp.array([5.0, 3.0, 1.0, 0.0]), jnp.array([True, False, False, False]))
        Norms(spectral=Array(1.7320508, dtype=float32), frobenius=Array(2., dtype=float32))
    """
    dropped = jnp.where(kept, 0, spectrum)
    return Norms(jnp.sqrt(jnp.max(dropped) / share), jnp.sqrt(jnp.sum(dropped) / share))


class _Side(NamedTuple):
    """One head of a pair and its change.

    Attributes:
        inputs: what the input projector covers of the old inputs.
        inside, outside: `P_in ΔK` and `(I − P_in) ΔK`.
        bias: the change of the bias, zeros if it is part of the kernel.
        moved: bounds of the norms of `H D`.
    """

    inputs: Covered
    inside: Float[Array, "d_in d_out"]
    outside: Float[Array, "d_in d_out"]
    bias: Float[Array, " d_out"]
    moved: Norms


def _side(memory: FeatureMemory, before: Head, after: Head, p: NullSpaceProjector, stacked: bool) -> _Side:
    if stacked:
        moment, kernel = stacked_moment(memory), _matrix(after) - _matrix(before)
        bias = jnp.zeros_like(before["bias"])
    else:
        moment, kernel = memory.moment, after["kernel"] - before["kernel"]
        bias = after["bias"] - before["bias"]
    inputs = covered(moment, p.inputs)
    inside = kernel if p.inputs is None else _dot(p.inputs, kernel)
    outside = kernel - inside
    parts = _product(inputs.inside, _matrix_norms(inside)), _product(inputs.outside, _matrix_norms(outside))
    of_bias = jnp.linalg.norm(bias)
    moved = Norms(*(in_ + out + of_bias for in_, out in zip(*parts, strict=True)))
    return _Side(inputs, inside, outside, bias, moved)


def _first_order(side: _Side, p: NullSpaceProjector, partner: Float[Array, "d_out d_out"]) -> Float[Array, ""]:
    """Bound of `‖(X ΔK + 1 Δb) Z^T‖_F / n`, block by block of the two projectors (eq. 13 to 15)."""
    outputs = covered(partner, p.outputs)
    leaked, bias = (x if p.outputs is None else _dot(x, p.outputs) for x in (side.inside, side.bias))
    blocks = (
        _triple(side.inputs.inside, leaked, outputs.inside),
        _triple(side.inputs.inside, side.inside - leaked, outputs.outside),
        _triple(side.inputs.outside, side.outside, outputs.whole),
        jnp.linalg.norm(bias) * outputs.inside.spectral,
        jnp.linalg.norm(side.bias - bias) * outputs.outside.spectral,
    )
    return sum(blocks, jnp.zeros_like(blocks[0]))


def _triple(left: Norms, change: Float[Array, "i o"], right: Norms) -> Float[Array, ""]:
    """`‖X D Z^T‖_F` is at most two spectral norms times one Frobenius norm, whichever factor has the latter."""
    return _product(_product(left, _matrix_norms(change)), right).frobenius


def _product(left: Norms, right: Norms) -> Norms:
    """Bounds of the norms of a product by those of its factors."""
    frobenius = jnp.minimum(left.spectral * right.frobenius, left.frobenius * right.spectral)
    return Norms(left.spectral * right.spectral, frobenius)


def _matrix_norms(matrix: Float[Array, "i o"]) -> Norms:
    frobenius = jnp.linalg.norm(matrix)
    scaled = matrix / jnp.where(frobenius > 0, frobenius, 1)  # its squares neither underflow nor overflow
    return Norms(frobenius * jnp.sqrt(_largest(_dot(scaled.T, scaled))), frobenius)


def _norms(moment: Float[Array, "d d"], scale: Float[Array, "d d"]) -> Norms:
    """Norms of the rows behind a second moment, with the rounding of `scale`."""
    rounding = scale.shape[0] * jnp.finfo(scale.dtype).eps * jnp.trace(scale)
    squares = _largest(moment), jnp.maximum(jnp.trace(moment), 0)
    return Norms(*(jnp.sqrt(square + rounding) for square in squares))


def _largest(moment: Float[Array, "d d"]) -> Float[Array, ""]:
    """Largest eigenvalue, several times cheaper than the singular values."""
    return jnp.maximum(jnp.linalg.eigvalsh(moment)[-1], 0)


def _between(projector: Float[Array, "d d"], moment: Float[Array, "d d"]) -> Float[Array, "d d"]:
    return _dot(_dot(projector, moment), projector.T)


def _deviation(roots: Mapping[str, Float[Array, "r d+1"]], before: Pair, after: Pair) -> Deviation:
    """Eq. 7 with roots `R^T R = S̃` of the homogeneous moments: `‖H M H^T‖_F / n = ‖R M R^T‖_F`."""
    outputs = {side: _dot(roots[side], _matrix(before[side])) for side in before}
    moved = {side: _dot(roots[side], _matrix(after[side]) - _matrix(before[side])) for side in before}
    first_a, first_b = _dot(moved["a"], outputs["b"].T), _dot(outputs["a"], moved["b"].T)
    second = _dot(moved["a"], moved["b"].T)
    return Deviation(
        rms=jnp.linalg.norm(first_a + first_b + second),
        terms=Terms(*(jnp.linalg.norm(term) for term in (first_a, first_b, second))),
        scale=jnp.linalg.norm(_dot(outputs["a"], outputs["b"].T)),
    )


def _root(moment: Float[Array, "d d"]) -> Float[Array, "d d"]:
    s, u = jnp.linalg.eigh(moment)
    root: Float[Array, "d d"] = jnp.sqrt(jnp.maximum(s, 0))[:, None] * u.T
    return root


def _root_of_rows(rows: Float[Array, "n d"]) -> Float[Array, "r d+1"]:
    ones = jnp.ones((rows.shape[0], 1), rows.dtype)
    scaled = jnp.concatenate([rows, ones], axis=1) / jnp.sqrt(jnp.asarray(rows.shape[0], rows.dtype))
    root: Float[Array, "r d+1"] = jnp.linalg.qr(scaled, mode="r")
    return root


def _matrix(head: Head) -> Float[Array, "d+1 d_out"]:
    return jnp.concatenate([head["kernel"], head["bias"][None, :]])


def _dot(left: Array, right: Array) -> Array:
    product: Array = jnp.matmul(left, right, precision=HIGHEST)
    return product
