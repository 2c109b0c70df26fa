"""A plain continual classifier: an MLP on handwritten digits, every layer of which is protected by DNS.

Five tasks of two digits each, one after the other, from scikit-learn's `load_digits` (1,797 pictures of 8 × 8 pixels).
After each task, `capture_layers` takes what went into every layer, and the directions at its output in which the task's
logits move; `layer_projectors` turns these into projectors, and `dual_null_space` keeps the following updates away from
them. No picture is kept.

    python examples/mlp_classifier.py
    python examples/mlp_classifier.py --scenario=domain --seeds=5
"""

import argparse
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int, PRNGKeyArray, PyTree
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
N_TASKS, BATCH = 5, 64


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
        logits: `(width,)`, 1 for the logits among which the answer is sought, 0 for the others.
    """

    train: tuple[Float[Array, "n 64"], Int[Array, " n"]]
    test: tuple[Float[Array, "n 64"], Int[Array, " n"]]
    logits: Float[np.ndarray, " width"]


@dataclass(frozen=True)
class Setting:
    """Attributes:
    hidden: widths of the hidden layers.
    epochs: passes over a task's pictures.
    learning_rate: of Adam.
    energy: what share of the energy of a side of a layer may stay unprotected.
    """

    hidden: tuple[int, ...] = (256, 256)
    epochs: int = 20
    learning_rate: float = 1e-3
    energy: float = 0.01


def tasks(scenario: str) -> list[Task]:
    """The five tasks; every fifth picture is for testing."""
    pictures, digits = load_digits(return_X_y=True)
    pictures = (pictures / 16).astype(np.float32)
    width = 2 if scenario == "domain" else 10
    return [_task(pictures, digits, 2 * t, width, scenario) for t in range(N_TASKS)]


def _task(pictures: Any, digits: Any, first: int, width: int, scenario: str) -> Task:
    mine = np.flatnonzero((digits == first) | (digits == first + 1))
    targets = digits % width
    test = np.arange(len(mine)) % 5 == 0
    part = lambda rows: (jnp.asarray(pictures[rows]), jnp.asarray(targets[rows]))  # noqa: E731
    logits = np.isin(np.arange(width), (first, first + 1)) if scenario == "task" else np.ones(width)
    return Task(part(mine[~test]), part(mine[test]), logits.astype(np.float32))


def classifier(hidden: Sequence[int], width: int) -> nn.Sequential:
    """A multi-layer perceptron with GELU."""
    layers = [layer for size in hidden for layer in (nn.Dense(size), nn.gelu)]
    return nn.Sequential([*layers, nn.Dense(width)])


def learn(model: nn.Module, tx: Any, params: PyTree, opt_state: PyTree, task: Task, epochs: int, key: Array) -> PyTree:
    """The parameters after `epochs` passes over a task."""
    pictures, targets = task.train
    n = pictures.shape[0]

    def loss_of(params: PyTree, rows: Int[Array, " batch"]) -> Float[Array, ""]:
        logits = jnp.where(task.logits > 0, model.apply({"params": params}, pictures[rows]), -jnp.inf)
        loss: Array = optax.softmax_cross_entropy_with_integer_labels(logits, targets[rows]).mean()
        return loss

    def step(carry: tuple[PyTree, PyTree], rows: Int[Array, " batch"]) -> tuple[tuple[PyTree, PyTree], None]:
        params, opt_state = carry
        updates, opt_state = tx.update(jax.grad(loss_of)(params, rows), opt_state, params)
        return (optax.apply_updates(params, updates), opt_state), None

    orders = jax.vmap(lambda key: jax.random.permutation(key, n))(jax.random.split(key, epochs))
    batches = orders[:, : n - n % BATCH].reshape(-1, BATCH)
    (learned, _), _ = jax.lax.scan(step, (params, opt_state), batches)
    return learned


def accuracy(model: nn.Module, params: PyTree, task: Task) -> Float[Array, ""]:
    """In percent, on the test pictures of a task."""
    pictures, targets = task.test
    logits = jnp.where(task.logits > 0, model.apply({"params": params}, pictures), -jnp.inf)
    return 100 * jnp.mean(logits.argmax(-1) == targets)


def run(method: Method, stream: Sequence[Task], setting: Setting, key: PRNGKeyArray) -> Float[Array, "tasks+1 tasks"]:
    """Accuracies `R[t, task]` of one seed: row 0 before any training, row t after task t."""
    model = classifier(setting.hidden, len(stream[0].logits))
    tx = dns_adamw(setting.learning_rate, weight_decay=0.0, clip_norm=None, project=method.project)
    params = model.init(key, stream[0].train[0])["params"]
    capture = lambda params, task: capture_layers(  # noqa: E731
        model, {"params": params}, task.train[0], scores=jnp.eye(len(task.logits))[task.logits > 0]
    )
    memories = empty_layer_memories(jax.eval_shape(lambda: capture(params, stream[0])))
    evaluate = lambda params: jnp.stack([accuracy(model, params, task) for task in stream])  # noqa: E731
    matrix = [evaluate(params)]
    for t, task in enumerate(stream):
        opt_state = tx.init(params)
        if method.project is not None:
            protect = layer_projectors(memories, (setting.energy, setting.energy), "energy", method.one_sided)
            opt_state = replace_projectors(opt_state, protect)
        params = learn(model, tx, params, opt_state, task, setting.epochs, jax.random.fold_in(key, t))
        memories = update_layer_memories(memories, capture(params, task))
        matrix.append(evaluate(params))
    return jnp.stack(matrix)


def compare(scenario: str, setting: Setting, seeds: int) -> dict[str, Float[np.ndarray, "seeds tasks+1 tasks"]]:
    """The accuracies of every method, for as many seeds."""
    stream, keys = tasks(scenario), jax.random.split(jax.random.key(0), seeds)
    all_seeds = lambda method: jax.jit(jax.vmap(lambda key: run(method, stream, setting, key)))  # noqa: E731
    return {name: np.asarray(all_seeds(method)(keys)) for name, method in METHODS.items()}


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
    parser.add_argument("--scenario", choices=SCENARIOS, default="task", help="default: task")
    parser.add_argument("--seeds", type=int, default=3, help="default: 3")
    parser.add_argument("--epochs", type=int, default=Setting.epochs, help=f"per task; default: {Setting.epochs}")
    parser.add_argument("--energy", type=float, default=Setting.energy, help=f"unprotected; default: {Setting.energy}")
    flags = parser.parse_args(arguments)
    print(f"{SCENARIOS[flags.scenario]}. Accuracy in % after the last task, {flags.seeds} seeds:\n")
    print(table(compare(flags.scenario, Setting(epochs=flags.epochs, energy=flags.energy), flags.seeds)))


if __name__ == "__main__":
    main()
