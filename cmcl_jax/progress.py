"""A progress bar over a run: step, epoch, loss, time left."""

from __future__ import annotations

from typing import Self

import numpy as np
from jaxtyping import Array
from ml_collections import ConfigDict
from rich.console import Console
from rich.progress import BarColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar

from cmcl_jax.stream import Step


class Progress:
    """Shows a run on a terminal, and prints one line per step; a context manager."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._bar = Bar(
            TextColumn("{task.description}"),
            BarColumn(bar_width=8),  # all of it fits into 80 columns
            TextColumn("loss {task.fields[loss]}"),
            TimeRemainingColumn(),
            TextColumn("left"),
            console=console,
            transient=True,
        )
        self._method, self._name, self._epochs = "", "", 1

    @classmethod
    def silent(cls) -> Progress:
        """One that shows nothing."""
        return cls(Console(quiet=True))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self._bar.stop()

    def start(self, config: ConfigDict, epochs_done: int) -> None:
        """A run begins, with some epochs, counted over all steps, done before."""
        self._method, self._epochs = config.method, config.training.epochs
        steps = len(config.stream.steps)
        self._bar.start()
        for task in self._bar.task_ids:
            self._bar.remove_task(task)
        self._task = self._bar.add_task(self._method, total=steps * self._epochs, completed=epochs_done, loss="–")
        done, within = divmod(epochs_done, self._epochs)
        if within:
            place = f"in step {done + 1} of {steps}, after epoch {within} of {self._epochs}"
            self._console.print(f"{self._method}: continues {place}")
        elif done:
            self._console.print(f"{self._method}: continues after step {done} of {steps}")

    @property
    def is_shown(self) -> bool:
        """Whether somebody looks at the bar: a file does not."""
        return self._console.is_terminal and not self._console.quiet

    def step_starts(self, step: Step) -> None:
        """A step begins."""
        self._name = f"{self._method} · {step.name}"
        self._bar.update(self._task, description=self._name)

    def trained(self, epochs: tuple[int, int], losses: Array) -> None:
        """Some more epochs of a step are trained, with losses `(runs, epochs)` so far."""
        first, last = epochs
        description = f"{self._name} · epoch {last}/{self._epochs}"
        self._bar.update(self._task, advance=last - first, description=description, loss=_last_loss(losses, last))

    def step_done(self, step: Step, losses: np.ndarray) -> None:
        """Prints the step's first and last loss."""
        mean = losses.mean(axis=0)
        self._bar.update(self._task, completed=step.number * self._epochs)
        self._console.print(f"{self._method} · {step.name}: loss {mean[0]:.3f} → {mean[-1]:.3f}")


class RunsProgress(Progress):
    """Shows many runs of streams of equal length: which one, its step, the time left for all of them.

    Between `run_starts` and `run_ends` it is the progress of that run. One line is printed per run.
    """

    def __init__(self, console: Console, runs: int) -> None:
        super().__init__(console)
        self._runs, self._number, self._per_run, self._trained = runs, 0, 0, False
        self._bar.speed_estimate_period = 24 * 3600  # steps and methods are unequal: the time left is from all so far

    def run_starts(self, label: str, config: ConfigDict) -> None:
        """The next run begins; it may turn out to be finished."""
        self._number += 1
        self._label = f"run {self._number} of {self._runs} · {label}"
        self._steps, self._epochs = len(config.stream.steps), config.training.epochs
        self._per_run, self._trained = self._steps * self._epochs, False
        if self._number == 1:
            self._task = self._bar.add_task(self._label, total=self._runs * self._per_run, loss="–")
            self._bar.start()

    def start(self, config: ConfigDict, epochs_done: int) -> None:
        del config
        self._trained = True
        self._leave_out(epochs_done)

    def step_starts(self, step: Step) -> None:
        self._bar.update(self._task, description=f"{self._label} · step {step.number} of {self._steps}")

    def trained(self, epochs: tuple[int, int], losses: Array) -> None:
        first, last = epochs
        self._bar.update(self._task, advance=last - first, loss=_last_loss(losses, last))

    def step_done(self, step: Step, losses: np.ndarray) -> None:
        del step, losses

    def run_ends(self, result: str) -> None:
        """Prints the run's line: what came out, or that it was there already."""
        if not self._trained:
            self._leave_out(self._per_run)
        self._console.print(f"{self._label}: {result}{'' if self._trained else ' (was finished)'}")

    def _leave_out(self, epochs: int) -> None:
        """Epochs of an earlier command are not to be done, and say nothing about how fast this one is."""
        [task] = self._bar.tasks
        self._bar.update(self._task, total=(task.total or 0) - epochs)


def _last_loss(losses: Array, epochs: int) -> str:
    return f"{float(losses[:, epochs - 1].mean()):.3f}"
