"""The section and the figure of what runs recorded with `config.evaluation.stability`."""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from jaxtyping import Float
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from cmcl_jax.report.figures import layout, legend, looks, style
from cmcl_jax.report.runs import Run
from cmcl_jax.stability_record import NAME
from cmcl_jax.workdir import damaged, read_json

Steps = list[dict[str, Any]]

SECTION = """
## Stability and capacity

![Deviation of old alignments and free dimensions over the steps](stability.png)

Left: relative change of the training scores of earlier tasks since each was learned (root mean square over tasks and
seeds), and, dashed, its upper bound. Right: the share of its parameters that a head can still change without moving old
alignments, mean over the heads trained so far. Both are computed from second moments: `docs/theory.md`, eq. 7, 15 to 17
and 25.

{stability}

`deviation` and `bound` are those of the figure after the last step. `first order` is by how much the whole change of a
step lowers its loss to first order, mean over the steps (eq. 19); `beyond` is the remainder as a multiple of that, for
a tenth of the change (eq. 22).

{capacity}

`rank in` and `rank out` are of the projectors, `effective rank` is that of the features (eq. 23). `steps left` is how
many more steps like those so far use up the head: soonest and latest by two models (eq. 26 and 27); – is not within
1000.
"""


def load(runs: Mapping[str, Run]) -> dict[str, Steps]:
    """What was recorded in those runs that have a record.

    Raises:
        RunError: a record is damaged or does not fit its run.
    """
    found = {}
    for label, run in runs.items():
        if (run.workdir / NAME).exists():
            steps = read_json(run.workdir, NAME).get("steps")
            if not isinstance(steps, list) or [entry.get("name") for entry in steps] != list(run.steps):
                raise damaged(run.workdir, NAME, "its steps are not those of the run")
            found[label] = steps
    return found


def section(recorded: Mapping[str, Steps]) -> str:
    """The section of report.md."""
    return SECTION.format(
        stability=_table(("method", "deviation", "bound", "first order", "beyond"), _stability_rows(recorded)),
        capacity=_table(
            ("method", "modality", "free", "rank in", "rank out", "effective rank", "steps left"),
            _capacity_rows(recorded),
        ),
    )


def figure(recorded: Mapping[str, Steps]) -> Figure:
    """Two panels over the steps: deviation with its bound, and the share of free parameters; a line for each run."""
    with style():
        drawn = Figure(figsize=(11.0, 4.6), layout=layout())
        left, right = drawn.subplots(1, 2)
        for (label, steps), (colour, marker, _) in zip(recorded.items(), looks(), strict=False):
            numbers = np.array([entry["step"] for entry in steps])
            for name, dash in (("deviation", "-"), ("bound", "--")):
                values = np.array([_over_tasks(entry, name) for entry in steps])
                shown = values > 0
                kept = {"label": label} if name == "deviation" else {}
                left.plot(numbers[shown], values[shown], dash, color=colour, marker=marker, mec="white", **kept)
            free = [100 * np.mean([_free(head) for head in entry["capacity"].values()]) for entry in steps]
            right.plot(numbers, free, color=colour, marker=marker, mec="white", label=label)
        left.set_yscale("log")
        left.set_title("Change of old training scores")
        left.set_ylabel("relative; dashed: bound")
        right.set_title("Free parameters")
        right.set_ylabel("% of a head, mean over heads")
        right.set_ylim(0, 103)
        for axes in (left, right):
            axes.set_xlabel("after step")
            axes.xaxis.set_major_locator(MaxNLocator(nbins=12, integer=True))
        legend(drawn, right)
    return drawn


def _stability_rows(recorded: Mapping[str, Steps]) -> Iterator[tuple[str, ...]]:
    for label, steps in recorded.items():
        learned = np.mean([entry["first_order_decrease"] for entry in steps])
        beyond = np.mean([np.asarray(entry["higher_order_ratio"])[:, 1] for entry in steps])
        last = (_over_tasks(steps[-1], name) for name in ("deviation", "bound"))
        ratio = f"{beyond / learned:.2g}" if learned > 0 else "–"
        yield label, *(f"{value:.2e}" for value in last), f"{learned:.3g}", ratio


def _capacity_rows(recorded: Mapping[str, Steps]) -> Iterator[tuple[str, ...]]:
    for label, steps in recorded.items():
        for modality, head in steps[-1]["capacity"].items():
            left = ["–" if count is None else f"{count:.0f}" for count in head["steps_left"]]
            ranks = f"{head['rank_in']}", f"{np.mean(head['rank_out']):.1f}", f"{head['effective_rank']:.1f}"
            yield label, modality, f"{100 * _free(head):.1f} %", *ranks, " to ".join(left)


def _over_tasks(entry: Mapping[str, Any], name: str) -> float:
    """Root mean square over earlier tasks and seeds; 0 where there is none."""
    values: Float[np.ndarray, "tasks seeds"] = np.array([task[name] for task in entry["tasks"].values()])
    return float(np.sqrt(np.mean(values**2))) if values.size else 0.0


def _free(head: Mapping[str, Any]) -> float:
    return float(np.mean(head["free"])) / float(head["parameters"])


def _table(names: tuple[str, ...], rows: Iterator[tuple[str, ...]]) -> str:
    lines = [names, tuple("---" if i == 0 else "---:" for i in range(len(names))), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
