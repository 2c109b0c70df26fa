"""What the precision of an update's products does to the metrics: operands in float32, TF32 and bfloat16.

    python -m benchmarks.precision --workdir=runs/precision

Trains vanilla and dns on the pocket suite in each precision, with the same seeds, and prints how far the metrics are
from those of float32, paired by seed. Operands are rounded explicitly (`cmcl_jax.precision`), so that a CPU shows what
tensor cores would do. Finished runs are only read.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from cmcl_jax.config import load_config
from cmcl_jax.continual import run
from cmcl_jax.precision import PRECISIONS
from cmcl_jax.progress import RunsProgress
from cmcl_jax.report.statistics import paired
from cmcl_jax.report.tables import Row, Table
from feature_cache.atomic import write_atomically

METHODS = ("vanilla", "dns")
QUANTITIES = {"acc": "Acc", "bwt_a": "BWT_A", "r10": "R@10", "bwt_r10": "BWT_R10"}


def main() -> None:
    """Trains what is missing, prints the table, writes its numbers."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workdir", type=Path, default=Path("runs/precision"), help="the runs' folder")
    parser.add_argument("--config", default="configs/pocket.py", help="the stream (default: %(default)s)")
    parser.add_argument("--seeds", type=int, default=5, help="default: %(default)s")
    flags = parser.parse_args()
    found = trained(flags.config, flags.seeds, flags.workdir)
    rows = tuple(_row(method, precision, found[method]) for method in METHODS for precision in PRECISIONS)
    Console().print(Table("Difference to float32", tuple(QUANTITIES.values()), rows, corner="products").rich())
    write_atomically(flags.workdir / "precision.json", json.dumps(found, indent=1).encode())


def trained(config: str, seeds: int, workdir: Path) -> dict[str, dict[str, Any]]:
    """The summary of every method in every precision."""
    found: dict[str, dict[str, Any]] = {method: {} for method in METHODS}
    with RunsProgress(Console(stderr=True), runs=len(METHODS) * len(PRECISIONS)) as progress:
        for method in METHODS:
            for precision in PRECISIONS:
                overrides = [f"method={method}", f"seeds={seeds}", f"training.precision={precision}"]
                loaded = load_config(config, overrides)
                progress.run_starts(f"{method}, {precision}", loaded)
                found[method][precision] = run(loaded, workdir / method / precision, progress)
                progress.run_ends(f"R@10 {found[method][precision]['r10']['mean']:.2f}")
    return found


def _row(method: str, precision: str, summaries: Mapping[str, Any]) -> Row:
    cells = [_cell(summaries[precision][name], summaries["float32"][name], precision) for name in QUANTITIES]
    return Row(f"{method}, {precision}", tuple(cells), (False,) * len(cells))


def _cell(entry: Mapping[str, Any], reference: Mapping[str, Any], precision: str) -> str:
    if precision == "float32":
        return f"{entry['mean']:.2f} ± {entry['std']:.2f}"
    scores, baseline = (np.array(of["seeds"], float)[None] for of in (entry, reference))
    found = paired(scores, baseline).interval
    return f"{found.mean:+.2f} ± {found.half:.2f}".replace("-", "−")


if __name__ == "__main__":
    main()
