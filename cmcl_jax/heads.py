"""The trainable part: one linear Flax head per modality on top of the frozen features."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

Head = dict[str, Array]  # {"kernel": (d_in, d_out), "bias": (d_out,)}
Heads = dict[str, Head]  # by modality; those under training by role: "a", "b", …


def head_module(width: int, dtype: Any = jnp.float32) -> nn.Dense:
    """The Flax module of a head with `width` outputs: `z = x K + b`, in full float32 on every device."""
    return nn.Dense(width, kernel_init=nearest_to_identity, param_dtype=dtype, precision=jax.lax.Precision.HIGHEST)


def apply_head(head: Head, features: Float[Array, "n d_in"]) -> Float[Array, "n d_out"]:
    """Outputs of a head, `features @ kernel + bias`."""
    outputs: Array = head_module(head["bias"].shape[0], head["bias"].dtype).apply({"params": head}, features)
    return outputs


def init_heads(
    key: PRNGKeyArray, widths: Mapping[str, int], output_width: int | None = None, dtype: Any = jnp.float32
) -> Heads:
    """Fresh heads for modalities of the given input widths.

    Args:
        key: used by rectangular heads only.
        widths: input width of each modality.
        output_width: of all heads; by default the smallest input width.
        dtype: of the parameters.

    Returns:
        `{modality: {"kernel": (d_in, d_out), "bias": (d_out,)}}`. Square heads start as the identity, so that training
        starts from what the frozen encoders can do together. Rectangular ones start semi-orthogonal (from `key`):
        modalities of unequal width come from unrelated spaces, and a partial isometry keeps their geometry best.

    Example:
        >>> heads = init_heads(jax.random.key(0), {"text": 2, "audio": 3})
        >>> heads["text"]["kernel"]
        Array([[1., 0.],
               [0., 1.]], dtype=float32)
        >>> heads["audio"]["kernel"].shape
        (3, 2)
    """
    output_width = output_width or min(widths.values())
    keys = jax.random.split(key, len(widths))
    module = head_module(output_width, dtype)
    return {
        modality: module.init(keys[i], jnp.zeros((1, widths[modality]), dtype))["params"]
        for i, modality in enumerate(sorted(widths))
    }


def nearest_to_identity(key: PRNGKeyArray, shape: tuple[int, int], dtype: Any = jnp.float32) -> Array:
    """Kernel initialiser: the identity if `shape` is square, else a random semi-orthogonal matrix."""
    if shape[0] == shape[1]:
        return jnp.eye(shape[0], dtype=dtype)
    kernel: Array = nn.initializers.orthogonal()(key, shape, dtype)
    return kernel
