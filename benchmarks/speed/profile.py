"""Where the time of the whole run goes: this project's parts, compilation apart.

    python -m benchmarks.speed.profile                                   # 7,610 updates at width 1024
    python -m benchmarks.speed.profile --width=64 --scale=0.02 --test_scale=0.1 --out=/tmp/speed   # to try it

Each part is waited for, so that the sum is a little more than the run of `full_run` on the same data.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import jax

from benchmarks.speed.caches import caches_of
from benchmarks.speed.our_run import Clock
from benchmarks.speed.plan import VARIANTS, config_of
from benchmarks.speed.results import FOLDER, Table, publish
from cmcl_jax import continual, train
from cmcl_jax.measuring import TestTasks
from cmcl_jax.stream import Stream
from configs import paper

PARTS = {
    "features to the device": (Stream, "training_features"),
    "bases, fresh optimizer": (train, "begin_step"),
    "updates": (train, "train_epochs"),
    "memories": (train, "finish_step"),
    "evaluation": (TestTasks, "measure"),
}
"""What is timed, and where it is."""


def profile(variant: str, cache_dir: Path, epochs: int, steps: Sequence[Any] = paper.STEPS) -> dict[str, float]:
    """Seconds of each part, of its compilations as "<part> compiling", and "total"."""
    clock, config = Clock(), config_of(variant, cache_dir, steps, "float32", epochs)
    with tempfile.TemporaryDirectory() as folder, watched(clock):
        begin = time.perf_counter()
        continual.run(config, Path(folder) / "run")
        return {**clock.seconds, "total": time.perf_counter() - begin}


@contextmanager
def watched(clock: Clock) -> Iterator[None]:
    """Within, the clock sees every part."""
    jax.monitoring.register_event_duration_secs_listener(clock.listen)
    try:
        with ExitStack() as stack:
            for part, (owner, name) in PARTS.items():
                stack.enter_context(mock.patch.object(owner, name, clock.timed(part, getattr(owner, name))))
            yield
    finally:
        jax.monitoring.unregister_event_duration_listener(clock.listen)


def table(found: dict[str, dict[str, float]]) -> Table:
    """A row for each part, seconds without compilation and of it."""
    rows = []
    for part in [*PARTS, "total"]:
        row = [part]
        for of_variant in found.values():
            compiling = of_variant.get(f"{part} compiling", 0.0)
            row += [f"{of_variant[part] - compiling:.1f}", f"{compiling:.1f}" if part in PARTS else ""]
        rows.append(row)
    columns = [name for variant in found for name in (variant, "compiling")]
    return Table("seconds of the whole run, by part", ("part", *columns), rows)


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(
        "python -m benchmarks.speed.profile",
        description=__doc__,
        allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--width", type=int, default=1024, help="of the features (default: 1024)")
    add("--scale", type=float, default=1.0, help="times the training rows; 1 is 7,610 updates (default: 1)")
    add("--test_scale", type=float, default=1.0, help="times the paper's test rows (default: 1)")
    add("--epochs", type=int, default=5, help="passes over each step (default: 5)")
    add("--work", type=Path, default=Path("runs/speed"), help="folder of the made-up caches (default: runs/speed)")
    add("--out", type=Path, default=FOLDER, help=f"folder for JSON and markdown (default: {FOLDER})")
    given = list(sys.argv[1:] if arguments is None else arguments)
    flags = parser.parse_args(given)
    cache_dir = caches_of(flags.work, flags.width, flags.scale, flags.test_scale)
    found = {variant: profile(variant, cache_dir, flags.epochs) for variant in VARIANTS}
    command = " ".join(["python -m benchmarks.speed.profile", *given])
    publish("profile", command, [table(found)], {"seconds": found}, flags.out)


if __name__ == "__main__":
    main()
