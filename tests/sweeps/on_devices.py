"""Trains one small sweep on 1, 2 and 8 devices of a process that has eight: `python -m tests.sweeps.on_devices`."""

import sys
from pathlib import Path

import jax

from cmcl_jax.sweeps import load_sweep, sweep
from tests.sweeps.conftest import TINY
from tests.sweeps.test_sweep_docs import PMAP


def main(cache_dir: str, out: Path, at_once: int) -> None:
    """Five runs of each method, two a device, in turns (at_once = 1) or side by side (2)."""
    jax.config.update("jax_disable_most_optimizations", True)
    assert jax.device_count() == 8
    overrides = [
        f"cache_dir={cache_dir}",
        "seeds=5",
        "dtype=float64",
        "sweep.dns.input_threshold=0.1",
        "stream.row_limit=20",
    ]
    config = load_sweep(TINY, [*overrides, "sweep.training.learning_rate=1e-2", "sweep.method=dns,joint"])
    config.runs_at_once = at_once
    exec(PMAP, {"__name__": "page"})
    for count in (1, 2, 8):
        sweep(config, out / str(count), chunk=2, devices=jax.local_devices()[:count])


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]))
