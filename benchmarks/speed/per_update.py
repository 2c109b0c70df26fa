"""What one update costs, against width, batch and rank: Vanilla, and DNS in its three strengths, beside the floor.

    python -m benchmarks.speed.per_update
    python -m benchmarks.speed.per_update --widths=32 --batches= --ranks= --repeats=2 --out=/tmp/speed   # to try it

A call trains one run for some epochs of 64 batches by `train_epochs`. What is reported is the difference of a long and
a short call over the number of updates between them: it leaves out what a step does once, such as projecting its rows.
Strengths take turns, and ratios are medians of paired calls. `peaks.py` says what the floor is.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.speed.figure import line_chart
from benchmarks.speed.measuring import median_ratio
from benchmarks.speed.peaks import Peaks, bytes_moved, floor_seconds, measure_peaks, operations
from benchmarks.speed.results import FOLDER, Table, publish
from cmcl_jax.heads import init_heads
from cmcl_jax.methods import method_from_config
from cmcl_jax.runs import RunAxis
from cmcl_jax.stream import Step, StepFeatures
from cmcl_jax.train import begin_step, finish_step, init_memory, of_runs, train_epochs
from configs.defaults import default_config

STRENGTHS = ("vanilla", "exact", "gradients", "updates")
BATCHES_PER_EPOCH, MAX_EPOCHS = 64, 100
PAIR = ("vision", "text")


class Point(NamedTuple):
    """What is measured: width of heads, rows of a batch, dimensions protected on each side."""

    width: int
    batch: int
    rank: int


@dataclass(frozen=True)
class Timed:
    """Trains a fixed state for so many epochs, from the same start each time."""

    run: Callable[[Any, int], Any]
    start: Any

    def seconds(self, epochs: int) -> float:
        """Of one call; the copy of the start, which the call may overwrite, is not timed."""
        copy = jax.block_until_ready(jax.tree.map(jnp.copy, self.start))
        begin = time.perf_counter()
        jax.block_until_ready(self.run(copy, epochs))
        return time.perf_counter() - begin


def rows_of_rank(point: Point, seed: int) -> StepFeatures:
    """Random rows of both modalities in a random space of the point's rank."""
    rng = np.random.default_rng(seed)
    n = BATCHES_PER_EPOCH * point.batch
    by_role = {}
    for role in "ab":
        basis = np.linalg.qr(rng.standard_normal((point.width, point.rank)))[0]
        by_role[role] = jnp.asarray(rng.standard_normal((n, point.rank)) @ basis.T, jnp.float32)
    return StepFeatures(by_role, jnp.asarray(n, jnp.int32))


def training_of(strength: str, point: Point) -> Timed:
    """One strength, ready to train on rows of full rank while it protects `point.rank` dimensions on each side."""
    config = default_config()
    config.method = "vanilla" if strength == "vanilla" else "dns"
    config.training.update({"batch_size": point.batch, "epochs": MAX_EPOCHS})
    if strength != "vanilla":
        config.dns.project = strength
    axis, step = RunAxis.default(), Step(1, "made-up", PAIR, ("recall",))
    heads = init_heads(jax.random.key(0), dict.fromkeys(PAIR, point.width))
    heads = jax.tree.map(lambda leaf: leaf[None], heads)
    method = of_runs(method_from_config(config), heads)
    features = rows_of_rank(point._replace(rank=point.width), seed=1)
    memory = init_memory(method, heads, (PAIR,))
    if point.rank and strength != "vanilla":
        old = rows_of_rank(point, seed=2)
        untrained = begin_step(method, heads, memory, step, old, axis)
        memory = finish_step(method, untrained, heads, memory, step, old, axis).memory
    start = begin_step(method, heads, memory, step, features, axis)
    keys = jax.random.split(jax.random.key(3), 1)
    return Timed(lambda state, epochs: train_epochs(method, state, features, keys, (0, epochs), axis), start)


def measure(point: Point, repeats: int, at_least: float) -> dict[str, list[float]]:
    """Seconds of one update by strength, `repeats` of each.

    Args:
        point: see `Point`.
        repeats: of each strength, in turns.
        at_least: seconds by which the long call should be longer.
    """
    timed = {strength: training_of(strength, point) for strength in STRENGTHS}
    epochs = {}
    for strength, training in timed.items():
        training.seconds(1)  # compiles
        of_one = (training.seconds(3) - training.seconds(1)) / 2
        epochs[strength] = min(MAX_EPOCHS, 2 + int(at_least / max(of_one, 1e-5)))
    found: dict[str, list[float]] = {strength: [] for strength in STRENGTHS}
    for _ in range(repeats):
        for strength, training in timed.items():
            longer = training.seconds(epochs[strength]) - training.seconds(1)
            found[strength].append(longer / ((epochs[strength] - 1) * BATCHES_PER_EPOCH))
    return found


def table(title: str, measured: dict[Point, dict[str, list[float]]], peaks: dict[int, Peaks]) -> Table:
    """Milliseconds, the ratio to the floor, and DNS relative to Vanilla."""
    rows = []
    for point, found in measured.items():
        floor = floor_seconds(peaks[point.width], point.width, point.batch)
        vanilla = found["vanilla"]
        cells = [f"{point.width} · {point.batch} · {point.rank}", f"{1e3 * floor:.3f}"]
        cells += [f"{1e3 * median(found[strength]):.3f}" for strength in STRENGTHS]
        cells += [f"{median(vanilla) / floor:.1f}"]
        cells += [f"{median_ratio(found[strength], vanilla):.2f}" for strength in STRENGTHS[1:]]
        rows.append(cells)
    columns = (
        "width · batch · rank",
        "floor",
        *STRENGTHS,
        "vanilla ÷ floor",
        *(f"{s} ÷ vanilla" for s in STRENGTHS[1:]),
    )
    return Table(title, columns, rows)


def peaks_table(peaks: dict[int, Peaks], batch: int) -> Table:
    """What the floor is made of."""
    rows = [
        [
            str(width),
            f"{of.flops / 1e9:,.0f}",
            f"{of.bandwidth / 1e9:,.0f}",
            f"{operations(width, batch) / 1e6:,.1f}",
            f"{bytes_moved(width, batch) / 1e6:,.2f}",
            f"{1e3 * operations(width, batch) / of.flops:.3f}",
            f"{1e3 * bytes_moved(width, batch) / of.bandwidth:.3f}",
        ]
        for width, of in peaks.items()
    ]
    columns = ("width", "GFLOP/s", "GB/s", "MFLOP an update", "MB an update", "ms of operations", "ms of bytes")
    return Table(f"the floor, batch {batch}", columns, rows)


def figure(measured: dict[Point, dict[str, list[float]]], peaks: dict[int, Peaks], path: Path) -> None:
    """Cost of one update over width, with the floor."""
    with line_chart(path) as axes:
        widths = [point.width for point in measured]
        for strength in STRENGTHS:
            label = strength if strength == "vanilla" else f"dns, {strength}"
            axes.plot(widths, [1e3 * median(found[strength]) for found in measured.values()], marker="o", label=label)
        floors = [1e3 * floor_seconds(peaks[point.width], point.width, point.batch) for point in measured]
        axes.plot(widths, floors, color="black", linestyle="--", label="floor")
        axes.set(xscale="log", yscale="log", xlabel="width of the heads", ylabel="ms an update")
        axes.set_xticks(widths, [str(width) for width in widths])
        axes.set_title(f"batch {next(iter(measured)).batch}, half of each side protected")


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(
        "python -m benchmarks.speed.per_update",
        description=__doc__,
        allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    whole = lambda text: [int(part) for part in text.split(",") if part]  # noqa: E731
    add("--widths", type=whole, default="64,128,256,512,1024", help="at batch 64 and rank d/2 (default: 64 to 1024)")
    add("--batches", type=whole, default="16,256", help="more batches, at the largest width (default: 16,256)")
    add("--ranks", type=whole, default="128,896", help="more ranks, at the largest width (default: 128,896)")
    add("--repeats", type=int, default=5, help="of each strength, in turns (default: 5)")
    add("--at_least", type=float, default=0.3, help="seconds of training in each timing (default: 0.3)")
    add("--out", type=Path, default=FOLDER, help=f"folder for JSON, markdown and plot (default: {FOLDER})")
    given = list(sys.argv[1:] if arguments is None else arguments)
    flags = parser.parse_args(given)
    peaks = {width: measure_peaks(width) for width in flags.widths}
    largest = max(flags.widths)
    groups = {
        "widths": [Point(width, 64, width // 2) for width in flags.widths],
        "batches": [Point(largest, batch, largest // 2) for batch in flags.batches],
        "ranks": [Point(largest, 64, rank) for rank in flags.ranks],
    }
    measured: dict[str, dict[Point, dict[str, list[float]]]] = {}
    for group, points in groups.items():
        measured[group] = {}
        for point in points:
            measured[group][point] = measure(point, flags.repeats, flags.at_least)
            in_ms = {name: round(1e3 * median(times), 3) for name, times in measured[group][point].items()}
            print(point, in_ms, file=sys.stderr, flush=True)
    figure(measured["widths"], peaks, flags.out / "per_update.png")
    tables = [table(f"ms an update, by {name}", found, peaks) for name, found in measured.items() if found]
    results = {
        "peaks": {str(width): of._asdict() for width, of in peaks.items()},
        "seconds": [
            {**point._asdict(), **found} for of_group in measured.values() for point, found in of_group.items()
        ],
    }
    command = " ".join(["python -m benchmarks.speed.per_update", *given])
    publish("per_update", command, [*tables, peaks_table(peaks, 64)], results, flags.out)


if __name__ == "__main__":
    main()
