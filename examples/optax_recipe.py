"""A plain optax recipe, and the one line that makes it continual.

Softmax regression on fixed random features of scikit-learn's handwritten digits, trained with Adam: first on the digits
0 to 4, then on 5 to 9. The optimizer of the usual recipe is `optax.adam(…)`; the line marked (1) puts the projection
behind it. The three lines marked (2), between the tasks, say what it protects. All else is what it was.

    python -m examples.optax_recipe    # needs scikit-learn
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int, PyTree
from rich.console import Console
from rich.progress import track
from sklearn.datasets import load_digits

from cmcl_jax import NullSpaceProjector, dual_null_space, projector, replace_projectors

WIDTH, CLASSES, BATCH, EPOCHS, LEARNING_RATE = 1024, 10, 32, 20, 1e-2
TASKS = (range(5), range(5, 10))


class Split(NamedTuple):
    """Rows of features and their labels."""

    features: Float[Array, "n width"]
    labels: Int[Array, " n"]


class Task(NamedTuple):
    train: Split
    test: Split


def load(seed: int = 0) -> list[Task]:
    """The digits of each task as random Fourier features (Rahimi & Recht 2007); every third image is for testing."""
    pixels, labels = load_digits(return_X_y=True)
    rng = np.random.default_rng(seed)
    waves = 0.7 * pixels / 16 @ rng.normal(size=(pixels.shape[1], WIDTH)) + rng.uniform(0, 2 * np.pi, WIDTH)
    features, testing = np.sqrt(2 / WIDTH) * np.cos(waves), np.arange(len(labels)) % 3 == 0

    def split(rows: np.ndarray) -> Split:
        return Split(jnp.asarray(features[rows], jnp.float32), jnp.asarray(labels[rows]))

    return [Task(*(split(np.isin(labels, digits) & side) for side in (~testing, testing))) for digits in TASKS]


def loss_of(params: PyTree, batch: Split) -> Float[Array, ""]:
    logits = batch.features @ params["kernel"] + params["bias"]
    return jnp.mean(optax.losses.softmax_cross_entropy_with_integer_labels(logits, batch.labels))


def accuracy(params: PyTree, split: Split) -> float:
    """In percent, among all ten digits."""
    found = jnp.argmax(split.features @ params["kernel"] + params["bias"], axis=1)
    return float(100 * jnp.mean(found == split.labels))


@partial(jax.jit, static_argnames="optimizer")
def train_step(optimizer: Any, params: PyTree, opt_state: PyTree, batch: Split) -> tuple[PyTree, PyTree]:
    gradients = jax.grad(loss_of)(params, batch)
    updates, opt_state = optimizer.update(gradients, opt_state, params)
    return optax.apply_updates(params, updates), opt_state


def progress(epochs: Iterable[int]) -> Iterable[int]:
    """With a bar on a terminal."""
    console = Console(stderr=True)
    return track(epochs, "learning", console=console, transient=True, disable=not console.is_terminal)


def train(tasks: Sequence[Task], protect: bool, epochs: int = EPOCHS, seed: int = 0) -> Float[np.ndarray, "t tasks"]:
    """Trains on one task after the other; accuracy in percent on every task's test images after each."""
    optimizer = optax.adam(LEARNING_RATE)
    if protect:
        optimizer = optax.chain(optimizer, dual_null_space())  # (1)
    params = {"kernel": jnp.zeros((WIDTH, CLASSES)), "bias": jnp.zeros(CLASSES)}
    opt_state, rng, history = optimizer.init(params), np.random.default_rng(seed), []
    moment = jnp.zeros((WIDTH, WIDTH))
    for task in tasks:
        for _ in progress(range(epochs)):
            batches = len(task.train.labels) // BATCH
            for rows in rng.permutation(len(task.train.labels))[: batches * BATCH].reshape(batches, BATCH):
                batch = Split(*(leaf[rows] for leaf in task.train))
                params, opt_state = train_step(optimizer, params, opt_state, batch)
        history.append([accuracy(params, each.test) for each in tasks])
        if protect and task is not tasks[-1]:
            moment += task.train.features.T @ task.train.features  # (2) all that is kept of old images
            protected = NullSpaceProjector(projector(moment, 3e-3, "relative"), outputs=None)  # (2) None: every logit
            opt_state = replace_projectors(optimizer.init(params), protected)  # (2)
    return np.array(history)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=EPOCHS, help="passes over each task (%(default)s)")
    flags = parser.parse_args(arguments)
    tasks = load()
    print(f"{'accuracy in percent':<28}{'digits 0-4':>12}{'digits 5-9':>12}")
    for name, protect in (("without DNS", False), ("with DNS", True)):
        for row, scores in zip(("after 0-4", "after 5-9"), train(tasks, protect, flags.epochs), strict=True):
            print(f"{name + ', ' + row:<28}" + "".join(f"{score:>12.1f}" for score in scores))
    return 0


if __name__ == "__main__":
    sys.exit(main())
