"""Runs every benchmark of speed, one after another, and writes docs/speed: quiet machine, two cores, under 15 minutes.

    python -m benchmarks.speed.all
    python -m benchmarks.speed.all --tiny --out=/tmp/speed      # to try it

`full_run` has a tenth of its training rows here and half of the test rows; its full size is a command of its own.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from benchmarks.speed.results import FOLDER

PLAN: dict[str, tuple[list[str], list[str]]] = {
    "per_update": ([], ["--widths=32", "--batches=", "--ranks=", "--repeats=2", "--at_least=0.01"]),
    "evaluation": (["--sizes=1000,3463,10000,30000"], ["--sizes=300,1200", "--width=32"]),
    "cache_reading": ([], ["--rows=500", "--width=32"]),
    "memory_by_runs": (["--seeds=1,5"], ["--width=32", "--seeds=1"]),
    "sweep_throughput": ([], ["--runs=1,2", "--devices=2", "--steps=2", "--epochs=1"]),
    "profile": ([], ["--width=32", "--scale=0.01", "--test_scale=0.05"]),
    "full_run": (
        ["--scale=0.1", "--test_scale=0.5", "--name=full_run_small"],
        ["--widths=32", "--scale=0.01", "--test_scale=0.05"],
    ),
}
"""By benchmark, its flags, and those for trying it."""


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; the exit code is 1 if a benchmark failed, after the others."""
    parser = argparse.ArgumentParser(
        "python -m benchmarks.speed.all",
        description=__doc__,
        allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--tiny", action="store_true", help="everything as small as it gets")
    parser.add_argument("--out", type=Path, default=FOLDER, help=f"folder for what they write (default: {FOLDER})")
    flags = parser.parse_args(arguments)
    failed = []
    for name, (full, tiny) in PLAN.items():
        begin = time.perf_counter()
        command = [sys.executable, "-m", f"benchmarks.speed.{name}", *(tiny if flags.tiny else full)]
        if subprocess.run([*command, f"--out={flags.out}"], check=False).returncode:
            failed.append(name)
        print(f"{name}: {time.perf_counter() - begin:.0f} s", file=sys.stderr, flush=True)
    if failed:
        print(f"Failed: {', '.join(failed)}.", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
