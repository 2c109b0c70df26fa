"""What an optimizer's state protects: putting new projectors in, and measuring what moves in spite of them."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, PyTree

from cmcl_jax.null_space.layouts import WeightDimensionNumbers
from cmcl_jax.null_space.projectors import at_least_single, in_eigenbases
from cmcl_jax.null_space.stacking import StackedBiasesState, stack, unstack
from cmcl_jax.null_space.variables import with_variables_of, without_variables


@runtime_checkable
class Protecting(Protocol):
    """A state with projectors, in any of their forms: `DualNullSpaceState`, `RotatedState`."""

    def with_projectors(self, projectors: PyTree) -> Any:
        """The state with new projectors in the shapes and dtypes of the old."""

    def protected_part(self, updates: PyTree) -> PyTree:
        """What of each leaf lies in the protected space, in any coordinates of the same norm."""


def replace_projectors(opt_state: PyTree, projectors: PyTree) -> PyTree:
    """The optimizer state with new projectors in every `DualNullSpaceState` and `RotatedState` inside it.

    Args:
        opt_state: any optimizer state that holds one of them, however deep (`chain`, `masked`, `partition`,
          `MultiSteps`, `stack_biases`, …).
        projectors: a tree with a `NullSpaceProjector`, `Subspaces` or `None` (protect nothing) for each leaf of the
          parameters or for a whole subtree. One for a subtree serves its kernels with both sides and its biases with
          `outputs`. A projector `(d, d)` serves all matrices of a leaf with batch axes, `(*batch, d, d)` each its own.
          Inside `stack_biases` a layer is one leaf. Of a matrix, the eigenbasis is found by `jnp.linalg.svd`, once
          however many leaves and states the array serves, and eigenvalues are rounded to 0 or 1; it has no derivative,
          since they repeat. `Subspaces` are taken as they are.

    Returns:
        The same state with the same shapes and dtypes. It holds copies, so that it can be donated. Outside jit, what
        the projectors give goes to the devices of the old, unless they were committed to devices of their own.

    Raises:
        ValueError: if there is no such state, if a projector's shape or the trees do not fit, or if a projector is
          given for what is never projected, such as a convolution without dimension numbers.
    """
    bases, found = in_eigenbases(projectors), []

    def replace(node: PyTree) -> PyTree:
        if not isinstance(node, Protecting):
            return node
        found.append(node)
        return jax.tree.map(_placed_like, node.with_projectors(bases), node)

    replaced = jax.tree.map(replace, opt_state, is_leaf=is_protecting)
    if not found:
        raise ValueError(f"replace_projectors: {_holds_none(opt_state)}")
    return replaced


def protected_fraction(updates: PyTree, opt_state: PyTree) -> Float[Array, ""]:
    """Share of the updates' norm that lies in the protected space, from 0 (nothing protected moves) to 1.

    Several states, as of a projection before and after Adam or of the parts of a `partition`, count leaf by leaf: of
    those that protect a leaf the one that it moves most counts.

    Leaves without a projector count as free: with `protect_biases=False` it says nothing about what biases move, and
    under `masked` or `partition` nothing about the leaves that belong to other transforms. Which axes of a leaf are
    its matrix, the state knows.

    Args:
        updates: what is about to be applied, the parameters' tree.
        opt_state: an optimizer state with a `DualNullSpaceState` or `RotatedState` in it, at any depth.

    Returns:
        In at least single precision. 0 for updates of zeros, NaN for updates that are not finite.

    Raises:
        ValueError: if the state holds none.
    """
    total = sum(_squares(updates), jnp.zeros((), jnp.float32))
    of_states = [_squares(part) for part in _protected_parts(updates, opt_state)]
    if not of_states:
        raise ValueError(f"protected_fraction: {_holds_none(opt_state)}")
    protected = sum(
        (functools.reduce(jnp.maximum, of_leaf) for of_leaf in zip(*of_states, strict=True)), jnp.zeros_like(total)
    )
    return jnp.where(total == 0, 0, jnp.sqrt(protected / jnp.where(total == 0, 1, total)))


def is_protecting(node: PyTree) -> bool:
    """Whether a node of an optimizer's state is a `Protecting` one."""
    return isinstance(node, Protecting)


def map_entries(
    f: Callable[..., Array],
    entries: PyTree,
    numbers: PyTree,
    updates: PyTree,
    *,
    without: Callable[[Array], Array] = lambda update: update,
) -> PyTree:
    """`f(entry, numbers, update)` of each leaf that has an entry, and `without(update)` of one that has none."""

    def apply(numbers: Any, entry: Any, update: PyTree) -> PyTree:
        if entry is None or isinstance(entry, optax.MaskedNode):
            return jax.tree.map(without, update)
        return f(entry, numbers, update)

    is_leaf = lambda node: node is None or isinstance(node, optax.MaskedNode | WeightDimensionNumbers)  # noqa: E731
    applied = jax.tree.map(apply, numbers, without_variables(entries), without_variables(updates), is_leaf=is_leaf)
    return with_variables_of(updates, applied)


def _protected_parts(updates: PyTree, opt_state: PyTree) -> list[PyTree]:
    """The protected part of the updates by each state, every one a tree like the updates."""
    parts = []
    is_leaf = lambda node: isinstance(node, Protecting | StackedBiasesState)  # noqa: E731
    for node in jax.tree.leaves(opt_state, is_leaf=is_leaf):
        if isinstance(node, StackedBiasesState):
            parts += [unstack(part, updates) for part in _protected_parts(stack(updates), node.inner_state)]
        elif isinstance(node, Protecting):
            parts.append(node.protected_part(updates))
    return parts


def _placed_like(new: Array, old: Array) -> Array:
    """A sharded state stays sharded, and its update is not compiled again."""
    if any(isinstance(array, jax.core.Tracer) or not isinstance(array, jax.Array) for array in (new, old)):
        return new
    return jax.device_put(new, old.sharding) if old.committed and not new.committed else new


def _squares(tree: PyTree) -> list[Float[Array, ""]]:
    """The squared norm of each leaf; in half precision it would under- and overflow."""
    leaves = map(at_least_single, jax.tree.leaves(tree))
    return [jnp.sum(jnp.real(leaf * leaf.conj())) for leaf in leaves]


def _holds_none(opt_state: PyTree) -> str:
    return (
        f"opt_state (a {type(opt_state).__name__}) holds no DualNullSpaceState and no RotatedState. Put "
        "dual_null_space() into the chain whose init made this state, or wrap its optimizer in "
        "in_rotated_coordinates()."
    )
