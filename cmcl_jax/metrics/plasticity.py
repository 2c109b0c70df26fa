"""Whether a projected update still learns: its first-order effect on the loss, and what is beyond first order.

docs/theory.md, section 6; the conditions on stability and plasticity are those of arXiv 2103.07113 and 2503.14963.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, PyTree


def first_order_decrease(gradients: PyTree, updates: PyTree) -> Float[Array, ""]:
    """`⟨−∇L, ΔW⟩`: by how much the loss falls to first order when `updates` are added to the parameters (eq. 19).

    For a projected gradient, `ΔW = −η Π(∇L)`, it is `η ‖Π(∇L)‖²` and never negative. It *can* be negative for an update
    that Adam emits and is then projected, for Adam after a projection, and with momentum or weight decay anywhere.

    Args:
        gradients: of the loss, in the parameters.
        updates: what is added to the parameters, the same tree.

    Example:
        >>> import jax.numpy as jnp
        >>> first_order_decrease({"bias": jnp.array([3.0, 1.0])}, {"bias": jnp.array([-0.1, 0.0])})
        Array(0.3, dtype=float32)
    """
    slope: Float[Array, ""] = optax.tree.vdot(gradients, updates)
    return -slope


def higher_order_ratio(
    loss: Callable[[PyTree], Float[Array, ""]], params: PyTree, direction: PyTree, rates: Float[Array, " r"]
) -> Float[Array, " r"]:
    """`|L(W + η Δ) − L(W) − η ⟨∇L, Δ⟩| / η` for several η: goes to 0 like η where the loss is smooth (eq. 22).

    It tells whether the learning rate is where first-order statements mean anything: compare it with `⟨−∇L, Δ⟩`.
    The difference of two losses loses digits: below `η ≈ √eps` the ratio grows like `eps / η`.

    Args:
        loss: of the parameters alone.
        params: `W`.
        direction: `Δ`, the same tree; the applied update is `η Δ`.
        rates: values of η, greater than 0.

    Example:
        >>> import jax.numpy as jnp
        >>> higher_order_ratio(lambda w: w**2, jnp.array(3.0), jnp.array(1.0), jnp.array([0.5, 0.25]))
        Array([0.5 , 0.25], dtype=float32)
    """
    start, slope = jax.jvp(loss, (params,), (direction,))

    def ratio(rate: Float[Array, ""]) -> Float[Array, ""]:
        moved = jax.tree.map(lambda w, change: w + rate * change, params, direction)
        return jnp.abs(loss(moved) - start - rate * slope) / rate

    ratios: Float[Array, " r"] = jax.lax.map(ratio, rates)
    return ratios
