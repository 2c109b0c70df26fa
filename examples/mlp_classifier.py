"""A plain continual classifier: an MLP on handwritten digits, every layer of which is protected by DNS.

Five tasks of two digits each, one after the other, from scikit-learn's `load_digits` (1,797 pictures of 8 × 8 pixels).
After each task, `capture_layers` takes what went into every layer, and the directions at its output in which the task's
logits move; `layer_projectors` turns these into projectors, and `dual_null_space` keeps the following updates away from
them. No picture is kept.

Two-sided protection is a promise to first order in what the weights move by: it holds on to less the longer a task
trains (`--epochs=20`). One-sided protection holds to all orders, and uses the layers up: later tasks find no room.

    python -m examples.mlp_classifier    # needs scikit-learn
    python -m examples.mlp_classifier --scenario=class --seeds=5
"""

import argparse
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray, PyTree
from rich.console import Console
from rich.progress import track
from sklearn.datasets import load_digits

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # run as a file from a clone that is not installed

from cmcl_jax import replace_projectors
from cmcl_jax.layer_memory import capture_layers, empty_layer_memories, layer_projectors, update_layer_memories
from cmcl_jax.metrics.transfer import backward_transfer
from cmcl_jax.optimizers import dns_adamw

SCENARIOS = {
    "task": "task-incremental: which two digits come into question is known, when testing too",
    "domain": "domain-incremental: even or odd, whichever digits it is",
    "class": "class-incremental: which of the ten digits",
}
N_TASKS, TRAIN, TEST, BATCH = 5, 280, 70, 56


@dataclass(frozen=True)
class Method:
    """How a task is learned.

    Attributes:
        project: "updates" or "gradients", see `dns_adamw`; `None` is plain Adam.
        one_sided: protect all output directions of every layer.
    """

    project: str | None = None
    one_sided: bool = False


METHODS = {
    "vanilla": Method(),
    "dns, gradients": Method("gradients"),
    "dns, updates": Method("updates"),
    "dns, one-sided": Method("updates", one_sided=True),
}


class Task(NamedTuple):
    """Two digits.

    Attributes:
        train, test: pictures `(n, 64)` with pixels from 0 to 1, and their targets `(n,)`.
        logits: `(width,)`, for the logits among which the answer is sought.
        scores: `(k, width)`, the rows of the identity that pick these: the cotangents of `capture_layers`.
    """

    train: tuple[Float[Array, "n 64"], Int[Array, " n"]]
    test: tuple[Float[Array, "n 64"], Int[Array, " n"]]
    logits: Bool[Array, " width"]
    scores: Float[Array, "k width"]


@dataclass(frozen=True)
class Setting:
    """Attributes:
    hidden: widths of the hidden layers.
    epochs: passes over a task's pictures.
    learning_rate: of Adam.
    energy: what share of the energy of a side of a layer may stay unprotected.
    """

    hidden: tuple[int, ...] = (128, 128)
    epochs: int = 5
    learning_rate: float = 1e-3
    energy: float = 0.1


def tasks(scenario: str) -> list[Task]:
    """The five tasks, of as many pictures each, so that one compiled program serves them all."""
    pictures, digits = load_digits(return_X_y=True)
    width = 2 if scenario == "domain" else 10
    found = []
    for first in range(0, 2 * N_TASKS, 2):
        mine = np.flatnonzero((digits == first) | (digits == first + 1))
        part = lambda rows: (jnp.asarray(pictures[rows] / 16, jnp.float32), jnp.asarray(digits[rows] % width))  # noqa: E731
        logits = np.isin(np.arange(width), (first, first + 1)) if scenario == "task" else np.ones(width, bool)
        scores = jnp.eye(width)[logits]
        found.append(Task(part(mine[:TRAIN]), part(mine[TRAIN : TRAIN + TEST]), jnp.asarray(logits), scores))
    return found


def classifier(hidden: Sequence[int], width: int) -> nn.Sequential:
    """A multi-layer perceptron with GELU."""
    layers = [layer for size in hidden for layer in (nn.Dense(size), nn.gelu)]
    return nn.Sequential([*layers, nn.Dense(width)])


def logits_of(model: nn.Module, params: PyTree, task: Task, pictures: Float[Array, "n 64"]) -> Float[Array, "n width"]:
    """Logits, minus infinity where no answer is sought."""
    return jnp.where(task.logits, model.apply({"params": params}, pictures), -jnp.inf)


def learner(model: nn.Module, tx: optax.GradientTransformation, epochs: int) -> Callable[..., PyTree]:
    """The compiled `(params, opt_state, task, key) -> params` that passes `epochs` times over a task."""

    def learn(params: PyTree, opt_state: PyTree, task: Task, key: PRNGKeyArray) -> PyTree:
        pictures, targets = task.train

        def loss_of(params: PyTree, rows: Int[Array, " batch"]) -> Float[Array, ""]:
            logits = logits_of(model, params, task, pictures[rows])
            loss: Array = optax.softmax_cross_entropy_with_integer_labels(logits, targets[rows]).mean()
            return loss

        def step(carry: tuple[PyTree, PyTree], rows: Int[Array, " batch"]) -> tuple[tuple[PyTree, PyTree], None]:
            params, opt_state = carry
            updates, opt_state = tx.update(jax.grad(loss_of)(params, rows), opt_state, params)
            return (optax.apply_updates(params, updates), opt_state), None

        orders = jax.vmap(lambda key: jax.random.permutation(key, TRAIN))(jax.random.split(key, epochs))
        (learned, _), _ = jax.lax.scan(step, (params, opt_state), orders.reshape(-1, BATCH))
        return learned

    return jax.jit(learn)


class Program(NamedTuple):
    """Compiled parts that all methods share.

    Attributes:
        init: key -> parameters.
        capture: parameters, task -> rows of every layer.
        remember: memories, rows -> memories.
        evaluate: parameters -> accuracy in percent on the test pictures of each task.
    """

    model: nn.Module
    init: Callable[..., PyTree]
    capture: Callable[..., PyTree]
    remember: Callable[..., PyTree]
    evaluate: Callable[..., Float[Array, " tasks"]]


def program(stream: Sequence[Task], hidden: Sequence[int]) -> Program:
    """The network for a stream, and what is done with it besides learning."""
    model = classifier(hidden, len(stream[0].logits))

    def accuracy(params: PyTree, task: Task) -> Float[Array, ""]:
        pictures, targets = task.test
        return 100 * jnp.mean(logits_of(model, params, task, pictures).argmax(-1) == targets)

    return Program(
        model,
        jax.jit(lambda key: model.init(key, stream[0].train[0])["params"]),
        jax.jit(lambda params, task: capture_layers(model, {"params": params}, task.train[0], scores=task.scores)),
        jax.jit(update_layer_memories),
        jax.jit(lambda params: jnp.stack([accuracy(params, task) for task in stream])),
    )


def run(
    method: Method, stream: Sequence[Task], parts: Program, setting: Setting, seeds: int
) -> Float[np.ndarray, "seeds tasks+1 tasks"]:
    """Accuracies `R[seed, t, task]`: row 0 before any training, row t after task t."""
    tx = dns_adamw(setting.learning_rate, weight_decay=0.0, clip_norm=None, project=method.project)
    learn = learner(parts.model, tx, setting.epochs)
    matrices = []
    for key in jax.random.split(jax.random.key(0), seeds):
        params = parts.init(key)
        memories = empty_layer_memories(parts.capture(params, stream[0]))
        matrix = [parts.evaluate(params)]
        for t, task in enumerate(stream):
            opt_state = tx.init(params)
            if method.project is not None:
                protect = layer_projectors(memories, (setting.energy, setting.energy), "energy", method.one_sided)
                opt_state = replace_projectors(opt_state, protect)
            params = learn(params, opt_state, task, jax.random.fold_in(key, t))
            memories = parts.remember(memories, parts.capture(params, task))
            matrix.append(parts.evaluate(params))
        matrices.append(np.stack(matrix))
    return np.stack(matrices)


def compare(scenario: str, setting: Setting, seeds: int) -> dict[str, Float[np.ndarray, "seeds tasks+1 tasks"]]:
    """The accuracies of every method, for as many seeds."""
    stream = tasks(scenario)
    parts = program(stream, setting.hidden)
    methods = track(
        METHODS.items(), "learning", console=Console(stderr=True), transient=True, disable=not sys.stderr.isatty()
    )
    return {name: run(method, stream, parts, setting, seeds) for name, method in methods}


def table(matrices: Mapping[str, Float[np.ndarray, "seeds tasks+1 tasks"]]) -> str:
    """Markdown: accuracy per task after the last one, their mean and the backward transfer; means over the seeds."""
    columns = [f"{2 * t}, {2 * t + 1}" for t in range(N_TASKS)]
    lines = [["method", *columns, "Acc", "BWT"], ["---"] + ["---:"] * (N_TASKS + 2)]
    for name, matrix in matrices.items():
        bwt = backward_transfer(matrix, np.arange(1, N_TASKS + 1))
        final = matrix[:, -1]
        cells = [*(f"{value:.1f}" for value in final.mean(0)), _mean_std(final.mean(1)), _mean_std(bwt)]
        lines.append([name, *cells])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _mean_std(values: Float[np.ndarray, " seeds"]) -> str:
    return f"{values.mean():.1f} ± {values.std(ddof=1) if len(values) > 1 else 0:.1f}"


def main(arguments: Sequence[str] | None = None) -> None:
    """Compares the methods and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--scenario", choices=SCENARIOS, default="domain", help="what is asked of it (%(default)s)")
    add("--seeds", type=int, default=3, help="first weights and orders of the batches (%(default)s)")
    add("--epochs", type=int, default=Setting.epochs, help="passes over each task (%(default)s)")
    add("--energy", type=float, default=Setting.energy, help="share of a side of a layer left free (%(default)s)")
    flags = parser.parse_args(arguments)
    print(f"{SCENARIOS[flags.scenario]}.\nAccuracy in % after the last task, {flags.seeds} seeds:\n")
    print(table(compare(flags.scenario, Setting(epochs=flags.epochs, energy=flags.energy), flags.seeds)))


if __name__ == "__main__":
    main()
