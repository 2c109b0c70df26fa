"""Evaluation of a retrieval task against the size of its gallery: counting, as here, against sorting all scores.

    python -m benchmarks.speed.evaluation                                    # up to 100,000 rows
    python -m benchmarks.speed.evaluation --sizes=300,1200 --width=64 --out=/tmp/speed   # to try it

Every side and size in a process of its own, in turns. "first" includes compilation. Sorting holds all n² scores and
their order, 12 bytes each at least, so PyTorch and numpy stop at --torch_up_to and --numpy_up_to rows.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from benchmarks.speed.measuring import in_fresh_process, median_ratio
from benchmarks.speed.results import FOLDER, Table, publish

MODULE = "benchmarks.speed.evaluation_side"
NOT_RUN = "–"


def measure(sizes: Sequence[int], width: int, up_to: dict[str, int], repeats: int) -> dict[int, dict[str, Any]]:
    """By size, then by side."""
    found: dict[int, dict[str, Any]] = {}
    for n in sizes:
        found[n] = {}
        for side in (side for side, largest in up_to.items() if n <= largest):
            flags = [f"--side={side}", f"--rows={n}", f"--width={width}", f"--repeats={repeats}"]
            found[n][side] = in_fresh_process(MODULE, flags)
            print(f"{side}, {n:,} rows: {median(found[n][side]['seconds']):.2f} s", file=sys.stderr, flush=True)
    return found


def times_table(width: int, found: dict[int, dict[str, Any]], sides: Sequence[str]) -> Table:
    """Seconds, and how many times the others take."""
    others = [side for side in sides if side != "cmcl_jax"]
    columns = ["rows", "first", *sides, *(f"{side} ÷ cmcl_jax" for side in others)]
    rows = []
    for n, by_side in found.items():
        ours = by_side["cmcl_jax"]
        cells = [f"{n:,}", f"{ours['first']:.2f}"]
        cells += [f"{median(by_side[s]['seconds']):.3f}" if s in by_side else NOT_RUN for s in sides]
        ratio = lambda side, ours=ours, by_side=by_side: median_ratio(by_side[side]["seconds"], ours["seconds"])  # noqa: E731
        cells += [f"{ratio(side):.1f}" if side in by_side else NOT_RUN for side in others]
        rows.append(cells)
    return Table(f"evaluation of one task, width {width}: seconds", columns, rows)


def memory_table(width: int, found: dict[int, dict[str, Any]], sides: Sequence[str]) -> Table:
    """Peaks above what was resident with the features loaded, and how far recalls of PyTorch and ours differ."""
    rows = []
    for n, by_side in found.items():
        cells = [f"{n:,}"]
        cells += [f"{by_side[s]['peak_mb'] - by_side[s]['before_mb']:,.0f}" if s in by_side else NOT_RUN for s in sides]
        if "torch" in by_side:
            difference = np.abs(np.subtract(by_side["torch"]["found"][:3], by_side["cmcl_jax"]["found"][:3]))
            cells.append(f"{difference.max():.4f}")
        else:
            cells.append(NOT_RUN)
        rows.append(cells)
    title = f"evaluation of one task, width {width}: peak memory above the features and the framework, MB"
    return Table(title, ["rows", *sides, "largest difference of R@1, R@5, R@10 to torch, points"], rows)


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(
        "python -m benchmarks.speed.evaluation",
        description=__doc__,
        allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    whole = lambda text: [int(part) for part in text.split(",")]  # noqa: E731
    add("--sizes", type=whole, default="1000,3463,10000,30000,100000", help="rows (default: up to 100,000)")
    add("--width", type=int, default=256, help="of the features (default: 256)")
    add("--torch_up_to", type=int, default=10_000, help="largest size for PyTorch (default: 10,000)")
    add("--numpy_up_to", type=int, default=3_463, help="largest size for numpy (default: 3,463)")
    add("--repeats", type=int, default=1, help="calls after the first (default: 1)")
    add("--out", type=Path, default=FOLDER, help=f"folder for JSON and markdown (default: {FOLDER})")
    given = list(sys.argv[1:] if arguments is None else arguments)
    flags = parser.parse_args(given)
    up_to = {"cmcl_jax": sys.maxsize, "torch": flags.torch_up_to, "numpy": flags.numpy_up_to}
    found = measure(flags.sizes, flags.width, up_to, flags.repeats)
    tables = [times_table(flags.width, found, list(up_to)), memory_table(flags.width, found, list(up_to))]
    command = " ".join(["python -m benchmarks.speed.evaluation", *given])
    publish("evaluation", command, tables, {"width": flags.width, "by_rows": found}, flags.out)


if __name__ == "__main__":
    main()
