"""The two tables of a comparison, levels and paired differences, and the same numbers for a program to read."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from cmcl_jax.report.comparison import Comparison
from cmcl_jax.report.statistics import CONFIDENCE, Interval, Paired, Scores, interval, paired
from cmcl_jax.report.tables import NOT_MEASURED, RESULTS, Column, Row, Table, make_table

HEADINGS = ("difference", "p, pairs", "p, orders", "p, ranks", "better in")
SMALLEST_P = 0.001


def levels_table(comparison: Comparison, columns: Sequence[Column] = RESULTS) -> Table:
    """Random scores, zero-shot and every method: mean ± half of the confidence interval."""
    summaries = []
    for method, runs in comparison.runs.items():
        levels = {key: _with_interval(scores) for key, scores in _scores(comparison, method, columns).items()}
        summaries.append((method, {**_chance(runs[0].summary, columns), **levels, "synthetic": comparison.synthetic}))
    return make_table(summaries, columns, comparison.title)


def differences_table(comparison: Comparison, columns: Sequence[Column] = RESULTS) -> Table:
    """A row for each method and column: its paired difference to the baseline, and what the tests say.

    A difference is emphasised if it is for the better and its interval excludes zero.
    """
    rows = [
        _row(f"{method} · {column.heading}", found, column.lower_is_better)
        for method in comparison.others
        for column in columns
        if (found := difference(comparison, method, column)) is not None
    ]
    note = " (synthetic data)" * comparison.synthetic
    return Table(f"Paired difference to {comparison.baseline}{note}", HEADINGS, tuple(rows), f"method{note}")


def difference(comparison: Comparison, method: str, column: Column) -> Paired | None:
    """A method against the baseline; None if one of them does not have the quantity."""
    scores, baseline = (comparison.scores(name, column.key) for name in (method, comparison.baseline))
    if np.isnan(scores).any() or np.isnan(baseline).any():
        return None
    return paired(scores, baseline, column.lower_is_better)


def as_json(comparison: Comparison, columns: Sequence[Column] = RESULTS) -> dict[str, Any]:
    """The content of comparison.json; `scores` are `[order, seed]`."""
    some_runs = next(iter(comparison.runs.values()))
    return {
        "methods": list(comparison.runs),
        "baseline": comparison.baseline,
        "encoder": comparison.first.config["encoder"],
        "synthetic": comparison.synthetic,
        "order_seeds": [run.config["stream"].get("order_seed") for run in some_runs],
        "seeds": comparison.first.seeds,
        "confidence": CONFIDENCE,
        "interval_over": comparison.over,
        "levels": {
            method: {
                **{name: entry["mean"] for name, entry in _chance(runs[0].summary, columns).items()},
                **{key: _level_json(scores) for key, scores in _scores(comparison, method, columns).items()},
            }
            for method, runs in comparison.runs.items()
        },
        "differences": {
            method: {column.key: _difference_json(difference(comparison, method, column)) for column in columns}
            for method in comparison.others
        },
    }


def _scores(comparison: Comparison, method: str, columns: Sequence[Column]) -> dict[str, Scores]:
    """A method's scores by key, `[orders, seeds]`; of zero-shot a single order, for no order comes before it."""
    starts = [column.zero_shot for column in columns if column.zero_shot is not None]
    return {
        **{column.key: comparison.scores(method, column.key) for column in columns},
        **{key: comparison.scores(method, key)[:1] for key in starts},
    }


def _chance(summary: Mapping[str, Any], columns: Sequence[Column]) -> dict[str, Any]:
    names = [f"chance_{column.key}" for column in columns]
    return {name: summary[name] for name in names if name in summary}


def _with_interval(scores: Scores) -> dict[str, Any]:
    """An entry as `make_table` reads it, with half of the interval in the place of the standard deviation."""
    mean, half = map(_number, interval(scores))
    return {"mean": mean, "std": half, "seeds": [mean] if half is None else scores.ravel().tolist()}


def _level_json(scores: Scores) -> dict[str, Any]:
    return {**_interval_json(interval(scores)), "scores": [[_number(score) for score in seeds] for seeds in scores]}


def _difference_json(found: Paired | None) -> dict[str, Any] | None:
    if found is None:
        return None
    return {**_interval_json(found.interval), **{name: v for name, v in found._asdict().items() if name != "interval"}}


def _interval_json(found: Interval) -> dict[str, float | None]:
    return {"mean": _number(found.mean), "half": _number(found.half)}


def _number(value: Any) -> float | None:
    return None if np.isnan(value) else float(value)


def _row(label: str, found: Paired, lower_is_better: bool) -> Row:
    mean, half = float(found.interval.mean), _number(found.interval.half)
    text = f"{round(mean, 1) + 0.0:+.1f}".replace("-", "−")
    cells = (
        text if half is None else f"{text} ± {half:.1f}",
        *(p_text(p) for p in (found.p_pairs, found.p_orders, found.p_wilcoxon)),
        f"{found.better} of {found.pairs}",
    )
    certain = half is not None and (-mean if lower_is_better else mean) > half
    return Row(label, cells, (certain, False, False, False, False))


def p_text(p: float | None) -> str:
    """Three decimals, or that it is below all of them."""
    if p is None:
        return NOT_MEASURED
    return f"< {SMALLEST_P}" if p < SMALLEST_P else f"{p:.3f}"
