"""The networks once more in plain numpy and float64, as their papers write them: references for the tests."""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]
Weights = Mapping[str, Array]


def convolve(x: Array, kernel: Array, stride: int = 1, depthwise: bool = False) -> Array:
    """x [h, w, c], kernel [k, k, c, out], or [k, k, c] if depthwise; "same" padding as TensorFlow defines it."""
    k = kernel.shape[0]
    out = [math.ceil(size / stride) for size in x.shape[:2]]
    missing = [max((o - 1) * stride + k - size, 0) for o, size in zip(out, x.shape[:2], strict=True)]
    x = np.pad(x, [(m // 2, m - m // 2) for m in missing] + [(0, 0)])
    y: Any = 0
    for i in range(k):
        for j in range(k):
            window = x[i : i + stride * (out[0] - 1) + 1 : stride, j : j + stride * (out[1] - 1) + 1 : stride]
            y = y + (window * kernel[i, j] if depthwise else window @ kernel[i, j])
    return np.asarray(y)


def normalize(x: Array, mean: Array, variance: Array, epsilon: float, scale: Array | float, shift: Array) -> Array:
    return np.asarray((x - mean) / np.sqrt(variance + epsilon) * scale + shift)


def efficientnet_lite(weights: Weights, picture: Array, repeats: tuple[int, ...]) -> tuple[Array, Array]:
    """Picture [size, size, 3] in 0…255 -> pooled features [1280], logits [1000]."""
    strides_and_expansions = [(1, 1), (2, 6), (2, 6), (2, 6), (1, 6), (2, 6), (1, 6)]
    blocks = [(count, *stage) for count, stage in zip(repeats, strides_and_expansions, strict=True)]

    def layer(x: Array, conv: str, norm: str, stride: int = 1, depthwise: bool = False, act: bool = True) -> Array:
        kernel = weights[f"{conv}.weight"].transpose(2, 3, 1, 0)
        y = convolve(x, kernel[:, :, 0] if depthwise else kernel, stride, depthwise)
        statistics = weights[f"{norm}.running_mean"], weights[f"{norm}.running_var"]
        y = normalize(y, *statistics, 1e-3, weights[f"{norm}.weight"], weights[f"{norm}.bias"])
        return np.clip(y, 0, 6) if act else y

    x = layer((picture.astype(np.float64) - 127) / 128, "_conv_stem", "_bn0", stride=2)
    number = 0
    for count, first_stride, expansion in blocks:
        for repeat in range(count):
            block = f"_blocks.{number}."
            y = layer(x, block + "_expand_conv", block + "_bn0") if expansion > 1 else x
            stride = first_stride if repeat == 0 else 1
            y = layer(y, block + "_depthwise_conv", block + "_bn1", stride, depthwise=True)
            y = layer(y, block + "_project_conv", block + "_bn2", act=False)
            x = x + y if repeat else y
            number += 1
    pooled = layer(x, "_conv_head", "_bn1").mean((0, 1))
    return pooled, np.asarray(weights["_fc.weight"] @ pooled + weights["_fc.bias"])


def yamnet(variables: Weights, patch: Array) -> tuple[Array, Array]:
    """Log-mel patch [96, 64] -> pooled features [1024], scores [521]."""

    def get(layer: int, name: str) -> Array:
        path = f"layer-1/layer/_func/_yamnet/layer_with_weights-{layer}/{name}/.ATTRIBUTES/VARIABLE_VALUE"
        return variables[path].astype(np.float64)

    def norm(x: Array, layer: int) -> Array:
        y = normalize(x, get(layer, "moving_mean"), get(layer, "moving_variance"), 1e-4, 1.0, get(layer, "beta"))
        return np.maximum(y, 0)

    x = norm(convolve(patch.astype(np.float64)[:, :, None], get(0, "kernel"), 2), 1)
    for block, stride in enumerate([1, 2, 1, 2, 1, 2, 1, 1, 1, 1, 1, 2, 1]):
        at = 2 + 4 * block
        x = norm(convolve(x, get(at, "depthwise_kernel")[..., 0], stride, depthwise=True), at + 1)
        x = norm(convolve(x, get(at + 2, "kernel")), at + 3)
    pooled = x.mean((0, 1))
    return pooled, np.asarray(1 / (1 + np.exp(-(pooled @ get(54, "kernel") + get(54, "bias")))))


def minilm(weights: Weights, ids: Array) -> Array:
    """Word-piece ids [t] -> unit vector [384]."""
    heads = 12
    layers = sum(name.endswith("intermediate.dense.weight") for name in weights)
    erf = np.vectorize(math.erf)

    def linear(x: Array, name: str) -> Array:
        return np.asarray(x @ weights[f"{name}.weight"].T + weights[f"{name}.bias"])

    def layer_norm(x: Array, name: str) -> Array:
        mean, variance = x.mean(1, keepdims=True), x.var(1, keepdims=True)
        return normalize(x, mean, variance, 1e-12, weights[f"{name}.weight"], weights[f"{name}.bias"])

    def attention(x: Array, name: str) -> Array:
        query, key, value = (
            linear(x, f"{name}.{part}").reshape(len(x), heads, -1) for part in ("query", "key", "value")
        )
        logits = np.einsum("qhd,khd->hqk", query, key) / math.sqrt(query.shape[-1])
        shares = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
        return np.einsum("hqk,khd->qhd", shares, value).reshape(x.shape)

    table = "embeddings.{}_embeddings.weight"
    x = weights[table.format("word")][ids] + weights[table.format("position")][: len(ids)]
    x = layer_norm(x + weights[table.format("token_type")][0], "embeddings.LayerNorm")
    for number in range(layers):
        name = f"encoder.layer.{number}."
        attended = linear(attention(x, name + "attention.self"), name + "attention.output.dense")
        x = layer_norm(x + attended, name + "attention.output.LayerNorm")
        hidden = linear(x, name + "intermediate.dense")
        gelu = hidden * (1 + erf(hidden / math.sqrt(2))) / 2
        x = layer_norm(x + linear(gelu, name + "output.dense"), name + "output.LayerNorm")
    mean = x.mean(0)
    return np.asarray(mean / np.linalg.norm(mean))
