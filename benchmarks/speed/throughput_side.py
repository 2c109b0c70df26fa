"""Several runs through the pocket stream on several devices, in a process of its own; `sweep_throughput` starts it."""

from __future__ import annotations

import argparse
import functools
import json
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from benchmarks.speed.measuring import peak_memory
from cmcl_jax.heads import Heads, init_heads
from cmcl_jax.methods import method_from_config
from cmcl_jax.open_stream import open_stream
from cmcl_jax.runs import RUNS, RunAxis
from configs import pocket


def measure(method: str, runs: int, devices: int, steps: int | None, epochs: int) -> dict[str, Any]:
    """Seconds of training the first time, which compiles, and once more; losses `[run][step]` of each step's end.

    Args:
        method: "vanilla" or "dns".
        runs: how many, a multiple of the devices; their seeds differ.
        devices: over how many they are spread.
        steps: of the pocket stream, from its first; None: all.
        epochs: passes over each step.
    """
    config = pocket.get_config()
    config.update_from_flattened_dict({"method": method, "training.epochs": epochs})
    stream = open_stream(config.stream.steps[:steps], config.cache_dir, config.encoder)
    mesh = jax.make_mesh((devices,), (RUNS,), devices=jax.devices()[:devices], axis_types=(jax.sharding.AxisType.Auto,))
    axis = RunAxis.default(mesh=mesh if devices > 1 else None)
    learner = method_from_config(config).learner(stream, jnp.float32, axis)
    keys = jax.vmap(jax.random.key)(jnp.arange(runs))
    fresh: Heads = jax.vmap(functools.partial(init_heads, widths=stream.widths))(keys)

    def through_the_stream() -> list[list[float]]:
        heads, memory, ends = fresh, learner.start(fresh), []
        for step in stream.steps:
            heads, memory, losses = learner.learn(heads, memory, step, keys)
            ends.append(losses[:, -1])
        found: list[list[float]] = jax.block_until_ready(jnp.stack(ends, axis=1)).tolist()
        jax.block_until_ready((heads, memory))
        return found

    seconds = []
    for _ in range(2):
        begin = time.perf_counter()
        losses = through_the_stream()
        seconds.append(time.perf_counter() - begin)
    return {"first": seconds[0], "again": seconds[1], "losses": losses, "peak_mb": peak_memory()}


def main() -> None:
    """The command line; `sweep_throughput` gives it."""
    parser = argparse.ArgumentParser("python -m benchmarks.speed.throughput_side", description=__doc__)
    parser.add_argument("--method", choices=("vanilla", "dns"), required=True, help="what to train")
    parser.add_argument("--runs", type=int, required=True, help="how many")
    parser.add_argument("--devices", type=int, required=True, help="over how many devices")
    parser.add_argument("--steps", type=int, help="of the stream (default: all)")
    parser.add_argument("--epochs", type=int, required=True, help="of each step")
    parser.add_argument("--out", type=Path, required=True, help="file for the results")
    flags = parser.parse_args()
    flags.out.write_text(json.dumps(measure(flags.method, flags.runs, flags.devices, flags.steps, flags.epochs)))


if __name__ == "__main__":
    main()
