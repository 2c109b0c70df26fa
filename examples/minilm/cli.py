"""The command: progress while it runs, a table, and a sentence that says what was measured."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from statistics import mean, stdev

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from examples.minilm.experiment import HEADLINE, PLAIN, RUNS, Result, experiment, load
from examples.minilm.training import Settings
from examples.minilm.weights import load_params
from feature_cache.errors import UserError

COLUMNS = ("kept", "new", "old", "other", "drift", "held out", "turned")
MEASURED = ("new", "old", "other", "drift", "drift_test", "turned")
HELP = """\
kept: directions of the layer's inputs and outputs, of 1536 and 384, that hold
  the share of the remembered second moments in the run's name.
new, old, other: R@10 in percent on held-out sounds of instruments (their names
  are those of training), names and pictures of emoji, and of furniture, which
  was neither trained on nor remembered.
drift: root mean square change of the cosine of a remembered caption and a
  picture while instruments are learned; held out: of captions not remembered.
turned: 1 - cosine of a remembered caption's embedding, before and after.
"""


def main(arguments: Sequence[str] | None = None) -> None:
    """Parses the arguments (of the command line by default), runs the experiment, prints."""
    flags = parser().parse_args(arguments)
    console = Console()
    settings = Settings(flags.epochs, flags.batch, flags.learning_rate, flags.temperature)
    try:
        seeds = run(console, settings, flags.seeds, flags.limit)
    except (UserError, ValueError) as error:
        raise SystemExit(f"finetune_minilm: {error}") from None
    console.print(table(seeds))
    console.print(HELP, highlight=False)
    console.print(sentence(seeds), highlight=False)


def parser() -> argparse.ArgumentParser:
    """Of the command line."""
    default = Settings()
    made = argparse.ArgumentParser(
        prog="finetune_minilm.py",
        description="Fine-tunes the last layer's output kernel of MiniLM on names of instruments after names of emoji, "
        "plain and under DNS, and shows what it forgets of emoji.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    made.add_argument("--epochs", type=_positive, default=default.epochs, help="of each task")
    made.add_argument("--batch", type=_positive, default=default.batch, help="rows of an update")
    made.add_argument("--learning_rate", type=float, default=default.learning_rate, help="of Adam")
    made.add_argument("--temperature", type=float, default=default.temperature, help="divides cosines in the loss")
    made.add_argument("--seeds", type=_positive, default=1, help="orders of the batches; R@10 is then mean ± std")
    made.add_argument("--limit", type=_positive, default=None, help="take only the first so many rows of each split")
    return made


def run(console: Console, settings: Settings, seeds: int, limit: int | None = None) -> list[tuple[Result, ...]]:
    """The experiment for each seed, with a progress bar on the console."""
    found = []
    with Progress(console=console, transient=True) as progress:
        task = progress.add_task("frozen layers, once per caption", total=1 + seeds * (2 + len(RUNS)))
        params = load_params()
        data = load(params, limit)
        progress.update(task, advance=1, description="fine-tuning")
        for seed in range(seeds):
            results = []
            for result in experiment(params["sentence"], data, settings, seed):
                results.append(result)
                progress.update(task, advance=1, description=f"seed {seed} · {result.run.name}")
            found.append(tuple(results))
    return found


def table(seeds: Sequence[Sequence[Result]]) -> Table:
    """A row per run, means over the seeds."""
    made = Table(title="MiniLM's last layer learns emoji, then instruments", box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    made.add_column("")
    for name in COLUMNS:
        made.add_column(name, justify="right")
    for results in zip(*seeds, strict=True):
        first = results[0]
        cells = (_cell([getattr(result, name) for result in results], name) for name in MEASURED)
        made.add_row(first.run.name, " × ".join(map(str, first.ranks)) or "–", *cells)
    return made


def sentence(seeds: Sequence[Sequence[Result]]) -> str:
    """What the headline run and the plain one lost and learned, in numbers."""
    chosen = {result.run: [results[i] for results in seeds] for i, result in enumerate(seeds[0])}
    level = mean(results[1].old for results in seeds)
    plain, dns = ({name: mean(getattr(r, name) for r in chosen[run]) for name in MEASURED} for run in (PLAIN, HEADLINE))
    counted = "one seed" if len(seeds) == 1 else f"means of {len(seeds)} seeds"
    return (
        f"Measured ({counted}): while the layer learned instruments, R@10 of held-out emoji went from {level:.1f} to "
        f"{plain['old']:.1f} in plain fine-tuning and to {dns['old']:.1f} with {HEADLINE.name}; instruments reached "
        f"{plain['new']:.1f} and {dns['new']:.1f}; cosines of remembered captions and pictures moved by "
        f"{plain['drift']:.3f} and {dns['drift']:.3f}."
    )


def _cell(values: Sequence[float], name: str) -> str:
    if name not in ("new", "old", "other"):
        return f"{abs(mean(values)):.4f}"
    return f"{mean(values):.1f}" + (f" ± {stdev(values):.1f}" if len(values) > 1 else "")


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, but is {number}")
    return number
