"""A layer's kernel and bias as one matrix, the tight form of protecting both."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, PyTree


class StackedBiasesState(NamedTuple):
    """State of `stack_biases`.

    Attributes:
        inner_state: that of the inner transform, for which a layer is one leaf.
    """

    inner_state: PyTree


def stack_biases(inner: optax.GradientTransformation) -> optax.GradientTransformationExtraArgs:
    """Lets `inner` see each layer `{"kernel": (d_in, d_out), "bias": (d_out,)}` as one leaf `(d_in + 1, d_out)`.

    The bias is the last row, the weight of an input that is always 1: `x K + b = [x, 1] vstack(K, b)`. Layers may be
    stacked, `(*batch, d_in, d_out)` with `(*batch, d_out)`. All other leaves pass as they are.

    With `dual_null_space` inside and projectors onto `[x, 1]`, `(d_in + 1, d_in + 1)`, this is the tight form:

        [ΔK; Δb] ← [ΔK; Δb] − P_[x,1] [ΔK; Δb] P_out

    It moves no old score `[x, 1] [K; b] z^T` to first order and removes nothing else. Leafwise projection also keeps
    `Δb P_out = 0` alone; it equals this form if rank [X, 1] = rank X + 1 and otherwise costs `rank P_out` free
    dimensions more. The promise is that of the transform inside, with the same compositions that break it: elementwise
    rescaling, sign and decay after it. Where the two forms differ, blocks of `P_[x,1]` do not serve as projectors of
    kernel and bias on their own: the promise needs the two to move together.

    Args:
        inner: the transform or optimizer. Its dimension numbers, if it has any, are those of the stacked tree. What it
          does to kernels alone, such as decay without biases, it can no longer tell apart: keep that outside.

    Returns:
        A transform whose state is a `StackedBiasesState`. Its `init` raises `ValueError` if there is no such layer, and
        both raise it if kernel and bias of a layer do not fit each other.

    Example:
        >>> import jax.numpy as jnp
        >>> from cmcl_jax import NullSpaceProjector, dual_null_space, replace_projectors
        >>> heads = {"text": {"kernel": jnp.ones((1, 1)), "bias": jnp.ones(1)}}
        >>> tx = stack_biases(dual_null_space())
        >>> row = jnp.array([[3.0, 1.0]])  # an old input 3, and the 1 of the bias
        >>> p = NullSpaceProjector(row.T @ row / jnp.sum(row**2), jnp.eye(1))
        >>> updates, _ = tx.update(heads, replace_projectors(tx.init(heads), {"text": p}))
        >>> jnp.append(updates["text"]["kernel"], updates["text"]["bias"]).round(3)  # 3 · −0.2 + 0.6 = 0
        Array([-0.2,  0.6], dtype=float32)
    """
    inner = optax.with_extra_args_support(inner)

    def init(params: PyTree) -> StackedBiasesState:
        nodes = jax.tree.leaves(params, is_leaf=_is_layer)
        if nodes and not any(map(_is_layer, nodes)):
            raise ValueError(
                "stack_biases: the parameters have no layer, that is no mapping of exactly a kernel and a bias. Leave "
                "stack_biases out, or rename the leaves."
            )
        return StackedBiasesState(inner.init(stack(params)))

    def update(
        updates: PyTree, state: StackedBiasesState, params: PyTree | None = None, **extra_args: Any
    ) -> tuple[PyTree, StackedBiasesState]:
        stacked_params = None if params is None else stack(params)
        stacked, inner_state = inner.update(stack(updates), state.inner_state, stacked_params, **extra_args)
        return unstack(stacked, updates), StackedBiasesState(inner_state)

    return optax.GradientTransformationExtraArgs(init, update)


def stack(tree: PyTree) -> PyTree:
    """The tree with one leaf `(*batch, d_in + 1, d_out)` in place of each layer."""
    return jax.tree.map(lambda node: _stack_layer(node) if _is_layer(node) else node, tree, is_leaf=_is_layer)


def _is_layer(node: PyTree) -> bool:
    """A mapping with one array as its kernel and one as its bias; not one that `masked` cut something out of."""
    if not isinstance(node, Mapping) or set(node) != {"kernel", "bias"}:
        return False
    return all(len(jax.tree.leaves(node[name])) == 1 for name in ("kernel", "bias"))


def _stack_layer(layer: PyTree) -> Float[Array, "*batch d_in_1 d_out"]:
    [kernel], [bias] = jax.tree.leaves(layer["kernel"]), jax.tree.leaves(layer["bias"])
    if kernel.ndim < 2 or bias.shape != kernel.shape[:-2] + kernel.shape[-1:]:
        raise ValueError(
            f"stack_biases: a layer has a kernel of shape {kernel.shape} and a bias of shape {bias.shape}, where "
            "(*batch, d_in, d_out) and (*batch, d_out) are needed. Mask this layer out."
        )
    return jnp.concatenate([kernel, bias[..., None, :]], axis=-2)


def unstack(stacked: PyTree, like: PyTree) -> PyTree:
    """Kernels and biases out of the leaves of `stack(like)`, in the dtypes of `like`."""

    def split(node: PyTree, new: Array) -> PyTree:
        if not _is_layer(node):
            return new

        def part(path: tuple[Any, ...], old: Array) -> Array:
            return (new[..., -1, :] if _is_bias(path) else new[..., :-1, :]).astype(old.dtype)

        return jax.tree.map_with_path(part, node)

    return jax.tree.map(split, like, stacked, is_leaf=_is_layer)


def _is_bias(path: tuple[Any, ...]) -> bool:
    return jax.tree_util.keystr(path[:1], simple=True) == "bias"
