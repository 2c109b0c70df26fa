"""One head, what it was aligned with, and how far an update moves that: what the tests of this folder share.

Whether something protected moves is asked of the old rows themselves, in float64 numpy, and of no projector.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from cmcl_jax import NullSpaceProjector, dual_null_space
from cmcl_jax.null_space.rotation import in_rotated_coordinates
from cmcl_jax.null_space.stacking import stack_biases

WIDTHS = (8, 6)
TOLERANCE = {"float32": 1e-5, "float64": 1e-12}
"""Of what moves, relative to the norms of the update and of the rows."""


def onto(rows: np.ndarray) -> np.ndarray:
    """Projector onto a row space by least squares, without an SVD."""
    return rows.T @ np.linalg.solve(rows @ rows.T, rows)


def old_rows(seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Old inputs `X` (2, d_in) and old partner outputs `Z` (2, d_out)."""
    rng = np.random.default_rng(seed)
    return rng.normal(size=(2, WIDTHS[0])), rng.normal(size=(2, WIDTHS[1]))


def protection(seed: int = 0, dtype: Any = jnp.float32) -> NullSpaceProjector:
    """Of the old rows."""
    return NullSpaceProjector(*(jnp.asarray(onto(rows), dtype) for rows in old_rows(seed)))


def stacked_protection(seed: int = 0, dtype: Any = jnp.float32) -> NullSpaceProjector:
    """Of the old rows with the 1 of the bias behind them."""
    inputs, outputs = old_rows(seed)
    rows = np.column_stack([inputs, np.ones(len(inputs))])
    return NullSpaceProjector(jnp.asarray(onto(rows), dtype), jnp.asarray(onto(outputs), dtype))


def tree(seed: int, dtype: Any = jnp.float32) -> dict[str, dict[str, jax.Array]]:
    """Parameters, or gradients, of a head."""
    rng = np.random.default_rng(seed)
    draw = lambda *shape: jnp.asarray(rng.normal(size=shape), dtype)  # noqa: E731
    return {"head": {"kernel": draw(*WIDTHS), "bias": draw(WIDTHS[1])}}


def moved(kernel: Any, bias: Any, seed: int = 0) -> float:
    """`‖(X ΔK + 1 Δb) Z^T‖`, relative to the norms of what is in it."""
    inputs, outputs = old_rows(seed)
    kernel, bias = (np.asarray(leaf, np.float64) for leaf in (kernel, bias))
    size = np.hypot(np.linalg.norm(kernel), np.linalg.norm(bias))
    assert size > 0, "an update of zeros shows nothing"
    change = (inputs @ kernel + bias) @ outputs.T
    return float(np.linalg.norm(change) / (size * np.linalg.norm(inputs) * np.linalg.norm(outputs)))


def assert_nothing_protected_moves(updates: Any, tolerance: float = 1e-5, seed: int = 0) -> None:
    head = updates["head"]
    assert np.linalg.norm(np.asarray(head["kernel"], np.float64)) > 0
    assert np.linalg.norm(np.asarray(head["bias"], np.float64)) > 0
    assert moved(head["kernel"], head["bias"], seed) <= tolerance


def difference(after: Any, before: Any) -> Any:
    """In float64 numpy."""
    return jax.tree.map(lambda a, b: np.asarray(a, np.float64) - np.asarray(b, np.float64), after, before)


def types(state: Any) -> Any:
    """What the compiler sees of a state."""
    return jax.tree.structure(state), jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), state)


@dataclass(frozen=True)
class Strength:
    """One way to protect a head with an optimizer.

    Attributes:
        make: the whole optimizer for a learning rate.
        plain: the same one that protects nothing.
        protect: the projectors for old rows of a seed and a dtype.
        settles: whether it ends where the free part of the gradient is zero.
        same_bits: whether `plain` is what comes out, bit for bit, while there is nothing to protect.
    """

    make: Callable[[Any], optax.GradientTransformation]
    plain: Callable[[Any], optax.GradientTransformation]
    protect: Callable[[int, Any], NullSpaceProjector] = protection
    settles: bool = True
    same_bits: bool = True


def momentum(rate: Any) -> optax.GradientTransformation:
    return optax.sgd(rate, momentum=0.9)


STRENGTHS = {
    "gradients, then SGD": Strength(lambda rate: optax.chain(dual_null_space(), momentum(rate)), momentum),
    "updates of Adam": Strength(
        lambda rate: optax.chain(optax.adam(rate), dual_null_space()), optax.adam, settles=False
    ),
    "gradients and updates of Adam": Strength(
        lambda rate: optax.chain(dual_null_space(), optax.adam(rate), dual_null_space()), optax.adam
    ),
    "exact, of Adam": Strength(lambda rate: in_rotated_coordinates(optax.adam(rate)), optax.adam),
    "stacked gradients, then SGD": Strength(
        lambda rate: optax.chain(stack_biases(dual_null_space()), momentum(rate)), momentum, stacked_protection
    ),
    "stacked and exact, of Adam": Strength(
        lambda rate: stack_biases(in_rotated_coordinates(optax.adam(rate))),
        optax.adam,
        stacked_protection,
        same_bits=False,  # Adam's own, of one longer leaf
    ),
}
