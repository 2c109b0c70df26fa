"""The trainable part: one small Flax head per modality on top of the frozen features, linear or with hidden layers.

A head with hidden layers is a linear one, the *output layer*, on the features next to what hidden layers make of them:
`z = [x, h(x)] K + b`. It starts as the linear head, with zeros where the kernel reads `h`.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from cmcl_jax.precision import dot_general

# {"kernel": (d_in, d_out), "bias": (d_out,)}, or such a layer for each of "hidden_0", "hidden_1", … and "output"
Head = dict[str, Any]
Heads = dict[str, Head]  # by modality; those under training by role: "a", "b", …


class HiddenHead(nn.Module):  # type: ignore[misc]
    """A head with hidden layers: `z = [x, h(x)] K + b`.

    `h` is `‖x‖ / √width · σ(… σ(x̂ W_0 + c_0) …)`, with GELU for `σ`, and `x̂` the row scaled to a mean square of 1. So
    `h` is about as long as `x` whatever the encoder's scale is, and scales with it.

    Attributes:
        hidden: widths of the hidden layers, at least one.
        width: number of outputs.
        dtype: of the parameters.
        precision: of the products, see `cmcl_jax.precision`.
    """

    hidden: tuple[int, ...]
    width: int
    dtype: Any = jnp.float32
    precision: str = "float32"

    @nn.compact  # type: ignore[untyped-decorator]
    def __call__(self, features: Float[Array, "n d_in"]) -> Float[Array, "n d_out"]:
        scale = jnp.sqrt(jnp.mean(features**2, axis=-1, keepdims=True))
        h = features / jnp.where(scale > 0, scale, 1)
        for i, width in enumerate(self.hidden):
            product = functools.partial(dot_general, name=self.precision)
            layer = nn.Dense(width, param_dtype=self.dtype, dot_general=product, name=f"hidden_{i}")
            h = nn.gelu(layer(h))
        h *= scale * jnp.sqrt(jnp.asarray(features.shape[-1] / self.hidden[-1], features.dtype))
        output = head_module(self.width, self.dtype, "output", self.precision)
        outputs: Array = output(jnp.concatenate([features, h], axis=-1))
        return outputs


def head_module(width: int, dtype: Any = jnp.float32, name: str | None = None, precision: str = "float32") -> nn.Dense:
    """The Flax module of a linear head with `width` outputs: `z = x K + b`, in full float32 on every device."""
    product = functools.partial(dot_general, name=precision)
    return nn.Dense(width, kernel_init=nearest_to_identity, param_dtype=dtype, dot_general=product, name=name)


def module_of(head: Head, precision: str = "float32") -> nn.Module:
    """The Flax module whose parameters a head is."""
    last = output_layer(head)["bias"]
    if "output" not in head:
        return head_module(last.shape[0], last.dtype, precision=precision)
    hidden = tuple(head[f"hidden_{i}"]["bias"].shape[0] for i in range(len(head) - 1))
    return HiddenHead(hidden, last.shape[0], last.dtype, precision)


def output_layer(head: Head) -> Head:
    """The layer `{"kernel", "bias"}` that outputs come from: of a linear head, itself."""
    layer: Head = head.get("output", head)
    return layer


def apply_head(head: Head, features: Float[Array, "n d_in"], precision: str = "float32") -> Float[Array, "n d_out"]:
    """Outputs of a head: `features @ kernel + bias` of a linear one; for `precision` see `cmcl_jax.precision`."""
    outputs: Array = module_of(head, precision).apply({"params": head}, features)
    return outputs


def init_heads(
    key: PRNGKeyArray,
    widths: Mapping[str, int],
    output_width: int | None = None,
    dtype: Any = jnp.float32,
    hidden: Sequence[int] = (),
) -> Heads:
    """Fresh heads for modalities of the given input widths.

    Args:
        key: used by rectangular heads and hidden layers only.
        widths: input width of each modality.
        output_width: of all heads; by default the smallest input width.
        dtype: of the parameters.
        hidden: widths of the hidden layers, the same for all heads; none for linear heads.

    Returns:
        `{modality: {"kernel": (d_in, d_out), "bias": (d_out,)}}`. Square heads start as the identity, so that training
        starts from what the frozen encoders can do together. Rectangular ones start semi-orthogonal (from `key`):
        modalities of unequal width come from unrelated spaces, and a partial isometry keeps their geometry best.

        With hidden layers, `{modality: {"hidden_0": {"kernel", "bias"}, …, "output": {"kernel", "bias"}}}`, the output
        layer's kernel `(d_in + hidden[-1], d_out)`: that of the linear head above zeros. Such heads start with the
        outputs of linear ones.

    Example:
        >>> heads = init_heads(jax.random.key(0), {"text": 2, "audio": 3})
        >>> heads["text"]["kernel"]
        Array([[1., 0.],
               [0., 1.]], dtype=float32)
        >>> heads["audio"]["kernel"].shape
        (3, 2)
        >>> init_heads(jax.random.key(0), {"text": 2}, hidden=(1,))["text"]["output"]["kernel"]
        Array([[1., 0.],
               [0., 1.],
               [0., 0.]], dtype=float32)
    """
    output_width = output_width or min(widths.values())
    keys = jax.random.split(key, len(widths))
    return {
        modality: _init_head(keys[i], widths[modality], output_width, dtype, tuple(hidden))
        for i, modality in enumerate(sorted(widths))
    }


def _init_head(key: PRNGKeyArray, d_in: int, d_out: int, dtype: Any, hidden: tuple[int, ...]) -> Head:
    row = jnp.zeros((1, d_in), dtype)
    linear: Head = head_module(d_out, dtype).init(key, row)["params"]
    if not hidden:
        return linear
    head: Head = HiddenHead(hidden, d_out, dtype).init(jax.random.fold_in(key, 0), row)["params"]
    kernel = jnp.concatenate([linear["kernel"], jnp.zeros((hidden[-1], d_out), dtype)])
    return {**head, "output": {"kernel": kernel, "bias": linear["bias"]}}


def nearest_to_identity(key: PRNGKeyArray, shape: tuple[int, int], dtype: Any = jnp.float32) -> Array:
    """Kernel initialiser: the identity if `shape` is square, else a random semi-orthogonal matrix."""
    if shape[0] == shape[1]:
        return jnp.eye(shape[0], dtype=dtype)
    kernel: Array = nn.initializers.orthogonal()(key, shape, dtype)
    return kernel
