"""What both sides of a whole run share, written down: the setting, the order of every batch, the galleries.

The PyTorch side reads it and needs neither JAX nor this project's training.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from cmcl_jax.measuring import GALLERY_SEED
from cmcl_jax.methods import method_from_config
from cmcl_jax.metrics.retrieval import GALLERY_SIZE, gallery_indices
from cmcl_jax.open_stream import open_stream
from cmcl_jax.stream import StepFeatures, Stream
from cmcl_jax.train import epoch_order, step_keys
from configs import paper

VARIANTS: dict[str, dict[str, Any]] = {
    "vanilla": {"method": "vanilla"},
    "dns released": {"method": "dns"},
    "dns": {"method": "dns", "dns.mode": "ours", "dns.input_threshold": None},
}
"""What is trained: fine-tuning, the public reference's arithmetic, and this project's default."""


def config_of(
    variant: str, cache_dir: Path, steps: Sequence[Any], dtype: str, epochs: int, seeds: int = 1
) -> ConfigDict:
    """The paper's setting on made-up features."""
    config = paper.get_config("synthetic")
    fields = {"cache_dir": str(cache_dir), "stream.steps": tuple(steps), "seeds": seeds, "dtype": dtype}
    config.update_from_flattened_dict({**fields, "training.epochs": epochs, **VARIANTS[variant]})
    return config


def write_plan(
    folder: Path, cache_dir: Path, steps: Sequence[Any] = paper.STEPS, dtype: str = "float32", epochs: int = 5
) -> Path:
    """Writes `plan.json` and `plan.npz` into `folder` and returns the first's path.

    Args:
        folder: exists.
        cache_dir: with the caches of the encoder "synthetic".
        steps: `(dataset, modalities, metrics)`, as in a config.
        dtype: of both sides.
        epochs: passes over each step's rows.
    """
    config = config_of("dns released", cache_dir, steps, dtype, epochs)
    stream = open_stream(steps, cache_dir, config.encoder)
    path = folder / "plan.json"
    content = {
        "cache_dir": str(cache_dir),
        "encoder": config.encoder,
        "dtype": dtype,
        "training": dict(config.training),
        "input_threshold": config.dns.input_threshold,
        "steps": [list(step) for step in steps],
        "pairs": [step.modalities for step in stream.steps],
        "updates": sum(epochs * -(-stream.rows(step) // config.training.batch_size) for step in stream.steps),
        "ties": [_has_ties(stream, i) for i in range(len(stream.tasks))],
    }
    arrays: dict[str, Any] = {**_orders(stream, config), **_galleries(stream)}
    np.savez(folder / "plan.npz", **arrays)
    path.write_text(json.dumps(content, indent=1))
    return path


def _orders(stream: Stream, config: ConfigDict) -> dict[str, np.ndarray[Any, Any]]:
    """`(epochs, rows)` of every step: in which order our training visits its rows."""
    method = method_from_config(config)
    keys = jax.vmap(jax.random.key)(jnp.asarray([config.first_seed]))
    orders = {}
    with jax.enable_x64(config.dtype == "float64"):  # which decides the integers that permutations are drawn with
        for step in stream.steps:
            rows = stream.rows(step)
            shaped_like = StepFeatures({"a": jnp.zeros((stream.longest, 1))}, jnp.asarray(rows, jnp.int32))
            order = jax.jit(functools.partial(epoch_order, method, shaped_like))
            key = step_keys(keys, step)[0]
            epochs = range(config.training.epochs)
            orders[f"order_{step.number}"] = np.stack([np.asarray(order(key, epoch))[:rows] for epoch in epochs])
    return orders


def _galleries(stream: Stream) -> dict[str, np.ndarray[Any, Any]]:
    """`(galleries, size)` of every size of a test split that is larger than a gallery."""
    sizes = {cache.manifest.splits["test"].count for cache in stream.caches.values()}
    key = jax.random.key(GALLERY_SEED)
    return {f"gallery_{n}": np.asarray(gallery_indices(key, n)) for n in sizes if n > GALLERY_SIZE}


def _has_ties(stream: Stream, task: int) -> bool:
    """Whether test rows of a task repeat, so that scores are equal and a sort orders them as it likes."""
    described = stream.tasks[task]
    captions = stream.caches[described.dataset].captions("test")
    return "text" in described.pair and len(set(captions)) < len(captions)
