"""How many bytes DNS remembers between steps, by what it remembers of partners.

    python -m benchmarks.memory_bytes

Counted in the very pytrees that a run carries and a checkpoint holds, for the paper's stream at a width of 1024 and for
the pocket stream with the widths of its caches, in float32. The heads are there to compare with.
"""

import argparse
from collections.abc import Sequence
from functools import partial
from typing import Any

import jax
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from cmcl_jax.heads import Heads, init_heads
from cmcl_jax.methods import method_from_config
from cmcl_jax.open_stream import open_stream
from cmcl_jax.train import init_memory
from configs import paper, pocket
from configs.defaults import default_config
from feature_cache.manifest import MODALITY_ORDER

PAPER_WIDTH = 1024
VARIANTS: dict[str, dict[str, str]] = {
    "fresh": {"partners": "fresh"},
    "pooled": {"partners": "pooled"},
    "stale": {"partners": "stale"},
    "released": {"mode": "released"},
}
Pairs = Sequence[tuple[str, str]]


def paper_stream() -> tuple[dict[str, int], Pairs]:
    """Widths and pairs of the paper's stream, whose caches need not be there."""
    pairs = dict.fromkeys(tuple(sorted(step[1], key=MODALITY_ORDER.index)) for step in paper.STEPS)
    return {modality: PAPER_WIDTH for pair in pairs for modality in pair}, [(a, b) for a, b in pairs]


def pocket_stream() -> tuple[dict[str, int], Pairs]:
    """Widths and pairs of the pocket stream."""
    config = pocket.get_config()
    stream = open_stream(config.stream.steps, config.cache_dir, config.encoder)
    return stream.widths, stream.pairs


def heads_of(widths: dict[str, int], seeds: int) -> Heads:
    """The shapes of a run's heads, with a leading seed axis; nothing is allocated."""
    keys = jax.eval_shape(lambda: jax.random.split(jax.random.key(0), seeds))
    heads: Heads = jax.eval_shape(jax.vmap(partial(init_heads, widths=widths)), keys)
    return heads


def memory_of(variant: str, heads: Heads, pairs: Pairs) -> Any:
    """The shapes of what DNS carries through a stream of these pairs; nothing is allocated."""
    config = default_config()
    config.method = "dns"
    config.dns.update(VARIANTS[variant])
    method = method_from_config(config)
    return jax.eval_shape(partial(init_memory, method, pairs=pairs), heads)


def bytes_of(tree: Any) -> int:
    """The size of all arrays of a tree."""
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


def report(console: Console, seeds: Sequence[int] = (1, 10)) -> None:
    """Prints the table."""
    streams = {"paper": paper_stream(), "pocket": pocket_stream()}
    table = Table("", title="MB between steps", box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    columns = []
    for name, (widths, pairs) in streams.items():
        for count in seeds:
            table.add_column(f"{name}, {count} seed{'s' if count > 1 else ''}", justify="right")
            columns.append((heads_of(widths, count), pairs))
    for variant in VARIANTS:
        held = [bytes_of(memory_of(variant, heads, pairs)) for heads, pairs in columns]
        table.add_row(variant, *(f"{size / 1e6:,.1f}" for size in held))
    table.add_row("the heads", *(f"{bytes_of(heads) / 1e6:,.1f}" for heads, _ in columns))
    console.print(table)
    for name, (widths, pairs) in streams.items():
        sizes = ", ".join(map(str, sorted(set(widths.values()))))
        console.print(f"{name}: {len(widths)} modalities of width {sizes}, {len(pairs)} pairs")


def main() -> None:
    """The command line."""
    argparse.ArgumentParser(
        "python -m benchmarks.memory_bytes",
        description=__doc__,
        allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    ).parse_args()
    report(Console())


if __name__ == "__main__":
    main()
