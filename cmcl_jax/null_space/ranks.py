"""How many directions of a second moment count as used: the threshold rules of `projector`."""

from __future__ import annotations

import math
import warnings

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

THRESHOLD_RULES = ("absolute", "relative", "energy", "gap", "noise")
GRID = 1024  # cells of the quadrature of the Marchenko–Pastur law; its median is good to 1e-5


def directions_kept(
    s: Float[Array, " d"],
    threshold: float | Float[Array, ""],
    rule: str = "absolute",
    rows: float | Array | None = None,
) -> Bool[Array, " d"]:
    """Which directions a threshold rule counts as used, given the spectrum of a second moment.

    Every rule but "absolute" is free of scale, and none keeps a direction of `s = 0`:

    * "absolute": `s > threshold`, the λ_min of arXiv 2503.14963.
    * "relative": `s > threshold · s[0]`.
    * "energy": the fewest directions that hold the share `1 − threshold` of the trace.
    * "gap": those before the largest ratio `t[i] / t[i + 1]`, the first of equal ones. Everything below the floor
      `threshold · s[0]` is noise of the floor's height: `t = max(s, floor)`, and `t` goes on at the floor after its
      end. So it keeps at most what "relative" keeps, and exactly that where no gap above the floor is wider than the
      drop to it: a flat spectrum is kept whole. Full-rank noise far above the floor is kept with the signal; put
      the threshold near the expected noise.
    * "noise": `s > threshold · edge`, with `edge = (1 + √β)² · median(s[:m]) / median(MP_β)`, `m = min(rows, d)` and
      `β = m / max(rows, d)`: the upper edge of the Marchenko–Pastur law (Math. USSR-Sbornik 1, 1967) of white noise
      whose level is estimated as by Gavish and Donoho (arXiv 1305.5870). At 1 the largest noise direction passes now
      and then by chance; 1.1 is safer, and their optimal hard threshold is between 4/3 (β = 1) and 2 (β → 0).

    "gap" and "noise" also drop what is at most `d · eps · s[0]`, the rounding of the decomposition.

    "noise" takes more than half of the first `m` directions for noise. A low-rank signal without noise has a median of
    0 (or of rounding), and all its directions are kept. A signal without noise in *most* directions has no noise to
    measure: what is below the edge is lost, with a `UserWarning` outside jit; use "relative" or "energy" then. A
    flat full-rank spectrum *is* that of noise, and a single row is its own median: nothing is kept of either. Rows are
    taken for independent; counting the same row twice moves the edge down.

    Args:
        s: singular values, largest first.
        threshold: see above. May be traced, as may `rows`.
        rule: one of `THRESHOLD_RULES`.
        rows: number of rows behind the moment; only "noise" needs it.

    Raises:
        ValueError: for an unknown rule, or for "noise" without rows.

    Example:
        >>> import jax.numpy as jnp
        >>> spectrum = jnp.array([9.0, 8.0, 1.1, 1.0, 1.0, 0.9])
        >>> directions_kept(spectrum, 0.1, "gap")
        Array([ True,  True, False, False, False, False], dtype=bool)
        >>> directions_kept(spectrum, 1.1, "noise", rows=600)
        Array([ True,  True, False, False, False, False], dtype=bool)
    """
    scale_free = s / jnp.where(s[0] > 0, s[0], 1)
    rounding = s.shape[0] * jnp.finfo(s.dtype).eps
    match rule:
        case "absolute":
            return s > threshold
        case "relative":
            return scale_free > threshold
        case "energy":
            before = jnp.cumsum(scale_free) - scale_free
            return (before < (1 - threshold) * jnp.sum(scale_free)) & (s > 0)
        case "gap":
            return _before_gap(scale_free, jnp.maximum(threshold, rounding))
        case "noise" if rows is not None:
            edges = _bulk_edges(scale_free, rows)
            kept = scale_free > jnp.maximum(threshold * edges[1], rounding)
            _warn_of_lost_signal(scale_free, kept, edges, rows)
            return kept
        case "noise":
            raise ValueError("projector: the rule noise needs rows, the number of rows behind the second moment.")
    raise ValueError(f"projector: rule must be one of {', '.join(THRESHOLD_RULES)}, but it is {rule!r}.")


def marchenko_pastur_median(beta: float | Float[Array, ""]) -> Float[Array, ""]:
    """Median of the Marchenko–Pastur law of unit variance, the μ_β of Gavish and Donoho (arXiv 1305.5870).

    With `x = 1 + β + 2 √β cos θ` its density is `2/π · sin² θ / x` in θ, smooth from the upper edge down.

    Args:
        beta: aspect ratio, `0 < β ≤ 1`. May be traced.

    Example:
        >>> print(round(float(marchenko_pastur_median(1.0)), 3))
        0.653
    """
    beta = jnp.asarray(beta)
    width = math.pi / GRID
    angle = (jnp.arange(GRID, dtype=jnp.result_type(beta.dtype, jnp.float32)) + 0.5) * width
    x = 1 + beta + 2 * jnp.sqrt(beta) * jnp.cos(angle)
    above = jnp.cumsum(2 / math.pi * jnp.sin(angle) ** 2 / x * width)
    middle = jnp.interp(0.5, above, angle + width / 2)
    return 1 + beta + 2 * jnp.sqrt(beta) * jnp.cos(middle)


def _before_gap(s: Float[Array, " d"], floor: Float[Array, ""]) -> Bool[Array, " d"]:
    clipped = jnp.maximum(s, floor)
    ratios = clipped / jnp.append(clipped[1:], floor)
    return (jnp.arange(s.shape[0]) <= jnp.argmax(ratios)) & (s > floor)


def _bulk_edges(s: Float[Array, " d"], rows: float | Array) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """Lower and upper edge of the noise among the `min(rows, d)` directions that can be other than zero."""
    rows = jnp.maximum(jnp.asarray(rows, s.dtype), 1)
    possible = jnp.minimum(rows, s.shape[0])
    beta = possible / jnp.maximum(rows, s.shape[0])
    count = possible.astype(int)
    level = (s[(count - 1) // 2] + s[count // 2]) / 2 / marchenko_pastur_median(beta)
    return level * (1 - jnp.sqrt(beta)) ** 2, level * (1 + jnp.sqrt(beta)) ** 2


def _warn_of_lost_signal(s: Array, kept: Array, edges: tuple[Array, Array], rows: float | Array) -> None:
    """Warns, where values are known, if what is dropped does not lie as noise under a signal does."""
    if any(isinstance(x, jax.core.Tracer) for x in (s, kept, *edges, rows)):
        return
    lower, upper = edges
    if upper <= s.shape[0] * jnp.finfo(s.dtype).eps:
        return  # no noise but rounding, so no signal is lost
    last = s[max(min(int(rows), s.shape[0]), 1) - 1]
    if not np.any(kept) or last < lower / 2:
        warnings.warn(
            f"projector: what the rule noise drops ({int(np.sum(~np.asarray(kept)))} of {s.shape[0]} directions) does "
            "not look like noise under a signal, and may be signal. Use the rule relative or energy to keep it.",
            stacklevel=4,
        )
