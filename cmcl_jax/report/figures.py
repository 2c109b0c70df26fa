"""Figures of a stream: the mean over tasks, and every task alone. Drawn without a display.

Colours are those of Okabe & Ito, "Color Universal Design" (2008), which colour-blind readers can tell apart; markers
and dashes repeat the distinction for readers of a black-and-white print.
"""

import io
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import cycle
from typing import Any

import matplotlib as mpl
import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import MaxNLocator

from cmcl_jax.report.runs import Run
from cmcl_jax.stream import Task

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<")
INK, FAINT, UNTRAINED = "#333333", "#8C8C8C", "#F3F3F0"
PANELS = {"accuracy": ("accuracy", "Accuracy"), "recall": ("r10", "R@10")}  # a task's metric: its matrix, its title
STYLE = {
    "font.size": 11,
    "axes.titlesize": 12,
    "axes.titlelocation": "left",
    "axes.titleweight": "bold",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": FAINT,
    "axes.labelcolor": INK,
    "axes.axisbelow": True,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "grid.color": "#E3E3E3",
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "xtick.labelsize": 10,
    "ytick.labelsize": 10,
    "legend.frameon": False,
    "legend.fontsize": 11,
    "lines.linewidth": 2,
    "lines.markersize": 6,
}
NARROWEST = 5.0  # percentage points that an axis shows at least, so that noise does not look like news

COLUMNS = 5  # small panels side by side

Seeds = Float[np.ndarray, "seeds rows"]
Panel = tuple[int, Task, str, str]  # the task's index, the task, its matrix, the metric's title


def png(figure: Figure) -> bytes:
    """The figure as a PNG file of 150 dots per inch."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=150)
    return buffer.getvalue()


def accuracy_and_recall(runs: Mapping[str, Run]) -> Figure:
    """Two panels over the steps, accuracy and R@10: mean over tasks, a line for each run, a band of ± std over seeds.

    A metric that no task has gets no panel.

    Args:
        runs: runs of one stream by label.
    """
    first = next(iter(runs.values()))
    panels = [panel for metric, panel in PANELS.items() if any(metric in task.metrics for task in first.tasks)]
    names = ["zero-shot", *first.steps]
    with style():
        figure = Figure(figsize=(1.2 + max(5.0, 0.55 * len(names)) * len(panels), 5.0), layout=layout())
        for axes, (matrix, title) in zip(np.ravel(figure.subplots(1, len(panels))), panels, strict=True):
            means = {label: mean_over_tasks(run.matrices[matrix]) for label, run in runs.items()}
            _draw_runs(axes, means)
            axes.axhline(means[next(iter(means))][:, 0].mean(), color=FAINT, ls=(0, (4, 3)), lw=1.2, label="zero-shot")
            axes.set_title(f"{title}, mean over {tasks_with(first, matrix)} test tasks")
            axes.set_ylabel(f"{title}, %")
            axes.set_xticks(range(len(names)), names, rotation=35, ha="right", rotation_mode="anchor")
        legend(figure, axes, title=_data(runs))
    return figure


def tasks(runs: Mapping[str, Run]) -> Figure:
    """A small panel for each test task and metric over the steps; a line marks the step that trains the task.

    Args:
        runs: runs of one stream by label.
    """
    rows = _rows_of_panels(next(iter(runs.values())).tasks)
    columns = max(map(len, rows))
    with style():
        figure = Figure(figsize=(0.4 + 2.5 * columns, 1.0 + 2.2 * len(rows)), layout=layout())
        grid = figure.subplots(len(rows), columns, squeeze=False)
        for axes, panel in zip(np.ravel(grid), (panel for row in rows for panel in _padded(row, columns)), strict=True):
            if panel is None:
                axes.set_axis_off()
                continue
            index, task, matrix, title = panel
            _draw_runs(axes, {label: run.matrices[matrix][:, :, index] for label, run in runs.items()})
            _mark_training(axes, task)
            axes.set_title(task.name, fontsize=10.5)
            axes.set_ylabel(f"{title}, %" if axes in grid[:, 0] else "")
            axes.xaxis.set_major_locator(MaxNLocator(nbins=8, integer=True))
        figure.supxlabel("after step (0: zero-shot)", fontsize=11)
        legend(figure, grid[0, 0], title=_data(runs))
    return figure


def _rows_of_panels(tasks: Sequence[Task]) -> list[list[Panel]]:
    """Each metric starts a row of its own and wraps when it is full."""
    panels = {
        metric: [(index, task, *PANELS[metric]) for index, task in enumerate(tasks) if metric in task.metrics]
        for metric in PANELS
    }
    return [row[i : i + COLUMNS] for row in panels.values() for i in range(0, len(row), COLUMNS)]


def _padded(row: Sequence[Panel], length: int) -> list[Panel | None]:
    return [*row, *[None] * (length - len(row))]


def layout() -> ConstrainedLayoutEngine:
    """The layout of all figures, with room around every panel."""
    return ConstrainedLayoutEngine(w_pad=0.08, h_pad=0.06)


@contextmanager
def style() -> Iterator[None]:
    """The look of all figures, for a `with` block."""
    with mpl.rc_context(STYLE):  # type: ignore[arg-type]  # its stubs want literal keys
        yield


def mean_over_tasks(matrix: Float[np.ndarray, "seeds rows tasks"]) -> Seeds:
    """The mean over the tasks that have the metric."""
    kept: Float[np.ndarray, "seeds rows kept"] = matrix[:, :, ~np.isnan(matrix).all(axis=(0, 1))]
    return np.asarray(kept.mean(axis=2))


def tasks_with(run: Run, matrix: str) -> int:
    """How many test tasks a matrix is about."""
    return sum(any(PANELS[metric][0] == matrix for metric in task.metrics if metric in PANELS) for task in run.tasks)


def _draw_runs(axes: Axes, curves: Mapping[str, Seeds]) -> None:
    spreads = [values.std(axis=0, ddof=1) if len(values) > 1 else None for values in curves.values()]
    draw_curves(axes, {label: values.mean(axis=0) for label, values in curves.items()}, spreads)


def looks() -> Iterator[tuple[str, str, str]]:
    """Colour, marker and dash of each curve in turn."""
    return zip(cycle(COLOURS), cycle(MARKERS), cycle(["-"] * len(COLOURS) + ["--"] * len(COLOURS)), strict=True)


def draw_curves(
    axes: Axes, means: Mapping[str, Float[np.ndarray, " rows"]], halves: Sequence[Float[np.ndarray, " rows"] | None]
) -> None:
    """A line for each label over the steps, in a band of ± its half width."""
    for (label, mean), half, (colour, marker, dash) in zip(means.items(), halves, looks(), strict=False):
        steps = np.arange(len(mean))
        axes.plot(steps, mean, dash, color=colour, marker=marker, mec="white", mew=0.8, label=label)
        if half is not None:
            axes.fill_between(steps, mean - half, mean + half, color=colour, alpha=min(0.18, 0.6 / len(means)), lw=0)
    axes.margins(x=0.03, y=0.08)
    low, high = axes.get_ylim()
    room = max(NARROWEST - (high - low), 0) / 2
    axes.set_ylim(low - room, high + room)


def _mark_training(axes: Axes, task: Task) -> None:
    left, right = axes.get_xlim()
    axes.axvspan(left, task.step, color=UNTRAINED, zorder=0, lw=0)
    axes.axvline(task.step, color=INK, lw=1.1, ls=(0, (2, 2)), zorder=1, label="trained here")
    axes.set_xlim(left, right)


def legend(figure: Figure, axes: Axes, edge: str = "upper", title: str | None = None) -> None:
    """One legend above ("upper") or below ("lower") all panels, with what one of them shows."""
    handles, names = axes.get_legend_handles_labels()
    settings: dict[str, Any] = {"loc": f"outside {edge} center", "ncols": min(len(names), 6), "title": title}
    figure.legend(handles, names, handlelength=2.4, columnspacing=1.8, **settings)


def _data(runs: Mapping[str, Run]) -> str | None:
    """What a legend's title says of the data: that they are synthetic. A figure's own title would hide the legend."""
    return "Synthetic data" if any(run.synthetic for run in runs.values()) else None
