"""MiniLM-L6 (Wang et al. 2020, arXiv:2002.10957) as a Flax Linen module: a BERT of 6 layers, 384 wide.

The network is cut before the last layer's output kernel (1536 → 384): `activations` is everything before the cut, which
stays frozen and is computed once per text; `SentenceOutput` is the rest, of which one kernel and one bias are trained.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from cmcl_jax.null_space import HIGHEST


class Shape(NamedTuple):
    """Sizes of a BERT; the defaults are MiniLM-L6's.

    Attributes:
        vocabulary, positions, segments: rows of the three embedding tables.
        layers, width, heads, hidden: transformer layers, their width, attention heads, width between the two kernels
          of a layer's feed-forward part.
    """

    vocabulary: int = 30522
    positions: int = 512
    segments: int = 2
    layers: int = 6
    width: int = 384
    heads: int = 12
    hidden: int = 1536


class Activations(NamedTuple):
    """What the layer under training sees of n texts of at most t tokens; padding is marked in `mask`.

    Attributes:
        inputs: `(n, t, hidden)`, the rows that the layer multiplies with its kernel.
        residual: `(n, t, width)`, added to what comes out.
        mask: `(n, t)`, where there is a token.
    """

    inputs: Float[Array, "n t hidden"]
    residual: Float[Array, "n t width"]
    mask: Bool[Array, "n t"]


class MiniLM(nn.Module):  # type: ignore[misc]
    """Token ids → sentence embeddings of unit length: the mean of the last layer's tokens (arXiv:1908.10084)."""

    shape: Shape = Shape()

    def setup(self) -> None:
        last = self.shape.layers - 1
        self.embeddings = Embeddings(self.shape)
        self.layers = [Layer(self.shape, name=f"layer_{i}") for i in range(last)]
        self.trunk = Trunk(self.shape, name=f"layer_{last}")
        self.sentence = SentenceOutput(self.shape.width)

    def __call__(self, ids: Int[Array, "n t"], mask: Bool[Array, "n t"]) -> Float[Array, "n width"]:
        embedded: Array = self.sentence(self.activations(ids, mask))
        return embedded

    def activations(self, ids: Int[Array, "n t"], mask: Bool[Array, "n t"]) -> Activations:
        """Everything before the last layer's output kernel."""
        x = self.embeddings(ids)
        for layer in self.layers:
            x = layer(x, mask)
        inputs, residual = self.trunk(x, mask)
        return Activations(inputs, residual, mask)


class Embeddings(nn.Module):  # type: ignore[misc]
    """Word + position + segment, the latter always the first one, then layer norm."""

    shape: Shape

    def setup(self) -> None:
        self.word = nn.Embed(self.shape.vocabulary, self.shape.width)
        self.position = nn.Embed(self.shape.positions, self.shape.width)
        self.segment = nn.Embed(self.shape.segments, self.shape.width)
        self.norm = _layer_norm()

    def __call__(self, ids: Int[Array, "n t"]) -> Float[Array, "n t width"]:
        total = self.word(ids) + self.position(jnp.arange(ids.shape[1])) + self.segment(jnp.zeros_like(ids))
        normalised: Array = self.norm(total)
        return normalised


class Trunk(nn.Module):  # type: ignore[misc]
    """A transformer layer up to the input of its output kernel, and the residual that goes around it."""

    shape: Shape

    def setup(self) -> None:
        self.attention = SelfAttention(self.shape.width, self.shape.heads)
        self.attention_norm = _layer_norm()
        self.intermediate = _dense(self.shape.hidden)

    def __call__(
        self, x: Float[Array, "n t width"], mask: Bool[Array, "n t"]
    ) -> tuple[Float[Array, "n t hidden"], Float[Array, "n t width"]]:
        x = self.attention_norm(x + self.attention(x, mask))
        return nn.gelu(self.intermediate(x), approximate=False), x


class SelfAttention(nn.Module):  # type: ignore[misc]
    """Scaled dot-product attention of all tokens to those that are there."""

    width: int
    heads: int

    def setup(self) -> None:
        self.query, self.key, self.value, self.output = (_dense(self.width) for _ in range(4))

    def __call__(self, x: Float[Array, "n t width"], mask: Bool[Array, "n t"]) -> Float[Array, "n t width"]:
        by_head = lambda y: y.reshape(*y.shape[:2], self.heads, -1)  # noqa: E731
        query, key, value = (by_head(dense(x)) for dense in (self.query, self.key, self.value))
        logits = jnp.einsum("nqhd,nkhd->nhqk", query, key, precision=HIGHEST) / math.sqrt(self.width // self.heads)
        shares = jax.nn.softmax(jnp.where(mask[:, None, None, :], logits, -jnp.inf), axis=-1)
        mixed = jnp.einsum("nhqk,nkhd->nqhd", shares, value, precision=HIGHEST)
        attended: Array = self.output(mixed.reshape(x.shape))
        return attended


class Layer(nn.Module):  # type: ignore[misc]
    """A whole transformer layer, normalised after each of its two parts."""

    shape: Shape

    def setup(self) -> None:
        self.trunk = Trunk(self.shape)
        self.output = _dense(self.shape.width)
        self.output_norm = _layer_norm()

    def __call__(self, x: Float[Array, "n t width"], mask: Bool[Array, "n t"]) -> Float[Array, "n t width"]:
        hidden, residual = self.trunk(x, mask)
        normalised: Array = self.output_norm(residual + self.output(hidden))
        return normalised


class SentenceOutput(nn.Module):  # type: ignore[misc]
    """The last layer from its output kernel on, and the pooling: what runs again and again in training."""

    width: int

    def setup(self) -> None:
        self.output = _dense(self.width)
        self.output_norm = _layer_norm()

    def __call__(self, seen: Activations) -> Float[Array, "n width"]:
        hidden = self.output_norm(seen.residual + self.output(seen.inputs))
        total: Array = jnp.sum(jnp.where(seen.mask[:, :, None], hidden, 0), axis=1)
        unit: Array = total / jnp.linalg.norm(total, axis=1, keepdims=True)  # the mean's divisor cancels
        return unit


def _dense(width: int) -> nn.Dense:
    return nn.Dense(width, precision=HIGHEST)


def _layer_norm() -> nn.LayerNorm:
    # Flax's default takes the variance as E[x²] − E[x]², which loses digits.
    return nn.LayerNorm(epsilon=1e-12, use_fast_variance=False)
