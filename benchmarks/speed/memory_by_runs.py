"""Peak memory and time of a run of the stream against how many runs (seeds) train together.

    python -m benchmarks.speed.memory_by_runs
    python -m benchmarks.speed.memory_by_runs --width=64 --seeds=1,2 --out=/tmp/speed   # to try it

Every number of runs in a process of its own: the paper's 11 steps with a fiftieth of the rows of `full_run` and a tenth
of the test rows, one epoch a step. Features are shared by all runs; heads, optimizer and memory are each run's own.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.speed.caches import caches_of
from benchmarks.speed.measuring import in_fresh_process
from benchmarks.speed.plan import write_plan
from benchmarks.speed.results import FOLDER, Table, publish

SCALE, TEST_SCALE = 0.02, 0.1
VARIANTS = ("vanilla", "dns")


def measure(work: Path, width: int, seeds: Sequence[int]) -> dict[str, dict[int, dict[str, Any]]]:
    """By variant and number of runs."""
    cache_dir = caches_of(work, width, SCALE, TEST_SCALE)
    found: dict[str, dict[int, dict[str, Any]]] = {variant: {} for variant in VARIANTS}
    with tempfile.TemporaryDirectory() as folder:
        plan = write_plan(Path(folder), cache_dir, epochs=1)
        for count in seeds:
            for variant in VARIANTS:
                flags = [f"--plan={plan}", f"--variant={variant}", f"--seeds={count}"]
                result = in_fresh_process("benchmarks.speed.our_run", flags)
                names = ("peak_mb", "imported_mb", "device_peak_mb", "total", "seconds")
                found[variant][count] = {name: result[name] for name in names if name in result}
                print(f"{variant}, {count} runs: {result['peak_mb']:,.0f} MB", file=sys.stderr, flush=True)
        shared = json.loads(plan.read_text())
    print(f"{shared['updates']:,} updates a run", file=sys.stderr)
    return found


def table(width: int, found: dict[str, dict[int, dict[str, Any]]]) -> Table:
    """MB above the import of the framework, and seconds of training without compilation."""
    counts = list(next(iter(found.values())))
    rows = []
    for count in counts:
        cells = [str(count)]
        for by_count in found.values():
            result = by_count[count]
            seconds = result["seconds"]["training"] - result["seconds"]["training compiling"]
            cells += [f"{result['peak_mb'] - result['imported_mb']:,.0f}", f"{seconds:.1f}"]
        rows.append(cells)
    columns = ["runs", *(f"{variant}: {unit}" for variant in found for unit in ("MB", "s of training"))]
    return Table(f"width {width}: peak memory above the import, by number of runs", columns, rows)


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(
        "python -m benchmarks.speed.memory_by_runs",
        description=__doc__,
        allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    whole = lambda text: [int(part) for part in text.split(",")]  # noqa: E731
    add("--width", type=int, default=1024, help="of the features (default: 1024)")
    add("--seeds", type=whole, default="1,2,5,10", help="how many runs together (default: 1,2,5,10)")
    add("--work", type=Path, default=Path("runs/speed"), help="folder of the made-up caches (default: runs/speed)")
    add("--out", type=Path, default=FOLDER, help=f"folder for JSON and markdown (default: {FOLDER})")
    given = list(sys.argv[1:] if arguments is None else arguments)
    flags = parser.parse_args(given)
    found = measure(flags.work, flags.width, flags.seeds)
    command = " ".join(["python -m benchmarks.speed.memory_by_runs", *given])
    publish("memory_by_runs", command, [table(flags.width, found)], {"width": flags.width, "found": found}, flags.out)


if __name__ == "__main__":
    main()
