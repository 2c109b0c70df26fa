"""The whole run of the paper's 11 steps: this project against a plain PyTorch loop with the reference's semantics.

    python -m benchmarks.speed.full_run                                   # 7,610 updates, widths 1024 and 768
    python -m benchmarks.speed.full_run --widths=64 --scale=0.02 --test_scale=0.1 --out=/tmp/speed   # to try it

Both sides run alone in fresh processes, in turns, on the same made-up caches and the same batches (`plan.py`). Times
start after the imports and include compilation, which is also shown apart. Evaluation is over all 11 tasks, 12 times.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.speed.agreement import agreement
from benchmarks.speed.caches import caches_of
from benchmarks.speed.measuring import in_fresh_process, median_ratio
from benchmarks.speed.plan import write_plan
from benchmarks.speed.results import FOLDER, Table, publish

Results = list[dict[str, Any]]
SIDES = (
    ("torch", "vanilla"),
    ("cmcl_jax", "vanilla"),
    ("torch", "dns released"),
    ("cmcl_jax", "dns released"),
    ("cmcl_jax", "dns"),
)
PAIRS = (
    ("vanilla", SIDES[0], SIDES[1]),
    ("dns released", SIDES[2], SIDES[3]),
    ("dns, our default, against released", SIDES[2], SIDES[4]),
)
MODULES = {"torch": "benchmarks.speed.torch_loop", "cmcl_jax": "benchmarks.speed.our_run"}


def measure(plan: Path, repeats: int, device: str) -> dict[tuple[str, str], Results]:
    """Every side `repeats` times in turns, each in a process of its own."""
    found: dict[tuple[str, str], Results] = {side: [] for side in SIDES}
    for _ in range(repeats):
        for framework, variant in SIDES:
            flags = [f"--plan={plan}", f"--variant={variant}"]
            if framework == "torch":
                flags.append(f"--device={device}")
            result = in_fresh_process(MODULES[framework], flags)
            found[framework, variant].append(result)
            seconds = ", ".join(f"{name} {value:.1f}" for name, value in result["seconds"].items())
            print(f"{framework}, {variant}: {result['total']:.1f} s ({seconds})", file=sys.stderr, flush=True)
    return found


def times_table(width: int, updates: int, found: dict[tuple[str, str], Results]) -> Table:
    """Medians over the repeats, in seconds and MB."""
    rows = []
    for (framework, variant), results in found.items():
        of = lambda get, results=results: median(get(result) for result in results)  # noqa: E731
        part = lambda name: lambda result: result["seconds"].get(name, 0.0)  # noqa: E731
        compiling = of(lambda result: sum(s for name, s in result["seconds"].items() if name.endswith("compiling")))
        numbers = [of(part("training")), of(part("evaluation")), of(lambda result: result["total"]), compiling]
        peak, above = of(lambda result: result["peak_mb"]), of(_above_import)
        rows.append([f"{framework}: {variant}", *(f"{n:,.1f}" for n in numbers), f"{peak:,.0f}", f"{above:,.0f}"])
    title = f"width {width}, {updates:,} updates: seconds and MB"
    columns = ("side", "training", "evaluation", "total", "of it compiling", "peak memory", "above the import")
    return Table(title, columns, rows)


def ratios_table(width: int, updates: int, found: dict[tuple[str, str], Results]) -> Table:
    """How many times PyTorch takes what this project takes: medians of the ratios of paired runs."""
    rows = []
    for name, theirs, ours in PAIRS:
        ratio = lambda get, other=None, t=theirs, o=ours: median_ratio(  # noqa: E731
            [get(result) for result in found[t]], [(other or get)(result) for result in found[o]]
        )
        ratios = [
            ratio(lambda result: result["seconds"]["training"]),
            ratio(lambda result: result["seconds"]["evaluation"]),
            ratio(lambda result: result["total"]),
            ratio(lambda result: result["total"], _compiled),
            ratio(lambda result: result["peak_mb"]),
            ratio(_above_import),
        ]
        rows.append([name, *(f"{value:.1f}" for value in ratios)])
    title = f"width {width}, {updates:,} updates: PyTorch ÷ cmcl_jax"
    columns = ("variant", "training", "evaluation", "total", "compiled before", "peak memory", "above the import")
    return Table(title, columns, rows)


def agreement_table(width: int, found: dict[tuple[str, str], Results], ties: Sequence[bool]) -> Table:
    """The largest differences of both sides, over all repeats."""
    rows = []
    for name, theirs, ours in PAIRS[:2]:
        each = [agreement(t, o, ties) for t, o in zip(found[theirs], found[ours], strict=True)]
        worst = [max(values) for values in zip(*each, strict=True)]
        rows.append([name, f"{worst[0]:.1e}", *(f"{value:.3f}" for value in worst[1:])])
    title = f"width {width}: largest difference of both sides (metrics in percentage points)"
    columns = ("variant", "loss, relative", "zero-shot", "any metric", "mean at the end", "tasks with ties")
    return Table(title, columns, rows)


def _above_import(result: dict[str, Any]) -> float:
    return float(result["peak_mb"] - result["imported_mb"])


def _compiled(result: dict[str, Any]) -> float:
    """The total as it would be with every program in the persistent cache, but for reading it."""
    compiling = sum(seconds for name, seconds in result["seconds"].items() if name.endswith("compiling"))
    return float(result["total"] - compiling)


def at_width(flags: argparse.Namespace, width: int) -> tuple[list[Table], dict[str, Any]]:
    """Tables and raw results of one width."""
    cache_dir = caches_of(flags.work, width, flags.scale, flags.test_scale)
    with tempfile.TemporaryDirectory() as folder:
        plan = write_plan(Path(folder), cache_dir, epochs=flags.epochs)
        shared = json.loads(plan.read_text())
        found = measure(plan, flags.repeats, flags.device)
    tables = [
        ratios_table(width, shared["updates"], found),
        times_table(width, shared["updates"], found),
        agreement_table(width, found, shared["ties"]),
    ]
    without_curves = {
        f"{framework}: {variant}": [
            {name: value for name, value in result.items() if name not in ("losses", "measured", "matrices")}
            for result in results
        ]
        for (framework, variant), results in found.items()
    }
    return tables, {"updates": shared["updates"], "runs": without_curves}


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(
        "python -m benchmarks.speed.full_run",
        description=__doc__,
        allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--widths", type=_whole_numbers, default="1024,768", help="of the features (default: 1024,768)")
    add("--scale", type=float, default=1.0, help="times the training rows; 1 is 7,610 updates (default: 1)")
    add("--test_scale", type=float, default=1.0, help="times the paper's test rows (default: 1)")
    add("--epochs", type=int, default=5, help="passes over each step (default: 5)")
    add("--repeats", type=int, default=1, help="how often each side runs, in turns (default: 1)")
    add("--device", default="cpu", help="PyTorch's, cpu or cuda; JAX takes the best there is (default: cpu)")
    add("--work", type=Path, default=Path("runs/speed"), help="folder of the made-up caches (default: runs/speed)")
    add("--name", default="full_run", help="of the files written (default: full_run)")
    add("--out", type=Path, default=FOLDER, help=f"folder for JSON and markdown (default: {FOLDER})")
    given = list(sys.argv[1:] if arguments is None else arguments)
    flags = parser.parse_args(given)
    if min(flags.scale, flags.test_scale) <= 0 or min(flags.repeats, flags.epochs) < 1:
        parser.error("--scale and --test_scale must be greater than 0, --repeats and --epochs at least 1")
    tables, results = [], {}
    for width in flags.widths:
        of_width, results[str(width)] = at_width(flags, width)
        tables += of_width
    publish(flags.name, " ".join(["python -m benchmarks.speed.full_run", *given]), tables, results, flags.out)


def _whole_numbers(text: str) -> list[int]:
    return [int(part) for part in text.split(",")]


if __name__ == "__main__":
    main()
