"""The whole run by this project, `cmcl_jax.continual.run`, timed part by part: `plan.py` says on what."""

from __future__ import annotations

import argparse
import functools
import json
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import jax
import numpy as np

from benchmarks.speed.measuring import peak_memory, resident_memory
from benchmarks.speed.plan import VARIANTS, config_of
from cmcl_jax import continual
from cmcl_jax.measuring import TestTasks
from cmcl_jax.train import StepByStep


class Clock:
    """Seconds spent in functions, what they compiled included and also apart."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self.compiling = 0.0

    def listen(self, event: str, duration_secs: float, **unused: Any) -> None:
        """Called by JAX with every event that takes time; those that make an executable count."""
        del unused
        if event.startswith("/jax/core/compile/") and "trace" not in event:  # traces are within each other
            self.compiling += duration_secs

    def timed(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """The function, its time added up under `name`, that of its compilations under `name compiling`."""

        @functools.wraps(function)
        def timed(*args: Any, **kwargs: Any) -> Any:
            begin, compiled = time.perf_counter(), self.compiling
            result = jax.block_until_ready(function(*args, **kwargs))
            self._add(name, time.perf_counter() - begin)
            self._add(f"{name} compiling", self.compiling - compiled)
            return result

        return timed

    def _add(self, name: str, seconds: float) -> None:
        self.seconds[name] = self.seconds.get(name, 0.0) + seconds


@contextmanager
def watched(clock: Clock) -> Iterator[None]:
    """Within, the clock sees training and evaluation of runs."""
    jax.monitoring.register_event_duration_secs_listener(clock.listen)
    learn = clock.timed("training", StepByStep.learn)
    measure = clock.timed("evaluation", TestTasks.measure)
    try:
        with mock.patch.object(StepByStep, "learn", learn), mock.patch.object(TestTasks, "measure", measure):
            yield
    finally:
        jax.monitoring.unregister_event_duration_listener(clock.listen)


def finish(plan: Path, variant: str, workdir: Path, seeds: int = 1) -> dict[str, Any]:
    """Trains the plan's stream with `cmcl_jax.continual.run`; the same fields as the PyTorch side's, and "compiling".

    Args:
        plan: `plan.json`.
        variant: a key of `VARIANTS`.
        workdir: of the run, new.
        seeds: how many runs train together; losses and matrices are the first's.
    """
    shared = json.loads(plan.read_text())
    steps = [tuple(tuple(part) if isinstance(part, list) else part for part in step) for step in shared["steps"]]
    config = config_of(variant, Path(shared["cache_dir"]), steps, shared["dtype"], shared["training"]["epochs"], seeds)
    clock, begin = Clock(), time.perf_counter()
    with watched(clock):
        continual.run(config, workdir)
    total = time.perf_counter() - begin
    events = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    files = [*workdir.glob("*_matrix.npy"), *(workdir / "matrices").glob("*.npy")]
    matrices = {path.stem.removesuffix("_matrix"): np.load(path)[0].tolist() for path in sorted(files)}
    return {
        "losses": [event["losses"][0] for event in events if event["event"] == "step"],
        "matrices": matrices,
        "seconds": clock.seconds,
        "total": total,
    }


def main() -> None:
    """The command line; `full_run` gives it, in a process of its own."""
    parser = argparse.ArgumentParser("python -m benchmarks.speed.our_run", description=__doc__, allow_abbrev=False)
    parser.add_argument("--plan", type=Path, required=True, help="plan.json")
    parser.add_argument("--variant", choices=VARIANTS, required=True, help="what to train")
    parser.add_argument("--out", type=Path, required=True, help="file for the results")
    parser.add_argument("--seeds", type=int, default=1, help="how many runs train together (default: 1)")
    flags = parser.parse_args()
    before = resident_memory()
    with tempfile.TemporaryDirectory() as folder:
        found = finish(flags.plan, flags.variant, Path(folder) / "run", flags.seeds)
    found |= {"peak_mb": peak_memory(), "imported_mb": before}
    memory = jax.devices()[0].memory_stats()
    if memory is not None:
        found["device_peak_mb"] = memory["peak_bytes_in_use"] / 1e6
    flags.out.write_text(json.dumps(found))


if __name__ == "__main__":
    main()
