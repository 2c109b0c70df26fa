"""Whether both sides of a whole run computed the same: losses of every epoch, every metric at every time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

KS = (1, 5, 10)


class Agreement(NamedTuple):
    """The largest differences between two runs.

    Attributes:
        loss: of the mean loss of an epoch, relative.
        zero_shot: of any metric before training, in percentage points, tasks with ties left out.
        metrics: the same at any time.
        metrics_mean: mean of the absolute differences at the end of the run.
        with_ties: as `metrics`, for tasks whose captions repeat. A sort orders their equal scores as it likes; this
          project reports the expected value over all orders.
    """

    loss: float
    zero_shot: float
    metrics: float
    metrics_mean: float
    with_ties: float


def agreement(torch_side: Mapping[str, Any], our_side: Mapping[str, Any], ties: Sequence[bool]) -> Agreement:
    """Compares what `torch_loop.Run.finish` and `our_run.finish` return for the same plan.

    Args:
        torch_side, our_side: the results.
        ties: of each task, whether its test rows repeat.
    """
    theirs, ours = (np.asarray(side["losses"], np.float64) for side in (torch_side, our_side))
    if theirs.shape != ours.shape:
        raise ValueError(f"agreement: losses have shapes {theirs.shape} and {ours.shape}: not runs of one plan.")
    differences = {False: [np.zeros(0)], True: [np.zeros(0)]}
    first, last = [np.zeros(0)], [np.zeros(0)]
    for task, tied in enumerate(ties):
        for name, difference in _differences(torch_side["measured"], our_side["matrices"], task):
            tied_here = tied and name != "accuracy"
            differences[tied_here].append(difference)
            if not tied_here:
                first.append(difference[:1])
                last.append(difference[-1:])
    largest = lambda parts: float(np.max(np.concatenate(parts), initial=0.0))  # noqa: E731
    return Agreement(
        loss=float(np.max(np.abs(theirs - ours) / np.abs(theirs))),
        zero_shot=largest(first),
        metrics=largest(differences[False]),
        metrics_mean=float(np.mean(np.concatenate(last))),
        with_ties=largest(differences[True]),
    )


def _differences(measured: Sequence[Any], matrices: Mapping[str, Any], task: int) -> list[tuple[str, Any]]:
    """Absolute differences over time, `(times,)`, of every metric that a task has."""
    over_time = [at_time[task] for at_time in measured]
    found = []
    if "accuracy" in over_time[0]:
        found.append(("accuracy", [at["accuracy"] for at in over_time], _column(matrices, "accuracy", task)))
    if "full" in over_time[0]:
        for i, k in enumerate(KS):
            both = [_column(matrices, f"r{k}_{direction}_diagonal_full", task) for direction in ("a2b", "b2a")]
            found.append((f"r{k}_full", [at["full"][i] for at in over_time], sum(both) / 2))
            found.append((f"r{k}", [at["galleries"][i] for at in over_time], _column(matrices, f"r{k}", task)))
    return [(name, np.abs(np.asarray(theirs) - ours)) for name, theirs, ours in found]


def _column(matrices: Mapping[str, Any], name: str, task: int) -> Any:
    return np.asarray(matrices[name], np.float64)[:, task]
