"""How far old alignment scores of nonlinear heads drift under per-layer protection, by learning rate.

    python -m benchmarks.nonlinear

Heads of two layers with GELU, in float64 on features of the pocket suite. First emoji pictures are aligned with their
captions, then sounds of instruments with theirs; the captions' head is in both. What is measured is how far the second
step moves the scores of the first one's training rows, `‖A − A'‖ / ‖A‖`, and what it still learns.

One-sided protection leaves rounding at every learning rate. Two-sided, the directions at a hidden layer differ from row
to row, since the Jacobian does, and those of a hundred rows span it: keeping them all is one-sided protection, and
leaving out the weak ones by a threshold leaves a drift that falls linearly with the learning rate. The quadratic law of
the first-order promise is for fewer directions than the layer is wide: `tests/test_nonlinear_promises.py`.
"""

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int, PyTree
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.progress import track
from rich.table import Table

from cmcl_jax.layer_memory import (
    capture_layers,
    empty_layer_memories,
    layer_projectors,
    moment_rows,
    update_layer_memories,
)
from cmcl_jax.losses import info_nce
from cmcl_jax.null_space import dual_null_space, replace_projectors
from feature_cache import open_cache

CACHES = Path(__file__).resolve().parents[1] / "caches" / "pocketbind"
LEARNING_RATES = (1e-5, 1e-4, 1e-3)
HIDDEN, WIDTH, BATCH, UPDATES, INPUT_THRESHOLD = 256, 64, 64, 50, 1e-10


class Protection(NamedTuple):
    """Attributes:
    output_threshold: relative, of `layer_projectors`.
    one_sided: protect all output directions.
    """

    output_threshold: float
    one_sided: bool = False


PROTECTIONS = {
    "vanilla": None,
    "two-sided, 1e-2": Protection(1e-2),
    "two-sided, 1e-4": Protection(1e-4),
    "two-sided, 1e-10": Protection(1e-10),
    "one-sided": Protection(0.0, one_sided=True),
}


class Pair(NamedTuple):
    """Features of two modalities `(n, d)`; row i of both belongs together."""

    captions: Float[Array, "n d"]
    others: Float[Array, "n d"]


class Measured(NamedTuple):
    """Attributes:
    drift: of the old scores, relative to their norm.
    loss: InfoNCE of the second step's rows after it, in nats.
    """

    drift: float
    loss: float


def head() -> nn.Sequential:
    """Two dense layers with GELU between them."""
    layer = lambda width: nn.Dense(width, param_dtype=jnp.float64, precision=jax.lax.Precision.HIGHEST)  # noqa: E731
    return nn.Sequential([layer(HIDDEN), nn.gelu, layer(WIDTH)])


def pair(dataset: str, other: str, rows: int) -> Pair:
    """Evenly spaced training rows of a pocket cache."""
    cache = open_cache(CACHES / dataset)
    picked = np.linspace(0, len(cache.ids("train")) - 1, rows).astype(int)
    of = lambda modality: jnp.asarray(np.asarray(cache.features("train", modality))[picked], jnp.float64)  # noqa: E731
    return Pair(of("text"), of(other))


def outputs(heads: PyTree, pair: Pair) -> tuple[Float[Array, "n width"], Float[Array, "n width"]]:
    """What the heads of the captions and of the other modality make of a pair."""
    return head().apply({"params": heads["text"]}, pair.captions), head().apply({"params": heads["other"]}, pair.others)


def loss_of(heads: PyTree, pair: Pair) -> Float[Array, ""]:
    """InfoNCE of all rows."""
    return info_nce(*outputs(heads, pair), jnp.ones(len(pair.captions), bool))


@jax.jit
def train(heads: PyTree, projectors: PyTree, pair: Pair, batches: Int[Array, "updates batch"], rate: Array) -> PyTree:
    """Both heads after as many updates of Adam as there are batches."""
    tx = optax.chain(optax.scale_by_adam(), dual_null_space(), optax.scale_by_learning_rate(rate))

    def step(carry: tuple[PyTree, PyTree], rows: Int[Array, " batch"]) -> tuple[tuple[PyTree, PyTree], None]:
        heads, state = carry
        updates, state = tx.update(jax.grad(loss_of)(heads, Pair(*(side[rows] for side in pair))), state, heads)
        return (optax.apply_updates(heads, updates), state), None

    (trained, _), _ = jax.lax.scan(step, (heads, replace_projectors(tx.init(heads), projectors)), batches)
    return trained


@jax.jit
def remember(heads: PyTree, pair: Pair) -> PyTree:
    """What every layer of the captions' head met, the partners through the factors of their second moment."""
    _, partners = outputs(heads, pair)
    cotangents = moment_rows(partners.T @ partners / len(partners))
    rows = capture_layers(head(), {"params": heads["text"]}, pair.captions, scores=cotangents)
    return update_layer_memories(empty_layer_memories(rows), rows)


def free_directions(projectors: PyTree) -> str:
    """Unprotected of all input and output directions of each layer."""
    free = lambda side: f"{side.shape[0] - round(float(jnp.trace(side)))}/{side.shape[0]}"  # noqa: E731
    return ", ".join(f"{free(layer.inputs)} → {free(layer.outputs)}" for layer in projectors.values())


def measure(rows: int, rates: Sequence[float] = LEARNING_RATES) -> dict[str, tuple[str, list[Measured]]]:
    """For each protection its free directions and, for each learning rate, drift and loss."""
    old, new = pair("emoji", "vision", rows), pair("instruments", "audio", 1280)
    init: Callable[[Any, Array], PyTree] = lambda key, x: head().init(key, x)["params"]  # noqa: E731
    heads = {name: init(jax.random.key(i), old.captions) for i, name in enumerate(("text", "other", "audio"))}
    audio = heads.pop("audio")
    rng = np.random.default_rng(0)
    draw = lambda n: jnp.asarray(rng.integers(0, n, size=(UPDATES, min(BATCH, n))))  # noqa: E731
    free = {name: layer_projectors(jax.tree.map(jnp.zeros_like, remember(heads, old)), (0, 0)) for name in heads}
    heads = train(heads, free, old, draw(rows), jnp.asarray(1e-3))

    def scores(text: PyTree) -> Float[Array, "n n"]:
        captions, others = outputs({**heads, "text": text}, old)
        return captions @ others.T

    memories, before, batches = remember(heads, old), scores(heads["text"]), draw(1280)
    found = {}
    for name, protection in track(
        PROTECTIONS.items(), "learning", console=Console(stderr=True), transient=True, disable=not sys.stderr.isatty()
    ):
        projectors = free
        if protection is not None:
            thresholds = (INPUT_THRESHOLD, protection.output_threshold)
            projectors = {**free, "text": layer_projectors(memories, thresholds, "relative", protection.one_sided)}
        measured = []
        for rate in rates:
            after = train({"text": heads["text"], "other": audio}, projectors, new, batches, jnp.asarray(rate))
            drift = jnp.linalg.norm(scores(after["text"]) - before) / jnp.linalg.norm(before)
            measured.append(Measured(float(drift), float(loss_of(after, new))))
        found[name] = free_directions(projectors["text"]), measured
    return found


def table(found: dict[str, tuple[str, list[Measured]]], rates: Sequence[float] = LEARNING_RATES) -> Table:
    """Drift and loss, a row for each protection."""
    made = Table("protection", box=SIMPLE_HEAD, padding=(0, 1, 0, 0), title="Drift of old scores (loss of the new)")
    for rate in rates:
        made.add_column(f"rate {rate:g}", justify="right")
    for name, (_, measured) in found.items():
        made.add_row(name, *(f"{m.drift:.1e} ({m.loss:.2f})" for m in measured))
    return made


def free_table(found: dict[str, tuple[str, list[Measured]]]) -> Table:
    """The free of all input and output directions under each protection."""
    made = Table("protection", "inputs → outputs, layer by layer", box=SIMPLE_HEAD, title="Free directions")
    for name, (free, _) in found.items():
        made.add_row(name, free)
    return made


def main(arguments: Sequence[str] | None = None) -> None:
    """Measures and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=100, help="remembered rows of the first step; default: 100")
    flags = parser.parse_args(arguments)
    with jax.enable_x64(True):
        found = measure(flags.rows)
    console = Console()
    console.print(table(found))
    console.print(free_table(found))


if __name__ == "__main__":
    main()
