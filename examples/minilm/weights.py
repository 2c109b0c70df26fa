"""MiniLM's weights, straight from the safetensors file of their package into the Flax tree. Needs no torch."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict
from safetensors.numpy import load_file

from examples.minilm.model import MiniLM, Shape
from feature_cache.encoders.pocket import minilm
from feature_cache.errors import WeightsError

UNUSED = {
    "embeddings.position_ids": "a constant, 0, 1, 2 …",
    "pooler.dense.weight": "a head that sentence embeddings do not use",
    "pooler.dense.bias": "a head that sentence embeddings do not use",
}
"""Tensors of the file that are left out on purpose, and why."""


def load_params() -> dict[str, Any]:
    """The parameters of `MiniLM()`, in float32. Raises `WeightsError` if the package is missing or its file damaged."""
    with minilm.FILES[0].reading() as file:
        tensors = load_file(file)
    return params_from(tensors, Shape(), file)


def params_from(tensors: Mapping[str, np.ndarray], shape: Shape, file: Path) -> dict[str, Any]:
    """The Flax tree of `MiniLM(shape)` from tensors under BERT's names.

    Torch's weights are (out, in) and are transposed to kernels (in, out). `file` is only named in errors.

    Raises:
        WeightsError: for a tensor that is missing, left over without being in `UNUSED`, or of another shape.
    """
    left = {name: tensor for name, tensor in tensors.items() if name not in UNUSED}
    params = {path: _take(left, path, like.shape, shape, file) for path, like in _expected(shape).items()}
    if left:
        raise WeightsError(f"{file} has {len(left)} tensors that MiniLM has no place for, such as {min(left)}.")
    tree: dict[str, Any] = unflatten_dict(params)
    return tree


def _expected(shape: Shape) -> dict[tuple[str, ...], jax.ShapeDtypeStruct]:
    ids = jax.ShapeDtypeStruct((1, 2), jnp.int32)
    mask = jax.ShapeDtypeStruct((1, 2), jnp.bool_)
    variables = jax.eval_shape(MiniLM(shape).init, jax.random.key(0), ids, mask)
    flat: dict[tuple[str, ...], jax.ShapeDtypeStruct] = flatten_dict(variables["params"])
    return flat


def _take(
    left: dict[str, np.ndarray], path: tuple[str, ...], wanted: tuple[int, ...], shape: Shape, file: Path
) -> jax.Array:
    name = bert_name(path, shape)
    if name not in left:
        raise WeightsError(f"{file} has no tensor {name}, which MiniLM needs.")
    tensor = left.pop(name)
    tensor = tensor.T if path[-1] == "kernel" else tensor
    if tensor.shape != wanted:
        raise WeightsError(f"{file}: {name} is of shape {tensor.shape} (in, out), but MiniLM needs {wanted}.")
    return jnp.asarray(tensor, jnp.float32)


def bert_name(path: tuple[str, ...], shape: Shape) -> str:
    """The tensor's name in the file, of a parameter's path in the Flax tree.

    >>> bert_name(("layer_0", "trunk", "attention", "query", "kernel"), Shape())
    'encoder.layer.0.attention.self.query.weight'
    >>> bert_name(("sentence", "output_norm", "scale"), Shape())
    'encoder.layer.5.output.LayerNorm.weight'
    """
    *owners, part, leaf = path
    leaf = "bias" if leaf == "bias" else "weight"
    if owners[:1] == ["sentence"]:
        owners = [f"layer_{shape.layers - 1}"]
    if path[0] == "embeddings":
        return f"embeddings.{EMBEDDINGS[part]}.{leaf}"
    number = owners[0].removeprefix("layer_")
    inside = "attention." if "attention" in owners else ""
    return f"encoder.layer.{number}.{LAYER[inside + part]}.{leaf}"


EMBEDDINGS = {
    "word": "word_embeddings",
    "position": "position_embeddings",
    "segment": "token_type_embeddings",
    "norm": "LayerNorm",
}
LAYER = {
    "attention.query": "attention.self.query",
    "attention.key": "attention.self.key",
    "attention.value": "attention.self.value",
    "attention.output": "attention.output.dense",
    "attention_norm": "attention.output.LayerNorm",
    "intermediate": "intermediate.dense",
    "output": "output.dense",
    "output_norm": "output.LayerNorm",
}
