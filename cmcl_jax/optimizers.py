"""AdamW with the projection in one of two places, and what a step of the stream puts around it."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Int

from cmcl_jax.null_space import dual_null_space

PROJECTED = ("updates", "gradients")


def dns_adamw(
    learning_rate: optax.ScalarOrSchedule,
    *,
    b1: float = 0.9,
    b2: float = 0.999,
    eps: float = 1e-8,
    weight_decay: float = 1e-3,
    clip_norm: float | None = 1.0,
    project: str | None = "updates",
    protect_biases: bool = True,
) -> optax.GradientTransformationExtraArgs:
    """AdamW whose updates, or whose gradients, pass through `dual_null_space`.

    Args:
        learning_rate: a number or a schedule.
        b1, b2, eps: of Adam.
        weight_decay: decoupled, on kernels only (biases are not decayed).
        clip_norm: global norm to which gradients are clipped first; `None` for no clipping.
        project: "updates" projects what Adam and the decay emit, so that the applied update is in the null space;
          "gradients" projects the clipped gradient before Adam, as published; `None` is plain AdamW.
        protect_biases: see `dual_null_space`.

    Raises:
        ValueError: for another value of `project`.
    """
    if project is not None and project not in PROJECTED:
        raise ValueError(f"dns_adamw: project must be one of {', '.join(PROJECTED)} or None, but it is {project!r}.")
    dns = dual_null_space(protect_biases=protect_biases)
    return optax.chain(
        clip_by_global_norm(clip_norm) if clip_norm is not None else optax.identity(),
        dns if project == "gradients" else optax.identity(),
        optax.scale_by_adam(b1=b1, b2=b2, eps=eps),
        optax.add_decayed_weights(weight_decay, mask=_kernels),
        dns if project == "updates" else optax.identity(),
        optax.scale_by_learning_rate(learning_rate),
    )


def clip_by_global_norm(max_norm: float) -> optax.GradientTransformation:
    """Scales gradients by `min(1, max_norm / (norm + 1e-6))`, the rule of torch's `clip_grad_norm_`.

    optax's own transform leaves out the 1e-6; the published method is reproduced to rounding only with it.
    """

    def clip(updates: Any, params: Any = None) -> Any:
        del params
        return optax.tree.scale(jnp.minimum(1.0, max_norm / (optax.tree.norm(updates) + 1e-6)), updates)

    return optax.stateless(clip)


class LinearDecayState(NamedTuple):
    """State of `linear_decay`.

    Attributes:
        updates_done: updates so far.
        total_updates: number of updates after which the factor is zero.
    """

    updates_done: Int[Array, ""]
    total_updates: Int[Array, ""]


def linear_decay() -> optax.GradientTransformation:
    """Multiplies update `u` by `(T − u) / T`.

    `T` is a part of the state (set by `start_decay`) rather than of the program: steps of unequal length share one
    executable, which optax's schedules, with their Python numbers, cannot.
    """

    def init(params: Any) -> LinearDecayState:
        del params
        return LinearDecayState(jnp.zeros((), jnp.int32), jnp.ones((), jnp.int32))

    def update(updates: Any, state: LinearDecayState, params: Any = None) -> tuple[Any, LinearDecayState]:
        del params
        left = state.total_updates - state.updates_done
        scaled = jax.tree.map(lambda u: u * (left.astype(u.dtype) / state.total_updates.astype(u.dtype)), updates)
        return scaled, state._replace(updates_done=state.updates_done + 1)

    return optax.GradientTransformation(init, update)


def start_decay(opt_state: Any, total_updates: int | Int[Array, ""]) -> Any:
    """The optimizer state with its `linear_decay` set to end after `total_updates`."""
    return optax.tree.set(opt_state, total_updates=jnp.asarray(total_updates, jnp.int32))


def _kernels(params: Any) -> Any:
    return jax.tree.map(lambda leaf: leaf.ndim > 1, params)
