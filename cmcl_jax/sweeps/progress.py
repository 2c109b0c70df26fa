"""What a sweep shows while it runs: runs that are done, the time that is left, the best so far."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Self

import numpy as np
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from cmcl_jax.sweeps.programs import Group, Member, describe
from cmcl_jax.sweeps.results import Results


class SweepProgress:
    """A progress bar over the runs of a sweep, and a line for each chunk; a context manager.

    Args:
        console: where it is shown.
        metric: by which runs are compared, an entry of a summary; None: R@10, and accuracy where there is none.
    """

    def __init__(self, console: Console, metric: str | None = None) -> None:
        self._console, self._metric = console, metric
        self._members: dict[str, Member] = {}
        self._done = 0
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=16),
            MofNCompleteColumn(),
            TextColumn("runs ·"),
            TimeRemainingColumn(),
            TextColumn("left"),
            console=console,
            transient=True,
            speed_estimate_period=24 * 3600,  # chunks are long and unequal: the time left is from all so far
        )

    @classmethod
    def silent(cls) -> SweepProgress:
        """One that shows nothing."""
        return cls(Console(quiet=True))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self._bar.stop()

    def start(self, groups: Sequence[Group], results: Results, sizes: Mapping[int, int]) -> None:
        """The sweep begins; some runs may be finished."""
        self._members = {member.id: member for group in groups for member in group.members}
        self._done = self._finished(results)
        programs = ", ".join(f"{size}" for size in sizes.values())
        self._console.print(
            f"{len(self._members)} runs, {len(sizes)} {'program' if len(sizes) == 1 else 'programs'} "
            f"({programs} runs per device at a time), {self._done} finished before"
        )
        self._bar.start()
        self._task = self._bar.add_task("sweep", total=len(self._members) - self._done)
        self._before = self._done

    def update(self, results: Results) -> None:
        """Prints a line if runs were finished, here or by another process."""
        done = self._finished(results)
        if done == self._done:
            return
        self._done = done
        self._bar.update(self._task, completed=done - self._before)
        self._console.print(f"{done} of {len(self._members)} runs · best {escape(self._best(results))}")

    def _finished(self, results: Results) -> int:
        return sum(run in results for run in self._members)

    def _best(self, results: Results) -> str:
        scores = {run: results.of(run)["score"] for run in self._members if run in results}
        metric = self._metric or chosen_metric(list(scores.values()))
        best, score = max(
            ((run, float(score[metric])) for run, score in scores.items() if not np.isnan(score[metric])),
            key=lambda entry: entry[1],
            default=("", np.nan),
        )
        if not best:
            return f"{metric}: none yet"
        run = self._members[best].run
        return f"{metric} {score:.1f}: {describe({'method': run.method, **run.settings, 'seed': run.seed})}"


def chosen_metric(scores: Sequence[Mapping[str, float | None]]) -> str:
    """R@10, or accuracy where no run has it."""
    return "r10" if any(not np.isnan(np.nan if s["r10"] is None else s["r10"]) for s in scores) else "acc"
