"""A comparison task by task: the zero-shot level, what a task had just after its step, and what is left at the end."""

import numpy as np

from cmcl_jax.report.comparison import Comparison
from cmcl_jax.report.runs import Run
from cmcl_jax.report.tables import Row, Table
from cmcl_jax.stream import Task

METRICS = {"accuracy": "Acc", "open_accuracy": "open acc", "r10": "R@10"}


def tasks_table(comparison: Comparison) -> Table:
    """A row for each test task and metric: means over orders and seeds, "just learned → final" for each method.

    A method that trains all steps at once has its final level alone.
    """
    rows = [
        Row(f"{task.name} · {name}", cells, (False,) * len(cells))
        for matrix, name in METRICS.items()
        for column, task in enumerate(comparison.first.tasks)
        if not np.isnan(comparison.first.matrices[matrix][:, 0, column]).all()
        for cells in [_cells(comparison, matrix, _identity(comparison.first, task))]
    ]
    note = " (synthetic data)" * comparison.synthetic
    return Table(f"Task by task{note}", ("zero-shot", *comparison.runs), tuple(rows), f"task{note}")


def _cells(comparison: Comparison, matrix: str, task: tuple[str, str]) -> tuple[str, ...]:
    levels = {
        method: np.mean([_levels(run, matrix, task) for run in runs], axis=0)
        for method, runs in comparison.runs.items()
    }
    zero_shot = next(iter(levels.values()))[0]
    return (
        f"{zero_shot:.1f}",
        *(
            f"{learned:.1f} → {final:.1f}" if _stepwise(comparison.runs[method][0]) else f"{final:.1f}"
            for method, (_, learned, final) in levels.items()
        ),
    )


def _levels(run: Run, matrix: str, task: tuple[str, str]) -> tuple[float, float, float]:
    """Zero-shot, just learned and final, means over seeds; every order has the task in another place."""
    column = next(place for place, other in enumerate(run.tasks) if _identity(run, other) == task)
    rows = run.matrices[matrix][:, :, column].mean(axis=0)
    return float(rows[0]), float(rows[run.tasks[column].step]), float(rows[-1])


def _identity(run: Run, task: Task) -> tuple[str, str]:
    """The same in every order: a task's name, and its step's without the number, for two steps may have one pair."""
    return task.name, run.steps[task.step - 1].partition(" ")[2]


def _stepwise(run: Run) -> bool:
    return any(run.summary[key]["mean"] is not None for key in ("learned_a", "learned_r10"))
