"""Continual CLIP-style training of two towers with a learnable temperature, in a loop of one's own.

A media tower and a text tower learn to match emoji pictures, then instrument sounds, then furniture depth maps with
their names, on the pocket suite's features. After each task the memory is updated and the optimizer starts afresh with
new projectors; no features are kept. Without them, what the towers could do before fades.

    python -m examples.two_towers

The temperature is a scalar: it has no matrix, gets no projector (`None`) and passes untouched. It may, because it
multiplies all scores of old pairs alike: their order, and so every R@k, stays. Two things do not commute with that.
Towers whose outputs are *normalised* are not covered: a protected dot product divided by a norm that moved is not
protected; compare dot products, as here, or project one-sidedly. And the scale is shared by all tasks: what one task
makes of it, all others are trained and calibrated with, so CLIP's upper limit stands.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Bool, Float, PyTree
from rich.console import Console
from rich.progress import track

from cmcl_jax import dual_null_space, empty_memory, projectors_from, replace_projectors, update_memory
from cmcl_jax.metrics.retrieval import recall_at
from feature_cache import open_cache

CACHES = Path(__file__).parent.parent / "caches/pocketbind"
TASKS = (("emoji", "vision"), ("instruments", "audio"), ("furniture", "depth"))
WIDTH, BATCH, EPOCHS, LEARNING_RATE = 384, 64, 10, 1e-3
THRESHOLDS = (1e-3, 1e-3)  # directions with less than a thousandth of the largest singular value are free
LARGEST_LOG_SCALE = float(np.log(100))


class Pairs(NamedTuple):
    """Aligned rows of both towers; `same[i, j]`: text j is right for medium i."""

    media: Float[Array, "n d"]
    text: Float[Array, "n d"]
    same: Bool[np.ndarray, "n n"]


class Task(NamedTuple):
    name: str
    train: Pairs
    test: Pairs


class TwoTowers(nn.Module):  # type: ignore[misc]
    """One linear tower for media and one for texts, which start as the identity, and the logarithm of the scale."""

    width: int

    @nn.compact  # type: ignore[untyped-decorator]
    def __call__(self, media: Float[Array, "n d"], text: Float[Array, "n d"]) -> Float[Array, "n n"]:
        identity = lambda key, shape, dtype: jnp.eye(shape[0], shape[1], dtype=dtype)  # noqa: E731
        tower = partial(nn.Dense, self.width, kernel_init=identity)
        log_scale = self.param("log_scale", nn.initializers.zeros, ())
        scores: Array = tower(name="media")(media) @ tower(name="text")(text).T
        return jnp.exp(log_scale) * scores


MODEL = TwoTowers(WIDTH)


def load(names: Sequence[tuple[str, str]] = TASKS) -> list[Task]:
    """The tasks from their caches."""
    tasks = []
    for dataset, modality in names:
        cache = open_cache(CACHES / dataset)
        splits = []
        for split in ("train", "test"):
            captions = np.array(cache.captions(split))
            media, text = (jnp.asarray(cache.features(split, m), jnp.float32) for m in (modality, "text"))
            splits.append(Pairs(media, text, captions[:, None] == captions))
        tasks.append(Task(f"{dataset} {modality}", *splits))
    return tasks


def make_optimizer(updates: int, protect: bool) -> optax.GradientTransformation:
    """AdamW with a warm-up; the projection comes last. The scale is not decayed."""
    rate = optax.warmup_cosine_decay_schedule(0.0, LEARNING_RATE, updates // 10, updates)
    adamw = optax.adamw(rate, weight_decay=1e-3, mask=lambda params: jax.tree.map(lambda leaf: leaf.ndim > 1, params))
    return optax.chain(adamw, dual_null_space()) if protect else adamw


def loss_of(params: PyTree, media: Float[Array, "n d"], text: Float[Array, "n d"]) -> Float[Array, ""]:
    """Cross-entropy of finding the partner in the batch, mean of both directions."""
    scores, own = MODEL.apply({"params": params}, media, text), jnp.arange(len(media))
    to_text, to_media = (optax.losses.softmax_cross_entropy_with_integer_labels(s, own) for s in (scores, scores.T))
    loss: Array = (jnp.mean(to_text) + jnp.mean(to_media)) / 2
    return loss


@partial(jax.jit, static_argnames="tx")
def train_step(tx: Any, params: PyTree, state: PyTree, media: Array, text: Array) -> tuple[PyTree, PyTree]:
    updates, state = tx.update(jax.grad(loss_of)(params, media, text), state, params)
    params = optax.apply_updates(params, updates)
    return {**params, "log_scale": jnp.minimum(params["log_scale"], LARGEST_LOG_SCALE)}, state


def projectors_of(memory: dict[str, Any], params: PyTree) -> dict[str, Any]:
    """What each tower must not move: on all inputs that it saw, along all outputs of the other as that is today."""
    other = {"media": "text", "text": "media"}
    found = {
        side: projectors_from([memory[side]], [(memory[partner], params[partner])], THRESHOLDS, rule="relative")
        for side, partner in other.items()
    }
    return {**found, "log_scale": None}


def train(tasks: Sequence[Task], protect: bool, epochs: int = EPOCHS, seed: int = 0) -> Float[np.ndarray, "t tasks"]:
    """Trains on one task after the other.

    Returns:
        R@10 in percent of every task's test items, before the first task and after each.
    """
    params = MODEL.init(jax.random.key(seed), *tasks[0].train[:2])["params"]
    memory = {side: empty_memory(WIDTH) for side in ("media", "text")}
    rng, history = np.random.default_rng(seed), [[r10(params, task.test) for task in tasks]]
    learning = "learning with DNS" if protect else "learning without"
    for task in track(tasks, learning, console=Console(stderr=True), transient=True, disable=not sys.stderr.isatty()):
        batches = len(task.train.media) // BATCH
        tx = make_optimizer(epochs * batches, protect)
        state = tx.init(params)
        if protect:
            state = replace_projectors(state, projectors_of(memory, params))
        for _ in range(epochs):
            for rows in rng.permutation(len(task.train.media))[: batches * BATCH].reshape(batches, BATCH):
                params, state = train_step(tx, params, state, task.train.media[rows], task.train.text[rows])
        for side, features in (("media", task.train.media), ("text", task.train.text)):
            memory[side] = update_memory(memory[side], features)
        history.append([r10(params, task.test) for task in tasks])
    return np.array(history)


def r10(params: PyTree, pairs: Pairs) -> float:
    """Recall at 10 in percent, mean of both directions; any item of the same name is right."""
    scores = MODEL.apply({"params": params}, pairs.media, pairs.text)
    same = jnp.asarray(pairs.same)
    return float(sum(recall_at(s, c, (10,))[10] for s, c in ((scores, same), (scores.T, same.T))) / 2)


def forgotten(history: Float[np.ndarray, "t tasks"]) -> float:
    """By how many points the tasks but the last fell from when they were learned to the end; their mean."""
    return float(np.mean([history[i + 1, i] - history[-1, i] for i in range(history.shape[1] - 1)]))


def table(name: str, tasks: Sequence[Task], history: Float[np.ndarray, "t tasks"]) -> str:
    """R@10 of every task, a line per task that was learned."""
    rows = ["before", *(f"after {task.name}" for task in tasks)]
    lines = [f"{name:<24}" + "".join(f"{task.name:>18}" for task in tasks)]
    lines += [f"{row:<24}" + "".join(f"{r:>18.1f}" for r in scores) for row, scores in zip(rows, history, strict=True)]
    return "\n".join([*lines, f"forgotten: {forgotten(history):.1f} points of R@10\n"])


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=EPOCHS, help="passes over each task (%(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of the order of the batches (%(default)s)")
    flags = parser.parse_args(arguments)
    tasks = load()
    for name, protect in (("R@10 without DNS", False), ("R@10 with DNS", True)):
        print(table(name, tasks, train(tasks, protect, flags.epochs, flags.seed)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
