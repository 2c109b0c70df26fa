"""What a stream of measurements says: averages, forgetting and transfer.

A matrix R is `[..., T + 1, n_tasks]`: row 0 before the first step, row t after step t; leading axes (seeds) are kept. A
task i is learned in step `learned_at[i]`, 1-based; several tasks may belong to one step. A column that is NaN from top
to bottom is a task without this metric and is left out; any other NaN is a measurement that failed, and shows up as NaN
in the result. With no task to average over, the result is NaN.

Sources: backward and forward transfer after Lopez-Paz & Ranzato, "Gradient Episodic Memory for Continual Learning"
(NeurIPS 2017), forward transfer measured from the zero-shot start instead of from random weights; forgetting after
Chaudhry et al., "Riemannian Walk for Incremental Learning" (ECCV 2018).
"""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from jaxtyping import Float, Int

Matrix = Float[np.ndarray, "*seeds rows tasks"]
Steps = Int[np.ndarray, " tasks"]
Scores = Float[np.ndarray, "*seeds"]


def _measured(matrix: Matrix, learned_at: Steps) -> tuple[Matrix, Steps]:
    """Checks the shapes and keeps the tasks that have this metric."""
    matrix, learned_at = np.asarray(matrix, float), np.asarray(learned_at)
    last = matrix.shape[-2] - 1 if matrix.ndim >= 2 else 0
    if last < 1 or learned_at.shape != matrix.shape[-1:]:
        raise ValueError(
            f"A result matrix is [..., steps + 1, tasks] with one entry of learned_at for each task, but the matrix "
            f"has shape {matrix.shape} and learned_at has shape {learned_at.shape}."
        )
    if not np.all((learned_at >= 1) & (learned_at <= last)):
        raise ValueError(f"learned_at holds 1-based steps from 1 to {last}, but is {learned_at.tolist()}.")
    measured = ~np.isnan(matrix).all(axis=tuple(range(matrix.ndim - 1)))
    return matrix[..., measured], learned_at[measured]


def _mean(values: Float[np.ndarray, "*seeds tasks"]) -> Scores:
    return values.mean(axis=-1) if values.shape[-1] else np.full(values.shape[:-1], np.nan)


def _rows(matrix: Matrix, steps: Steps) -> Float[np.ndarray, "*seeds tasks"]:
    """R[steps[i], i] of every task."""
    return matrix[..., steps, np.arange(matrix.shape[-1])]


def final(matrix: Matrix, learned_at: Steps) -> Scores:
    """Mean over tasks of R[T, i].

    >>> float(final(np.array([[10., 20.], [50., 30.], [40., 60.]]), np.array([1, 2])))
    50.0
    """
    matrix, _ = _measured(matrix, learned_at)
    return _mean(matrix[..., -1, :])


def zero_shot(matrix: Matrix, learned_at: Steps) -> Scores:
    """Mean over tasks of R[0, i], the start before any training."""
    matrix, _ = _measured(matrix, learned_at)
    return _mean(matrix[..., 0, :])


def gain(matrix: Matrix, learned_at: Steps) -> Scores:
    """Mean over tasks of R[T, i] - R[0, i]: what the whole stream brought over the zero-shot start."""
    matrix, _ = _measured(matrix, learned_at)
    return _mean(matrix[..., -1, :] - matrix[..., 0, :])


def just_learned(matrix: Matrix, learned_at: Steps) -> Scores:
    """Mean over tasks of R[learned_at[i], i]: the level that each task had when its own step ended."""
    matrix, learned_at = _measured(matrix, learned_at)
    return _mean(_rows(matrix, learned_at))


def backward_transfer(matrix: Matrix, learned_at: Steps) -> Scores:
    """Mean over tasks learned before the last step of R[T, i] - R[learned_at[i], i]; negative is forgetting.

    >>> float(backward_transfer(np.array([[10., 20.], [50., 30.], [40., 60.]]), np.array([1, 2])))
    -10.0
    """
    matrix, learned_at = _measured(matrix, learned_at)
    change = matrix[..., -1, :] - _rows(matrix, learned_at)
    return _mean(change[..., learned_at < matrix.shape[-2] - 1])


def forgetting(matrix: Matrix, learned_at: Steps) -> Scores:
    """Mean over tasks learned before the last step of max over learned_at[i] <= t < T of R[t, i], minus R[T, i].

    Positive is forgetting; negative if the last step improved on all that came before. Rows before the task's own step
    do not count: the zero-shot level was never learned.
    """
    matrix, learned_at = _measured(matrix, learned_at)
    last = matrix.shape[-2] - 1
    lost = [
        matrix[..., step:last, task].max(axis=-1) - matrix[..., last, task]
        for task, step in enumerate(learned_at)
        if step < last
    ]
    return _mean(np.stack(lost, axis=-1) if lost else np.empty((*matrix.shape[:-2], 0)))


def forward_transfer(matrix: Matrix, learned_at: Steps) -> Scores:
    """Mean over tasks learned after the first step of R[learned_at[i] - 1, i] - R[0, i].

    What the earlier steps brought to a task before its own data came. The baseline is the zero-shot start.
    """
    matrix, learned_at = _measured(matrix, learned_at)
    ahead = _rows(matrix, learned_at - 1) - matrix[..., 0, :]
    return _mean(ahead[..., learned_at > 1])


OF_OWN_STEP = (backward_transfer, forgetting, forward_transfer, just_learned)
"""What has no meaning for a method that does not learn a task in a step of its own."""

HEADLINES = ("accuracy", "open_accuracy", "r1", "r5", "r10")
"""The matrices that a summary is made of."""

SUMMARY: dict[str, tuple[str, Callable[[Matrix, Steps], Scores]]] = {
    "acc": ("accuracy", final),
    "bwt_a": ("accuracy", backward_transfer),
    "open_acc": ("open_accuracy", final),
    "bwt_open": ("open_accuracy", backward_transfer),
    "r1": ("r1", final),
    "r5": ("r5", final),
    "r10": ("r10", final),
    "bwt_r10": ("r10", backward_transfer),
    "forgetting_a": ("accuracy", forgetting),
    "forgetting_r10": ("r10", forgetting),
    "forward_a": ("accuracy", forward_transfer),
    "forward_r10": ("r10", forward_transfer),
    "gain_a": ("accuracy", gain),
    "gain_r10": ("r10", gain),
    "learned_a": ("accuracy", just_learned),
    "learned_r10": ("r10", just_learned),
    "zero_shot_acc": ("accuracy", zero_shot),
    "zero_shot_open_acc": ("open_accuracy", zero_shot),
    "zero_shot_r1": ("r1", zero_shot),
    "zero_shot_r5": ("r5", zero_shot),
    "zero_shot_r10": ("r10", zero_shot),
}


def _statistics(scores: Float[np.ndarray, " seeds"]) -> dict[str, Any]:
    """Mean and sample standard deviation over seeds; None, which JSON knows, in place of NaN, which it does not."""
    spread = scores.std(ddof=1) if len(scores) > 1 else 0 * scores.mean()
    mean, std, *seeds = (None if np.isnan(value) else float(value) for value in (scores.mean(), spread, *scores))
    return {"mean": mean, "std": std, "seeds": seeds}


def summarize(
    matrices: Mapping[str, Float[np.ndarray, "seeds rows tasks"]], learned_at: Steps, stepwise: bool = True
) -> dict[str, Any]:
    """The numbers of `summary.json`: for each name in `SUMMARY`, `{"mean", "std", "seeds"}` over the seeds.

    `std` has ddof = 1 and is 0 for a single seed. A stream without tasks of a metric gives None (null in JSON).

    Args:
        matrices: result matrices `[seeds, steps + 1, tasks]` named as in `HEADLINES`.
        learned_at: the 1-based step of each task.
        stepwise: False if all steps were trained at once, where no task is learned in its step: what refers to that
          step, such as backward transfer, is then None.

    Raises:
        ValueError: a matrix is missing or does not fit `learned_at`.
    """
    missing = set(HEADLINES) - set(matrices)
    if missing:
        raise ValueError(
            f"summarize needs the matrices {', '.join(HEADLINES)}, but {', '.join(sorted(missing))} is missing. Pass "
            f"a matrix full of NaN for a metric that no task has."
        )
    scores = {name: measure(matrices[matrix], learned_at) for name, (matrix, measure) in SUMMARY.items()}
    for name, (_, measure) in SUMMARY.items():
        if not stepwise and measure in OF_OWN_STEP:
            scores[name] = np.full_like(scores[name], np.nan)
    return {name: _statistics(values) for name, values in scores.items()}
