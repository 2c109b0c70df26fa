"""AdamW in the three strengths of the projection, and what a step of the stream puts around it."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Int

from cmcl_jax.null_space import dual_null_space
from cmcl_jax.null_space.layouts import DimensionNumbers, numbers_of_leaves
from cmcl_jax.null_space.projectors import at_least_single
from cmcl_jax.null_space.rotation import in_rotated_coordinates
from cmcl_jax.null_space.stacking import stack_biases

PROJECTED = ("updates", "gradients", "exact")
BIASES = ("leafwise", "stacked", "free")


def dns_adamw(
    learning_rate: optax.ScalarOrSchedule,
    *,
    b1: float = 0.9,
    b2: float = 0.999,
    eps: float = 1e-8,
    weight_decay: ArrayLike = 1e-3,
    clip_norm: ArrayLike | None = 1.0,
    project: str | None = "updates",
    biases: str = "leafwise",
    dimension_numbers: DimensionNumbers = None,
) -> optax.GradientTransformationExtraArgs:
    """AdamW that keeps old alignments, in one of three strengths.

    Args:
        learning_rate: a number or a schedule.
        b1, b2, eps: of Adam.
        weight_decay: decoupled, on kernels only (biases are not decayed).
        clip_norm: global norm to which gradients are clipped first; `None` for no clipping.
        project: "gradients" projects the clipped gradient before Adam, as published, which promises nothing about the
          update: Adam and the decay leave the null space again. "updates" projects what Adam and the decay emit: the
          applied update is in the null space to rounding. "exact" runs Adam and the decay in rotated coordinates, of
          which the protected ones receive exact zeros (`in_rotated_coordinates`): best in docs/ablation.md, at six
          matrix products a kernel where the others take two at most. `None` is plain AdamW.
        biases: "leafwise" protects them by `I − P_out`; "stacked" together with their kernels, the tight form, with
          projectors of `[x, 1]` (`stack_biases`); "free" not at all, as published: old alignments drift with them.
        dimension_numbers: which axes of a leaf are its matrix, see `dual_null_space`. They also say what a kernel is: a
          leaf of heads' biases, `(heads, dim)`, is not decayed. Leaves without any are decayed from two axes on.
          `optax.inject_hyperparams` takes a function for a schedule, unless `static_args="dimension_numbers"` is given.

    Raises:
        ValueError: for another value of `project` or `biases`; for "stacked" with "exact", where kernel and bias would
          mix and the decay could not leave biases out; and for "stacked" with dimension numbers.
    """
    _check("project", project, (*PROJECTED, None))
    _check("biases", biases, BIASES)
    if biases == "stacked" and project == "exact":
        raise ValueError(
            "dns_adamw: biases='stacked' does not go with project='exact'. Rotated coordinates of [x, 1] mix kernel "
            "and bias, and the decay, which is for kernels only, would decay biases too. Use project='updates', or "
            "stack_biases(in_rotated_coordinates(...)) around an optimizer that treats both alike."
        )
    if biases == "stacked" and dimension_numbers is not None:
        raise ValueError(
            "dns_adamw: biases='stacked' takes kernels (in, out) with biases (out,) and no dimension_numbers. Use "
            "biases='leafwise' for other layouts."
        )
    adamw = optax.chain(
        optax.scale_by_adam(b1=b1, b2=b2, eps=eps),
        optax.add_decayed_weights(weight_decay, mask=lambda params: _kernels(params, dimension_numbers)),
    )
    protect = biases != "free"
    if biases == "stacked":
        dns = stack_biases(dual_null_space())
    else:
        dns = dual_null_space(protect_biases=protect, dimension_numbers=dimension_numbers)
    exact = in_rotated_coordinates(adamw, protect_biases=protect, dimension_numbers=dimension_numbers)
    stages: dict[str | None, tuple[Any, ...]] = {
        None: (adamw,),
        "gradients": (dns, adamw),
        "updates": (adamw, dns),
        "exact": (exact,),
    }
    clip = optax.identity() if clip_norm is None else clip_by_global_norm(clip_norm)
    return optax.chain(clip, *stages[project], optax.scale_by_learning_rate(learning_rate))


def _check(argument: str, value: str | None, allowed: tuple[str | None, ...]) -> None:
    if value not in allowed:
        *some, last = (str(a) for a in allowed)
        raise ValueError(f"dns_adamw: {argument} must be {', '.join(some)} or {last}, but it is {value!r}.")


def clip_by_global_norm(max_norm: ArrayLike) -> optax.GradientTransformation:
    """Scales gradients by `min(1, max_norm / (norm + 1e-6))`, the rule of torch's `clip_grad_norm_`.

    optax's own transform leaves out the 1e-6; the published method is reproduced to rounding only with it. Updates keep
    their dtypes, whatever the others of the tree have.
    """

    def clip(updates: Any, params: Any = None) -> Any:
        del params
        norm = optax.tree.norm(jax.tree.map(at_least_single, updates))  # in half precision, its squares overflow
        factor = clip_factor(norm, max_norm)
        return jax.tree.map(lambda u: (factor * u).astype(jnp.result_type(u)), updates)

    return optax.stateless(clip)


def clip_factor(norm: Float[Array, ""], max_norm: ArrayLike) -> Float[Array, ""]:
    """With what `clip_by_global_norm` multiplies gradients of this norm."""
    return jnp.minimum(1.0, max_norm / (norm + 1e-6))


class LinearDecayState(NamedTuple):
    """State of `linear_decay`.

    Attributes:
        updates_done: updates so far.
        total_updates: number of updates after which the factor is zero.
    """

    updates_done: Int[Array, ""]
    total_updates: Int[Array, ""]


def linear_decay() -> optax.GradientTransformation:
    """Multiplies update `u` by `(T − u) / T`, and by 0 from update `T` on.

    `T` is a part of the state (set by `start_decay`) rather than of the program: steps of unequal length share one
    executable, which optax's schedules, with their Python numbers, cannot.
    """

    def init(params: Any) -> LinearDecayState:
        del params
        return LinearDecayState(jnp.zeros((), jnp.int32), jnp.ones((), jnp.int32))

    def update(updates: Any, state: LinearDecayState, params: Any = None) -> tuple[Any, LinearDecayState]:
        del params
        left = jnp.maximum(state.total_updates - state.updates_done, 0)

        def scale(u: Array) -> Array:
            dtype = at_least_single(u).dtype  # half precision does not count so far
            return (u * (left.astype(dtype) / state.total_updates.astype(dtype))).astype(u.dtype)

        scaled = jax.tree.map(scale, updates)
        return scaled, state._replace(updates_done=state.updates_done + 1)

    return optax.GradientTransformation(init, update)


def start_decay(opt_state: Any, total_updates: int | Int[Array, ""]) -> Any:
    """The optimizer state with its `linear_decay` set to end after `total_updates`."""
    return optax.tree.set(opt_state, total_updates=jnp.asarray(total_updates, jnp.int32))


def _kernels(params: Any, dimension_numbers: DimensionNumbers) -> Any:
    numbers = numbers_of_leaves(dimension_numbers, params)
    return jax.tree.map(lambda leaf, n: np.ndim(leaf) > 1 if n is None else bool(n.inputs), params, numbers)
