"""A comparison: several methods through the same stream in several orders, one run after the other."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from cmcl_jax.config import ConfigError
from cmcl_jax.continual import run
from cmcl_jax.methods import REGISTRY
from cmcl_jax.open_stream import distinct_orders
from cmcl_jax.progress import RunsProgress
from feature_cache.registry import check_name


def check_methods(methods: Sequence[str]) -> None:
    """Raises `UserError` unless these are methods, each named once."""
    for method in methods:
        check_name(REGISTRY, "method in --methods", method)
    if not methods or len(set(methods)) < len(methods):
        raise ConfigError(f"--methods={','.join(methods)}: name one or more methods, each of them once.")


def train_all(
    config: ConfigDict, methods: Sequence[str], orders: int, workdir: str | Path, progress: RunsProgress
) -> dict[str, list[Path]]:
    """Trains every method in every order into `<workdir>/<method>/order<k>`, where k is the order's seed.

    Orders that an earlier seed has drawn already are passed over, see `distinct_orders`. Finished runs are only read,
    a half-finished one continues. All runs share one process and so its compiled programs, one per method and shapes.

    Args:
        config: of all runs; its method and its order seed are of no account.
        methods: names of methods.
        orders: how many orders.
        workdir: the comparison's folder.
        progress: shows where it is.

    Returns:
        The runs' folders by method, in the same orders.

    Raises:
        UserError: as `run` does, or if the stream has not that many orders.
    """
    folders: dict[str, list[Path]] = {method: [] for method in methods}
    for order_seed in distinct_orders(len(config.stream.steps), orders):
        for method in methods:  # so that a stopped comparison has whole orders
            folder = Path(workdir) / method / f"order{order_seed}"
            of_run = config.copy_and_resolve_references()
            of_run.method, of_run.stream.order_seed = method, order_seed
            progress.run_starts(f"{method}, order {order_seed}", of_run)
            progress.run_ends(_result(run(of_run, folder, progress)))
            folders[method].append(folder)
    return folders


def _result(summary: dict[str, Any]) -> str:
    levels = {"Acc": summary["acc"]["mean"], "R@10": summary["r10"]["mean"]}
    return ", ".join(f"{name} {mean:.1f}" for name, mean in levels.items() if mean is not None)
