"""Reading the folder of a finished run back."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from cmcl_jax.metrics.transfer import HEADLINES, SUMMARY
from cmcl_jax.stream import Task
from cmcl_jax.workdir import RunError, damaged, read_json


@dataclass(frozen=True)
class Run:
    """A finished run.

    Attributes:
        workdir: its folder.
        method: the name of the continual-learning method.
        synthetic: whether any of its data is.
        config: the content of config.json.
        summary: the content of summary.json: `{"acc": {"mean", "std", "seeds"}, …}`.
        steps: names of the steps, in order.
        tasks: the test tasks, in the order of the matrices' last axis.
        matrices: `[seeds, steps + 1, tasks]` by name; row 0 is the zero-shot start, NaN: not a metric of the task.
    """

    workdir: Path
    method: str
    synthetic: bool
    config: Mapping[str, Any]
    summary: Mapping[str, Any]
    steps: tuple[str, ...]
    tasks: tuple[Task, ...]
    matrices: Mapping[str, Float[np.ndarray, "seeds rows tasks"]]

    @property
    def seeds(self) -> int:
        return len(self.matrices["r10"])


def load_run(workdir: str | Path) -> Run:
    """Reads a run's folder.

    Raises:
        RunError: the folder is missing, the run is not finished, or a file is damaged or does not fit the others.
    """
    folder = Path(workdir)
    if not folder.is_dir():
        raise RunError(
            f"--workdir={folder}: there is no such folder, so there is no run to report. A run makes it: "
            f"`python run.py train --config=configs/pocket.py --workdir={folder}`."
        )
    if not (folder / "summary.json").is_file():
        raise RunError(
            f"--workdir={folder}: the folder holds no summary.json, which is written when a run is finished. Run its "
            f"`python run.py train --config=… --workdir={folder}` again: it goes on from its last checkpoint."
        )
    config, summary, content = (read_json(folder, f"{name}.json") for name in ("config", "summary", "tasks"))
    try:
        steps = tuple(map(str, content["steps"]))
        tasks = tuple(_task(entry, len(steps)) for entry in content["tasks"])
    except (KeyError, TypeError, ValueError) as error:
        raise damaged(folder, "tasks.json", f"it does not describe steps and tasks ({error!r})") from error
    for name, entries, needed in (
        ("summary.json", summary, {*SUMMARY, "method", "synthetic"}),
        ("config.json", config, {"encoder"}),
    ):
        if absent := needed - set(entries):
            raise damaged(folder, name, f"{', '.join(sorted(absent))} is missing in it")
    return Run(
        workdir=folder,
        method=summary["method"],
        synthetic=summary["synthetic"],
        config=config,
        summary=summary,
        steps=steps,
        tasks=tasks,
        matrices=_matrices(folder, len(steps) + 1, len(tasks)),
    )


def comparable(runs: Sequence[Run]) -> list[Run]:
    """The runs themselves, all of the same steps and test tasks.

    Raises:
        RunError: there is none, or one is of another stream.
    """
    if not runs:
        raise RunError("There is no run to report: name at least one, as in `python run.py report --workdir=runs/a`.")
    for run in runs[1:]:
        if (run.steps, run.tasks) != (runs[0].steps, runs[0].tasks):
            raise RunError(
                f"The runs {runs[0].workdir} and {run.workdir} cannot stand in one table: their steps or test tasks "
                f"differ ({', '.join(runs[0].steps)} against {', '.join(run.steps)}). Report them separately, with "
                f"one `python run.py report --workdir=…` each."
            )
    return list(runs)


def labels(runs: Sequence[Run]) -> dict[str, Run]:
    """A distinct label for each run: its method, with its folder where several runs share the method."""
    of_method = Counter(run.method for run in runs)
    return {run.method if of_method[run.method] == 1 else f"{run.method} ({run.workdir})": run for run in runs}


def _task(entry: Mapping[str, Any], n_steps: int) -> Task:
    a, b = entry["pair"]
    if not 1 <= entry["step"] <= n_steps:
        raise ValueError(f"step {entry['step']} of task {entry['name']}")
    return Task(entry["name"], entry["step"], entry["dataset"], (a, b), tuple(entry["metrics"]))


def _matrices(folder: Path, rows: int, tasks: int) -> dict[str, Float[np.ndarray, "seeds rows tasks"]]:
    """The four main matrices and all of matrices/, with the same number of seeds."""
    names = {path.stem: f"matrices/{path.name}" for path in sorted(folder.glob("matrices/*.npy"))}
    names |= {matrix: f"{matrix}_matrix.npy" for matrix in HEADLINES}
    matrices = {matrix: _read_matrix(folder, name) for matrix, name in names.items()}
    expected = (*matrices["r10"].shape[:1], rows, tasks)
    for matrix, values in matrices.items():
        if values.shape != expected or not values.size:
            raise damaged(
                folder,
                names[matrix],
                f"its shape is {values.shape} instead of (seeds, {rows}, {tasks}), seeds as in r10",
            )
    return matrices


def _read_matrix(folder: Path, name: str) -> Float[np.ndarray, "seeds rows tasks"]:
    try:
        return np.asarray(np.load(folder / name, allow_pickle=False), np.float64)
    except (OSError, ValueError, EOFError) as error:
        raise damaged(folder, name, f"it cannot be read ({error})") from error
