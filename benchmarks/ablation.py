"""Which `dns` should be the default? Trains its variants on the pocket suite and compares them pair by pair.

    python -m benchmarks.ablation --workdir=runs/ablation                 on the validation split, stage by stage
    python -m benchmarks.ablation --workdir=runs/ablation --confirm      the finalists once on the test split
    python -m benchmarks.ablation --workdir=runs/ablation --default      only the baselines and today's default, on both

A variant is trained in several orders of the stream's steps, each order with a seed of its own: order k decides the
steps, seed k the batches. The score is the mean of Acc and R@10, as for vanilla's hyperparameters. A stage starts from
the best variant so far. Finished runs are only read, so that a stopped ablation goes on when it is started again.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Float
from ml_collections import ConfigDict
from rich.console import Console

from benchmarks.ablation_figure import stages_figure
from benchmarks.ablation_variants import BASELINES, STAGES, START, Settings, Variants, ranks
from cmcl_jax.config import load_config
from cmcl_jax.continual import run
from cmcl_jax.open_stream import distinct_orders
from cmcl_jax.progress import RunsProgress
from cmcl_jax.report.comparison_tables import p_text
from cmcl_jax.report.figures import png
from cmcl_jax.report.statistics import paired
from cmcl_jax.report.tables import NOT_MEASURED, Row, Table
from feature_cache.atomic import write_atomically

QUANTITIES = {"acc": "Acc ↑", "bwt_a": "BWT_A ↑", "r10": "R@10 ↑", "bwt_r10": "BWT_R10 ↑"}
HEADINGS = (*QUANTITIES.values(), "score ↑", "difference", "p", "better in")
FIRST = "relative 0.001"  # the default before this ablation
Scores = dict[str, Float[np.ndarray, " orders"]]


def main() -> None:
    """Trains what is missing, prints the tables, writes their numbers."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workdir", type=Path, default=Path("runs/ablation"), help="the runs' folder")
    parser.add_argument("--config", default="configs/pocket.py", help="the stream (default: %(default)s)")
    parser.add_argument("--orders", type=int, default=10, help="orders, and seeds (default: %(default)s)")
    parser.add_argument("--confirm", action="store_true", help="only the finalists, on the test split")
    parser.add_argument("--default", action="store_true", help="only the baselines and the default, on both splits")
    flags = parser.parse_args()
    jax.config.update("jax_compilation_cache_dir", str(flags.workdir / "compiled"))  # thresholds share their programs
    if flags.default:
        return show_default(flags.config, flags.orders, flags.workdir)
    ablation = Ablation(flags.config, "validation", flags.orders, flags.workdir)
    stages, finalists = search(ablation)
    if flags.confirm:
        ablation = Ablation(flags.config, "test", flags.orders, flags.workdir)
        stages = [confirm(ablation, finalists)]
    for stage in stages:
        Console().print(table(ablation.scores, stage).rich())
    found = {"stages": [stage._asdict() for stage in stages], "scores": as_lists(ablation.scores)}
    path = flags.workdir / ("test" if flags.confirm else "validation")
    write_atomically(path.with_suffix(".json"), json.dumps(found, indent=1).encode())
    drawn = {name: of_variant["score"] for name, of_variant in ablation.scores.items()}
    figure = stages_figure(drawn, [(stage.title, stage.variants) for stage in stages])
    write_atomically(path.with_suffix(".png"), png(figure))
    Console().print(f"Written: {path}.json, {path}.png", highlight=False, soft_wrap=True)


def show_default(config: str, orders: int, workdir: Path) -> None:
    """Tables of the baselines and of what `dns` is without any settings."""
    for split in ("validation", "test"):
        ablation = Ablation(config, split, orders, workdir)
        ablation.train("default", {**BASELINES, "dns": {}})
        stage = Stage(f"Today's default, {split} split", list(ablation.scores), "dns")
        Console().print(table(ablation.scores, stage).rich())


class Stage(NamedTuple):
    """Variants that are compared: the rows of a table, and the one that the others are paired with."""

    title: str
    variants: list[str]
    reference: str


def search(ablation: Ablation) -> tuple[list[Stage], Variants]:
    """All stages, and the finalists: the baselines, the start, and the best variant of every stage."""
    ablation.train("baselines", BASELINES)
    best, stages, finalists = START, [], {**BASELINES, FIRST: ranks(START)[FIRST]}
    for stage, variants_of in STAGES.items():
        variants = variants_of(best)
        ablation.train(stage, variants)
        ranked = sorted(variants, key=ablation.mean_score, reverse=True)
        stages.append(Stage(f"Stage {stage}", [*BASELINES, *ranked], ranked[0]))
        if variants[ranked[0]] not in finalists.values():
            finalists[ranked[0]] = variants[ranked[0]]
        if stage != "released":  # the reference is compared, but nothing is built on it
            best = variants[ranked[0]]
    return stages, finalists


def confirm(ablation: Ablation, finalists: Variants) -> Stage:
    """The finalists on the test split; differences are to the last of them, the winner."""
    ablation.train("finalists", finalists)
    return Stage("Finalists, test split", list(finalists), list(finalists)[-1])


def table(scores: Mapping[str, Scores], stage: Stage) -> Table:
    """Means ± standard deviations over the orders, and each variant's score paired with the reference's."""
    rows = [_row(name, scores[name], scores[stage.reference]) for name in stage.variants]
    return Table(stage.title, HEADINGS, tuple(rows), corner="variant")


def as_lists(scores: Mapping[str, Scores]) -> dict[str, dict[str, list[float | None]]]:
    """Scores for a JSON file, where what is not measured is null."""
    return {
        name: {key: [None if np.isnan(value) else float(value) for value in values] for key, values in found.items()}
        for name, found in scores.items()
    }


class Ablation:
    """Variants trained in the same orders with the same seeds, and their scores.

    Args:
        config: path of the stream's config.
        split: on which tasks are evaluated.
        orders: how many orders; each has a seed of its own.
        workdir: of all runs.
    """

    def __init__(self, config: str, split: str, orders: int, workdir: Path) -> None:
        self.config = load_config(config, [f"evaluation.split={split}", "seeds=1"])
        self.orders = distinct_orders(len(self.config.stream.steps), orders)
        self.workdir = workdir / split
        self.scores: dict[str, Scores] = {}

    def train(self, stage: str, variants: Variants) -> None:
        """Trains what is not there yet and reads the scores of all."""
        with RunsProgress(Console(stderr=True), runs=len(variants) * len(self.orders)) as progress:
            for name, settings in variants.items():
                summaries = [self._run(name, settings, order, f"{stage}: {name}", progress) for order in self.orders]
                self.scores[name] = {
                    key: np.array([summary[key]["mean"] for summary in summaries], float) for key in QUANTITIES
                }
                self.scores[name]["score"] = (self.scores[name]["acc"] + self.scores[name]["r10"]) / 2

    def mean_score(self, name: str) -> float:
        """Mean of Acc and R@10 over the orders."""
        return float(self.scores[name]["score"].mean())

    def _run(self, name: str, settings: Settings, order: int, label: str, progress: RunsProgress) -> Mapping[str, Any]:
        config = self.config.copy_and_resolve_references()
        config.first_seed, config.stream.order_seed = order, order
        config.method = settings.get("method", "dns")
        config.dns.update({field: value for field, value in settings.items() if field != "method"})
        progress.run_starts(f"{label}, order {order}", config)
        summary = run(config, self.workdir / _folder(config) / f"order{order}", progress)
        progress.run_ends(f"Acc {summary['acc']['mean']:.1f}, R@10 {summary['r10']['mean']:.1f}")
        return summary


def _row(name: str, scores: Scores, reference: Scores) -> Row:
    levels = [_mean_and_std(scores[key]) for key in (*QUANTITIES, "score")]
    if scores is reference:
        return Row(name, (*levels, NOT_MEASURED, NOT_MEASURED, NOT_MEASURED), (False,) * len(HEADINGS))
    found = paired(scores["score"][:, None], reference["score"][:, None])
    difference = f"{found.interval.mean:+.2f} ± {found.interval.half:.2f}".replace("-", "−")
    p = NOT_MEASURED if found.p_orders is None else p_text(found.p_orders)
    cells = (*levels, difference, p, f"{found.better} of {found.pairs}")
    return Row(name, cells, (False,) * len(HEADINGS))


def _folder(config: ConfigDict) -> str:
    """One folder for equal settings, whatever the variant is called."""
    if config.method != "dns":
        return str(config.method)
    given = [
        f"{field}={value:g}" if isinstance(value, float) else f"{field}={value}"
        for field, value in sorted(config.dns.items())
        if value is not None
    ]
    return ",".join(given)


def _mean_and_std(values: Float[np.ndarray, " orders"]) -> str:
    if np.isnan(values).any():
        return NOT_MEASURED
    return f"{values.mean():.2f} ± {values.std(ddof=1):.2f}".replace("-", "−")


if __name__ == "__main__":
    main()
