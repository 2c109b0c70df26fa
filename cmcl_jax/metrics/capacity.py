"""How much of a head is used up by what it must not forget, and how long the rest will last.

docs/theory.md, section 7.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from cmcl_jax.null_space import NullSpaceProjector

BIASES = ("leafwise", "stacked", "free")


def effective_rank(singular_values: Float[Array, " d"]) -> Float[Array, ""]:
    """`exp` of the entropy of `s / Σ s`: Roy & Vetterli, "The effective rank", EUSIPCO 2007 (eq. 23).

    Between 1 and the rank, which it reaches where all singular values are equal; 0 for a matrix of zeros. For rows `X`
    with second moment `S`, the singular values of `X` are the square roots of those of `n S`: the two effective ranks
    differ.

    Args:
        singular_values: nonnegative, in any order.

    Example:
        >>> import jax.numpy as jnp
        >>> print(round(float(effective_rank(jnp.array([2.0, 2.0, 2.0, 0.0]))), 4))
        3.0
    """
    total = jnp.sum(singular_values)
    p = singular_values / jnp.where(total > 0, total, 1)
    entropy = -jnp.sum(jnp.where(p > 0, p * jnp.log(jnp.where(p > 0, p, 1)), 0))
    return jnp.where(total > 0, jnp.exp(entropy), 0)


def stable_rank(singular_values: Float[Array, " d"]) -> Float[Array, ""]:
    """`Σ s² / max s²`, the squared Frobenius norm over the squared spectral norm (eq. 24).

    At most the rank, and unmoved by small singular values: Rudelson & Vershynin, arXiv math/0503442. 0 for zeros.

    Example:
        >>> import jax.numpy as jnp
        >>> stable_rank(jnp.array([2.0, 1.0, 1.0, 0.0]))
        Array(1.5, dtype=float32)
    """
    largest = jnp.max(singular_values)
    scaled = singular_values / jnp.where(largest > 0, largest, 1)
    return jnp.sum(scaled**2)


def free_dimensions(projector: NullSpaceProjector, biases: str = "leafwise") -> Float[Array, ""]:
    """How many of a head's `d_in d_out + d_out` parameters can still change independently of what is protected.

    With ranks `r` of the projectors (eq. 25): `d_in d_out − r_in r_out + d_out − r_out` where kernel and bias are
    projected leaf by leaf, `(d_in + 1) d_out − r_in r_out` where they are stacked, and `d_in d_out − r_in r_out +
    d_out` with free biases.

    Args:
        projector: both sides as arrays. With stacked biases `inputs` is `(d_in + 1, d_in + 1)`.
        biases: "leafwise", "stacked" or "free".

    Raises:
        ValueError: for another value of `biases`, or a side that is None, whose width is then unknown.

    Example:
        >>> import jax.numpy as jnp
        >>> one_of_three = jnp.diag(jnp.array([1.0, 0.0, 0.0]))
        >>> free_dimensions(NullSpaceProjector(one_of_three, one_of_three))
        Array(10., dtype=float32)
    """
    if biases not in BIASES:
        raise ValueError(f"free_dimensions: biases must be one of {', '.join(BIASES)}, but it is {biases!r}.")
    if projector.inputs is None or projector.outputs is None:
        raise ValueError(
            "free_dimensions: both sides of the projector must be arrays, but one is None, which stands for the "
            "identity of a width that is not known here. Pass jnp.eye(width)."
        )
    d_in, d_out = projector.inputs.shape[0], projector.outputs.shape[0]
    r_in, r_out = (jnp.round(jnp.trace(side)) for side in (projector.inputs, projector.outputs))
    free: Float[Array, ""] = _free(r_in, r_out, d_in, d_out, biases)
    return free


class Forecast(NamedTuple):
    """After how many further steps a head is used up: 0 if it is already, `inf` for not within the horizon.

    Attributes:
        soonest: if every further step adds as many directions as the mean so far.
        latest: if every further step takes the mean share so far of the directions that are left.
    """

    soonest: float
    latest: float


def forecast(
    ranks_in: Float[np.ndarray, " steps"],
    ranks_out: Float[np.ndarray, " steps"],
    d_in: int,
    d_out: int,
    *,
    reserve: float = 0.01,
    horizon: int = 1000,
    biases: str = "leafwise",
) -> Forecast:
    """How many further steps of the same kind until a head has almost no free dimensions left (eq. 26 and 27).

    Assumptions: what comes is like what came. Either new inputs are as independent of the old ones as these were of
    each other so far, and ranks grow linearly (`soonest`); or each step spans the same share of what is not spanned
    yet, and ranks saturate (`latest`). Ranks that grow less and less, as those of related data do, lie in between.

    It is unreliable after one or two steps, where rank and threshold rule matter more than time; where steps of very
    different datasets alternate; and where the rank is limited by the number of rows of a step.

    Args:
        ranks_in, ranks_out: ranks of the head's projectors after each step *that trained this head*, in order.
        d_in, d_out: widths. `d_in` counts the bias row if biases are stacked.
        reserve: used up is what has at most this share of its parameters free.
        horizon: further steps that are looked at.
        biases: see `free_dimensions`.

    Raises:
        ValueError: for no steps at all, histories of unequal length, or ranks beyond the widths.

    Example:
        >>> import numpy as np
        >>> forecast(np.array([2.0, 4.0]), np.array([8.0, 8.0]), 8, 8)  # 2 of 8 inputs a step, one-sided
        Forecast(soonest=2.0, latest=11.0)
    """
    ranks = np.asarray(ranks_in, float), np.asarray(ranks_out, float)
    if ranks[0].ndim != 1 or not ranks[0].size or ranks[0].shape != ranks[1].shape:
        raise ValueError(
            f"forecast: ranks_in and ranks_out must be vectors with one entry per step so far, at least one, but their "
            f"shapes are {ranks[0].shape} and {ranks[1].shape}."
        )
    for name, side, width in (("ranks_in", ranks[0], d_in), ("ranks_out", ranks[1], d_out)):
        if not np.all((side >= 0) & (side <= width)):
            raise ValueError(f"forecast: {name} must be between 0 and the width {width}, but is {side.tolist()}.")
    done, ahead = len(ranks[0]), np.arange(horizon + 1)
    last = (ranks[0][-1], d_in), (ranks[1][-1], d_out)
    linear = [np.minimum(width, rank * (1 + ahead / done)) for rank, width in last]
    saturating = [width - width * (1 - rank / width) ** (1 + ahead / done) for rank, width in last]
    enough = reserve * float(_free(0, 0, d_in, d_out, biases))
    free = [_free(r_in, r_out, d_in, d_out, biases) for r_in, r_out in (linear, saturating)]
    return Forecast(*(_first_at_most(left, enough) for left in free))


def _free(r_in: Any, r_out: Any, d_in: int, d_out: int, biases: str) -> Any:
    """Eq. 25; with stacked biases `d_in` counts the bias row."""
    kernel = d_in * d_out - r_in * r_out
    return kernel + {"leafwise": d_out - r_out, "stacked": 0, "free": d_out}[biases]


def _first_at_most(free: Float[np.ndarray, " horizon"], enough: float) -> float:
    used_up = np.flatnonzero(free <= enough + 1e-9)
    return float(used_up[0]) if used_up.size else float("inf")
