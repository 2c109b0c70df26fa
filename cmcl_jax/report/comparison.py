"""Runs of several methods over the same orders and seeds, read back and checked: what a comparison is made of."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from cmcl_jax.config import differences
from cmcl_jax.report.runs import Run, load_run
from cmcl_jax.workdir import NO_RESULT_DEPENDS_ON, RunError

BASELINE = "vanilla"


@dataclass(frozen=True)
class Comparison:
    """Finished runs that differ in nothing but the method and the order of the steps.

    Attributes:
        runs: for each method its run in every order; place by place, the orders of all methods are the same.
    """

    runs: Mapping[str, tuple[Run, ...]]

    @property
    def first(self) -> Run:
        return next(iter(self.runs.values()))[0]

    @property
    def orders(self) -> int:
        return len(next(iter(self.runs.values())))

    @property
    def baseline(self) -> str:
        """The method that the others are compared with: vanilla, or the first one in a comparison without it."""
        return BASELINE if BASELINE in self.runs else next(iter(self.runs))

    @property
    def others(self) -> tuple[str, ...]:
        return tuple(method for method in self.runs if method != self.baseline)

    @property
    def over(self) -> str:
        """What the intervals are over, "orders" or "seeds"; see `statistics`."""
        return "orders" if self.orders > 1 else "seeds"

    @property
    def title(self) -> str:
        def count(number: int, word: str) -> str:
            return f"{number} {word}" if number == 1 else f"{number} {word}s"

        return (
            f"{count(len(self.first.steps), 'step')} on {self.first.config['encoder']}, "
            f"{count(self.orders, 'order')} × {count(self.first.seeds, 'seed')}"
        )

    @property
    def synthetic(self) -> bool:
        return any(run.synthetic for runs in self.runs.values() for run in runs)

    def scores(self, method: str, key: str) -> Float[np.ndarray, "orders seeds"]:
        """A quantity of the summaries, for every order and seed; NaN where the method has none."""
        return np.array([run.summary[key]["seeds"] for run in self.runs[method]], float)


def load_comparison(workdirs: Mapping[str, Sequence[str | Path]]) -> Comparison:
    """Reads the runs of a comparison.

    Args:
        workdirs: the folders of each method's runs, one for each order, the orders of all methods alike.

    Raises:
        RunError: a run is missing, unfinished or damaged, or two differ in more than method and order, so that their
          seeds cannot be paired; says in what.
    """
    runs = {method: tuple(load_run(_finished(Path(path))) for path in paths) for method, paths in workdirs.items()}
    if not runs or not all(runs.values()):
        raise RunError("There is nothing to compare: name at least one method and one order.")
    for of_method in runs.values():
        if len(of_method) != len(next(iter(runs.values()))):
            raise RunError("The methods of a comparison need runs of the same orders, but their numbers differ.")
        for first, run in zip(next(iter(runs.values())), of_method, strict=True):
            _check_alike(first, run, apart_from=("method",))
        for run in of_method[1:]:
            _check_alike(of_method[0], run, apart_from=("order_seed",))
    return Comparison(runs)


def _finished(folder: Path) -> Path:
    if not (folder / "summary.json").is_file():
        raise RunError(
            f"The comparison lacks the run {folder}: it is not there or not finished. Give the command "
            f"`python run.py compare …` again: it goes on where it stopped."
        )
    return folder


def _check_alike(first: Run, run: Run, apart_from: tuple[str, ...]) -> None:
    changed = list(differences(_compared(first, apart_from), _compared(run, apart_from)))
    if changed:
        raise RunError(
            f"The runs {first.workdir} and {run.workdir} cannot be paired: they differ in {'; '.join(changed)}. "
            f"Compare into another --workdir, or delete the run that is not meant."
        )


def _compared(run: Run, apart_from: tuple[str, ...]) -> dict[str, Any]:
    """What must be equal: config and caches, without what may differ."""
    left_out = (*NO_RESULT_DEPENDS_ON, *apart_from)
    stream = {field: value for field, value in run.config["stream"].items() if field not in left_out}
    return {**{field: value for field, value in run.config.items() if field not in left_out}, "stream": stream}
