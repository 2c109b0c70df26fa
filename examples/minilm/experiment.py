"""The experiment: one layer learns emoji, then instruments, and forgets more or less of emoji on the way.

before       MiniLM as published
after emoji  trained on names of emoji and their pictures; what is to be kept
…            from there trained on names of instruments and their sounds: plain, slower, or under DNS
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from jaxtyping import PyTree

from examples.minilm.data import Pairs, load_pairs
from examples.minilm.measuring import drift, recall_at_10, turned
from examples.minilm.remembering import protection, ranks, remember
from examples.minilm.training import Settings, fit


class Run(NamedTuple):
    """One way to learn the new task.

    Attributes:
        name: for the table.
        project: see `dns_adamw`; `None` for plain Adam.
        kept: share of the remembered second moments that is protected, of the inputs and of the outputs.
        one_sided: all outputs are protected.
        speed: factor of the learning rate.
    """

    name: str
    project: str | None = None
    kept: tuple[float, float] = (0.0, 0.0)
    one_sided: bool = False
    speed: float = 1.0


PLAIN = Run("plain")
HEADLINE = Run("DNS exact 90 %", "exact", (0.9, 0.9))
RUNS = (
    PLAIN,
    Run("plain, rate / 3", speed=1 / 3),
    Run("plain, rate / 10", speed=1 / 10),
    Run("DNS updates 90 %", "updates", (0.9, 0.9)),
    HEADLINE,
    Run("DNS exact 99 %", "exact", (0.99, 0.99)),
    Run("DNS 1-sided 80 %", "updates", (0.8, 1.0), one_sided=True),
    Run("DNS 1-sided 99 %", "updates", (0.99, 1.0), one_sided=True),
    Run("DNS 1-sided 100 %", "updates", (1.0, 1.0), one_sided=True),
)


class Data(NamedTuple):
    """Old and new task, and one that is never trained nor remembered; what `_test` ends with is only measured on."""

    old: Pairs
    old_test: Pairs
    new: Pairs
    new_test: Pairs
    other_test: Pairs


class Result(NamedTuple):
    """One row of the table.

    Attributes:
        run: how the new task was learned.
        ranks: protected directions of inputs and outputs; () if there are none.
        old: R@10 on the old task, held-out captions and pictures.
        new: R@10 on the new task, held-out sounds.
        other: R@10 on a task that was neither trained nor remembered.
        drift: of the old cosines since the old task was learned, see `measuring.drift`: remembered captions.
        drift_test: the same of held-out captions.
        turned: of remembered captions' embeddings, see `measuring.turned`.
    """

    run: Run
    ranks: tuple[int, ...]
    old: float
    new: float
    other: float
    drift: float
    drift_test: float
    turned: float


def load(params: Any, limit: int | None = None) -> Data:
    """The pairs of the experiment, at most `limit` of each split; runs the frozen layers, once per caption."""
    splits = {
        "old": ("emoji", "vision", "train"),
        "old_test": ("emoji", "vision", "test"),
        "new": ("instruments", "audio", "train"),
        "new_test": ("instruments", "audio", "test"),
        "other_test": ("furniture", "vision", "test"),
    }
    return Data(**{name: load_pairs(params, *which, limit) for name, which in splits.items()})


def experiment(
    sentence: PyTree, data: Data, settings: Settings, seed: int, runs: Sequence[Run] = RUNS
) -> Iterator[Result]:
    """Yields before, after the old task, and each run, as they are done."""
    yield measure(Run("before"), sentence, sentence, data)
    learned = fit(sentence, data.old, settings, seed)
    memory = remember(learned, data.old, seed)
    yield measure(Run("after emoji"), learned, learned, data)
    for run in runs:
        protect = None if run.project is None else protection(memory, run.kept, run.one_sided)
        slowed = settings._replace(learning_rate=settings.learning_rate * run.speed)
        after = fit(learned, data.new, slowed, seed, run.project, protect)
        yield measure(run, learned, after, data, () if protect is None else ranks(protect))


def measure(run: Run, before: PyTree, after: PyTree, data: Data, protected: tuple[int, ...] = ()) -> Result:
    """All numbers of `after`, with drift since `before`."""
    return Result(
        run,
        protected,
        old=float(recall_at_10(after, data.old_test)),
        new=float(recall_at_10(after, data.new_test)),
        other=float(recall_at_10(after, data.other_test)),
        drift=float(drift(before, after, data.old)),
        drift_test=float(drift(before, after, data.old_test)),
        turned=float(turned(before, after, data.old)),
    )
