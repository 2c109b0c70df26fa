"""Rows of a step written to disk in shards, and the same rows as arrays."""

from collections.abc import Sequence
from pathlib import Path

import jax.numpy as jnp
import numpy as np

from cmcl_jax.stored_rows import StoredRows
from cmcl_jax.stream import StepFeatures
from feature_cache import shards
from feature_cache.feature_rows import FeatureRows


def write_rows(folder: Path, arrays: dict[str, np.ndarray], counts: Sequence[int]) -> dict[str, FeatureRows]:
    """Float32 rows of each name, in shards of so many rows."""
    folder.mkdir(parents=True, exist_ok=True)
    stored = {name: rows.astype(np.float32) for name, rows in arrays.items()}
    files, ends = [], np.cumsum([0, *counts])
    for i in range(len(counts)):
        files.append(folder / f"{i}.safetensors")
        part = {name: rows[ends[i] : ends[i + 1]] for name, rows in stored.items()}
        files[-1].write_bytes(shards.tensors_bytes(part))
    return {
        name: FeatureRows(files, counts, name, rows.shape[1], np.dtype(np.float32)) for name, rows in stored.items()
    }


def on_disk(folder: Path, features: StepFeatures, shard: int = 7) -> tuple[StoredRows, StepFeatures]:
    """A step's rows in shards of `shard` rows, and the same in memory: those given, rounded to float32."""
    rows = int(features.rows)
    arrays = {role: np.asarray(of_role)[:rows] for role, of_role in features.by_role.items()}
    counts = [min(shard, rows - first) for first in range(0, rows, shard)]
    rounded = {role: jnp.asarray(np.asarray(x, np.float32), x.dtype) for role, x in features.by_role.items()}
    stored = StoredRows(write_rows(folder, arrays, counts), rows, features.padded_rows)
    return stored, features._replace(by_role=rounded)
