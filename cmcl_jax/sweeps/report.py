"""From the table of a sweep to the best settings of each method, a page and a picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from cmcl_jax.metrics.transfer import SUMMARY
from cmcl_jax.report.tables import RESULTS, Table, make_table
from cmcl_jax.sweeps.programs import describe
from cmcl_jax.sweeps.progress import chosen_metric
from cmcl_jax.sweeps.results import PROVENANCE, TABLE, read_table
from cmcl_jax.workdir import read_json
from feature_cache.atomic import write_atomically

Rows = list[dict[str, Any]]

PAGE = """# {title}

{runs} runs. {note}

{table}

Percentages, mean ± standard deviation over the runs of a setting (its seeds, and the orders of the steps if they are
swept).{diverged}

![Score against every swept field](sweep.png)

{caption} All runs: `{file}`, one row each; their result matrices: `matrices/`.
"""


class SweepReport(NamedTuple):
    """What `write_sweep_report` made.

    Attributes:
        table: the best setting of each method, or all settings where none may be chosen.
        note: how the rows of the table were chosen.
        files: report.md, sweep.png and the table of all runs.
    """

    table: Table
    note: str
    files: tuple[Path, ...]


class Setting(NamedTuple):
    """Runs that differ in nothing but seed and order of the steps.

    Attributes:
        method: its name.
        values: of the swept fields that the method uses.
        rows: of the table.
    """

    method: str
    values: Mapping[str, Any]
    rows: Rows

    def scores(self, name: str) -> np.ndarray:
        """A score of all runs; NaN where a run diverged or has none."""
        return np.array([np.nan if row[name] is None else row[name] for row in self.rows])


def write_sweep_report(workdir: str | Path, metric: str | None = None) -> SweepReport:
    """Writes report.md and sweep.png of a finished sweep.

    On the test split nothing is chosen: all settings are listed.

    Args:
        workdir: the sweep's folder.
        metric: an entry of a summary by which settings are compared; None: R@10, and accuracy where there is none.

    Raises:
        RunError: if the table is not there or damaged.
    """
    from cmcl_jax.report.figures import png
    from cmcl_jax.sweeps.figure import against_fields

    folder = Path(workdir)
    rows: Rows = read_table(folder).to_pylist()
    metric = metric or chosen_metric(rows)
    settings = settings_of(rows)
    split = rows[0]["split"]
    chosen, note = _choose(settings, metric, split)
    synthetic = bool(read_json(folder, "config.json").get("synthetic", False))
    table = make_table([(_label(setting), _summary(setting, synthetic)) for setting in chosen], RESULTS, f"On {split}")
    diverged = sum(row["diverged_at"] is not None for row in rows)
    page = PAGE.format(
        title=f"Sweep: {len(settings)} settings",
        runs=len(rows),
        note=note,
        table=table.markdown(),
        diverged=f" {diverged} runs diverged and count in no mean; a setting with one is not chosen." * bool(diverged),
        caption=f"Each dot is a setting, the mean of its runs in {metric}; the line joins the best of each value."
        if split != "test"
        else f"Each dot is a setting, the mean of its runs in {metric}.",
        file=TABLE,
    )
    files = {"report.md": page.encode(), "sweep.png": png(against_fields(settings, metric, best=split != "test"))}
    for name, content in files.items():
        write_atomically(folder / name, content)
    return SweepReport(table, note, tuple(folder / name for name in (*files, TABLE)))


def settings_of(rows: Rows) -> list[Setting]:
    """The rows of a sweep's table by method and setting, in order of first appearance."""
    fields = [name for name in rows[0] if name == "encoder" or name not in (*PROVENANCE, *SUMMARY)]
    found: dict[tuple[Any, ...], Rows] = {}
    for row in rows:
        found.setdefault((row["method"], *(row[field] for field in fields)), []).append(row)
    varied = [field for field in fields if len({row[field] for row in rows}) > 1]
    return [
        Setting(method, {f: v for f, v in zip(fields, values, strict=True) if f in varied and v is not None}, of_it)
        for (method, *values), of_it in found.items()
    ]


def _choose(settings: Sequence[Setting], metric: str, split: str) -> tuple[list[Setting], str]:
    methods = list(dict.fromkeys(setting.method for setting in settings))
    if split == "test" and len(settings) > len(methods):
        return list(settings), (
            "Measured on the test split, on which no setting may be chosen: all are listed. To choose, sweep with "
            "--config.evaluation.split=validation."
        )
    of_method = [[setting for setting in settings if setting.method == method] for method in methods]
    best = [max(of_it, key=lambda setting: _rank(setting, metric)) for of_it in of_method]
    note = f"The best setting of each method by its mean {metric} on the {split} split."
    if split != "test":
        note += " Measure it on the test split before you report it: chosen scores are too high."
    return best, note


def _rank(setting: Setting, metric: str) -> float:
    mean = setting.scores(metric).mean()
    return -np.inf if np.isnan(mean) else float(mean)


def _label(setting: Setting) -> str:
    return f"{setting.method} ({describe(setting.values)})" if setting.values else setting.method


def _summary(setting: Setting, synthetic: bool) -> dict[str, Any]:
    """As the tables of runs have it."""
    summary: dict[str, Any] = {"synthetic": synthetic}
    for name in SUMMARY:
        scores = setting.scores(name)
        known = scores[~np.isnan(scores)]
        mean = float(known.mean()) if len(known) else None
        std = float(known.std(ddof=1)) if len(known) > 1 else 0.0
        summary[name] = {"mean": mean, "std": std, "seeds": known.tolist()}
    return summary
