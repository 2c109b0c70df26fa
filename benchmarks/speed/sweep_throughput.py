"""Runs per minute of training through the pocket stream, against how many train in one program and on how many devices.

    python -m benchmarks.speed.sweep_throughput
    python -m benchmarks.speed.sweep_throughput --runs=1,2 --devices=2 --steps=2 --out=/tmp/speed   # to try it

DNS with its default settings. Every point in a process of its own, which goes through the stream twice: the first time
compiles. Evaluation and files are left out. On a CPU devices are virtual ones that share its cores, and runs of
a device take turns: several can only fill cores that one run leaves idle. On accelerators they train side by side.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.speed.figure import line_chart
from benchmarks.speed.measuring import in_fresh_process
from benchmarks.speed.results import FOLDER, Table, publish

Found = dict[tuple[int, int], dict[str, Any]]


def measure(points: Sequence[tuple[int, int]], method: str, flags: Sequence[str]) -> Found:
    """By number of runs and of devices."""
    found: Found = {}
    for runs, devices in points:
        given = [f"--method={method}", f"--runs={runs}", f"--devices={devices}", *flags]
        virtual = {"XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}"}  # of CPUs; others do not read it
        found[runs, devices] = in_fresh_process("benchmarks.speed.throughput_side", given, virtual)
        print(f"{runs} runs, {devices} devices: {found[runs, devices]['again']:.1f} s", file=sys.stderr, flush=True)
    return found


def table(found: Found) -> Table:
    """Runs per minute, and whether the losses of the first run are those that it has alone."""
    alone = found[min(found)]
    rows = []
    for (runs, devices), result in found.items():
        rate = 60 * runs / result["again"]
        difference = np.max(np.abs(np.subtract(result["losses"][0], alone["losses"][0])))
        rows.append(
            [
                f"{runs} on {devices}",
                f"{60 * runs / result['first']:,.1f}",
                f"{rate:,.1f}",
                f"{rate * alone['again'] / 60 / min(found)[0]:.2f}",
                f"{result['peak_mb']:,.0f}",
                f"{difference:.0e}",
            ]
        )
    columns = ("runs on devices", "with compilation", "compiled", "÷ first row", "peak MB", "loss of run 0, difference")
    return Table("runs per minute of training", columns, rows)


def figure(found: Found, path: Path) -> None:
    """Runs per minute over the number of runs, a line per number of devices."""
    with line_chart(path) as axes:
        for devices in sorted({devices for _, devices in found}):
            runs = [runs for runs, on in found if on == devices]
            rates = [60 * count / found[count, devices]["again"] for count in runs]
            axes.plot(runs, rates, marker="o", label=f"{devices} device{'s' if devices > 1 else ''}")
        axes.set(xscale="log", xlabel="runs in one program", ylabel="runs per minute", title="training, pocket stream")
        counts = sorted({runs for runs, _ in found})
        axes.set_xticks(counts, [str(count) for count in counts])
        axes.set_ylim(bottom=0)


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(
        "python -m benchmarks.speed.sweep_throughput",
        description=__doc__,
        allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    whole = lambda text: [int(part) for part in text.split(",") if part]  # noqa: E731
    add("--runs", type=whole, default="1,2,4,8", help="how many runs in one program (default: 1,2,4,8)")
    add("--devices", type=whole, default="2,4", help="besides one device, where they divide the runs (default: 2,4)")
    add("--steps", type=int, help="of the stream, from its first (default: all)")
    add("--epochs", type=int, default=2, help="passes over each step (default: 2)")
    add("--out", type=Path, default=FOLDER, help=f"folder for JSON, markdown and plot (default: {FOLDER})")
    given = list(sys.argv[1:] if arguments is None else arguments)
    flags = parser.parse_args(given)
    points = [(runs, devices) for devices in (1, *flags.devices) for runs in flags.runs if runs % devices == 0]
    steps = [] if flags.steps is None else [f"--steps={flags.steps}"]
    found = measure(points, "dns", [f"--epochs={flags.epochs}", *steps])
    figure(found, flags.out / "sweep_throughput.png")
    results = [{"runs": runs, "devices": devices, **result} for (runs, devices), result in found.items()]
    command = " ".join(["python -m benchmarks.speed.sweep_throughput", *given])
    publish("sweep_throughput", command, [table(found)], {"points": results}, flags.out)


if __name__ == "__main__":
    main()
