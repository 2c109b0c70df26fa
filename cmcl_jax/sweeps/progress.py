"""What a sweep shows while it runs: runs that are done, the time that is left, the best so far."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Self

import numpy as np
from rich.console import Console
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
        self._open: dict[str, Member] = {}
        self._best, self._score = "none yet", -np.inf
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
        self._open = dict(self._members)
        finished = [run for run in self._members if run in results]
        self._look(finished, results)
        programs = ", ".join(f"{size}" for size in sizes.values())
        self._console.print(
            f"{len(self._members)} runs, {len(sizes)} {'program' if len(sizes) == 1 else 'programs'} "
            f"({programs} runs per device at a time), {len(finished)} finished before"
        )
        self._bar.start()
        self._task = self._bar.add_task("sweep", total=len(self._open))

    def update(self, results: Results) -> None:
        """Counts what was finished, here or by another process; prints a line for each tenth, and a new best."""
        new = [run for run in self._open if run in results]
        if not new:
            return
        total, done = len(self._members), len(self._members) - len(self._open) + len(new)
        better = self._look(new, results)
        if better or done * 10 // total > (done - len(new)) * 10 // total:
            line = f"{done} of {total} runs · best {self._best}"
            self._console.print(line, markup=False, highlight=False, soft_wrap=True)
        self._bar.update(self._task, advance=len(new))

    def _look(self, runs: Sequence[str], results: Results) -> bool:
        """Whether any of these runs is the best so far."""
        before = self._score
        for run in runs:
            self._open.pop(run)
            scores = results.of(run)["score"]
            metric = self._metric or chosen_metric([scores])
            if np.isfinite(scores[metric]):  # a run that diverged does not say what there is to measure
                self._metric = metric
            if scores[metric] > self._score:
                member, self._score = self._members[run].run, float(scores[self._metric])
                settings = describe({"method": member.method, **member.settings, "seed": member.seed})
                self._best = f"{metric} {self._score:.1f}: {settings}"
        return self._score > before


def chosen_metric(scores: Sequence[Mapping[str, float | None]]) -> str:
    """R@10, or accuracy where no run has it."""
    return "r10" if any(not np.isnan(np.nan if s["r10"] is None else s["r10"]) for s in scores) else "acc"
