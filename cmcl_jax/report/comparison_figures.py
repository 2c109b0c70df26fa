"""Figures of a comparison: levels over the steps, and paired differences to the baseline."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from cmcl_jax.report.comparison import Comparison
from cmcl_jax.report.comparison_tables import difference
from cmcl_jax.report.figures import (
    FAINT,
    INK,
    PANELS,
    draw_curves,
    layout,
    legend,
    looks,
    mean_over_tasks,
    style,
    tasks_with,
)
from cmcl_jax.report.statistics import interval
from cmcl_jax.report.tables import RESULTS, Column

ERROR_BAR: dict[str, Any] = {"ms": 8, "mec": "white", "mew": 0.8, "elinewidth": 1.4, "capsize": 3, "zorder": 3}


def levels(comparison: Comparison) -> Figure:
    """Accuracy and R@10, mean over tasks, orders and seeds, over the steps; bands are confidence intervals.

    A metric that no task has gets no panel.
    """
    first = comparison.first
    panels = [panel for metric, panel in PANELS.items() if any(metric in task.metrics for task in first.tasks)]
    with style():
        figure = Figure(figsize=(1.2 + 5.4 * len(panels), 4.8), layout=layout())
        for axes, (matrix, title) in zip(np.ravel(figure.subplots(1, len(panels))), panels, strict=True):
            found = {method: interval(_curves(comparison, method, matrix)) for method in comparison.runs}
            halves = [None if np.isnan(half).all() else half for _, half in found.values()]
            draw_curves(axes, {method: mean for method, (mean, _) in found.items()}, halves)
            start = found[comparison.baseline].mean[0]
            axes.axhline(start, color=FAINT, ls=(0, (4, 3)), lw=1.2, label="zero-shot")
            axes.set_title(f"{title}, mean over {tasks_with(first, matrix)} test tasks")
            axes.set_ylabel(f"{title}, %")
            axes.xaxis.set_major_locator(MaxNLocator(nbins=12, integer=True))
            axes.set_xlabel("after step (0: zero-shot)")
        _head(figure, comparison, axes)
    return figure


def differences(comparison: Comparison, columns: Sequence[Column] = RESULTS) -> Figure:
    """Paired differences to the baseline for every metric: means with intervals, and each order's mean as a dot."""
    shown = [column for column in columns if any(difference(comparison, m, column) for m in comparison.others)]
    with style():
        figure = Figure(figsize=(2.2 + 1.3 * len(shown), 4.4), layout=layout())
        axes = figure.subplots()
        axes.axhline(0, color=INK, lw=1.2, label=comparison.baseline)
        appearances = dict(zip(comparison.runs, looks(), strict=False))  # as in the other figure
        for place, method in enumerate(comparison.others):
            aside = 0.22 * (place - (len(comparison.others) - 1) / 2)
            _draw_differences(axes, comparison, method, shown, aside, appearances[method])
        axes.set_xticks(range(len(shown)), [column.heading for column in shown])
        axes.set_xlim(-0.6, len(shown) - 0.4)
        axes.set_ylabel("percentage points")
        axes.set_title(f"Difference to {comparison.baseline} (small dots: each order)")
        _head(figure, comparison, axes)
    return figure


def _draw_differences(
    axes: Axes, comparison: Comparison, method: str, columns: Sequence[Column], aside: float, look: tuple[str, str, str]
) -> None:
    colour, marker, _ = look
    label: str | None = method
    for place, column in enumerate(columns):
        found = difference(comparison, method, column)
        if found is None:
            continue
        of_orders = (comparison.scores(method, column.key) - comparison.scores(comparison.baseline, column.key)).mean(1)
        x = place + aside
        axes.plot(np.full(len(of_orders), x + 0.07), of_orders, ".", color=colour, alpha=0.45, ms=5, zorder=2)
        half = None if np.isnan(found.interval.half) else found.interval.half
        axes.errorbar(x, found.interval.mean, half, fmt=marker, color=colour, label=label, **ERROR_BAR)
        label = None  # once in the legend


def _curves(comparison: Comparison, method: str, matrix: str) -> Float[np.ndarray, "orders seeds rows"]:
    return np.stack([mean_over_tasks(run.matrices[matrix]) for run in comparison.runs[method]])


def _head(figure: Figure, comparison: Comparison, axes: Axes) -> None:
    """What was compared above the panels, and the legend below."""
    legend(figure, axes, "lower")
    figure.suptitle(comparison.title + " (synthetic data)" * comparison.synthetic, fontsize=11, color=INK)
