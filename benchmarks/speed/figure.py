"""A line chart in a file: what the figures of these benchmarks have in common."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


@contextmanager
def line_chart(path: Path) -> Iterator[Any]:
    """Axes to draw on; at the end they get a legend and are written as a PNG."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    drawn, axes = plt.subplots(figsize=(6, 4), layout="constrained")
    try:
        yield axes
        axes.minorticks_off()
        axes.legend()
        path.parent.mkdir(parents=True, exist_ok=True)
        drawn.savefig(path, dpi=120)
    finally:
        plt.close(drawn)
