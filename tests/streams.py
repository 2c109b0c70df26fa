"""Streams in memory for tests: float64 features of exact rank, without a cache."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree

from cmcl_jax import init_heads
from cmcl_jax.heads import Head, Heads
from cmcl_jax.methods.base import Method, Training, active_heads, with_heads
from cmcl_jax.runs import RunAxis
from cmcl_jax.stream import Step, StepFeatures
from cmcl_jax.train import InStep, init_memory, learn, of_runs, train_epochs

WIDTH, RANK, ROWS = 12, 4, 24
MODALITIES = ("vision", "text", "audio", "depth")
Task = tuple[Step, StepFeatures]


def training(**changes: object) -> Training:
    """Two epochs of three batches, the last of them partial."""
    settings = {
        "epochs": 2,
        "batch_size": 10,
        "learning_rate": 1e-2,
        "weight_decay": 1e-3,
        "clip_norm": 1.0,
        "temperature": 1.0,
        "direction": "symmetric",
    }
    return Training(**(settings | changes))  # type: ignore[arg-type]


def tasks(*steps: tuple[str, ...], rank: int = RANK, noise: float = 0.0) -> list[Task]:
    """One step per tuple of modalities, each with its own random features in `rank` directions, plus noise.

    They are padded by 6 rows.
    """
    rng = np.random.default_rng(0)

    def features() -> jax.Array:
        rows = rng.normal(size=(ROWS, rank)) @ rng.normal(size=(rank, WIDTH)) / np.sqrt(rank)
        rows += noise * rng.normal(size=rows.shape)
        return jnp.asarray(np.pad(rows, ((0, 6), (0, 0))))

    made = [Step(i, "made", modalities, ("recall",)) for i, modalities in enumerate(steps, start=1)]
    return [(s, StepFeatures({role: features() for role in s.roles}, jnp.asarray(ROWS, jnp.int32))) for s in made]


def heads_of_one_seed(seed: int = 0, hidden: tuple[int, ...] = ()) -> Heads:
    """Float64 heads with a leading axis of one seed, moved off their start so that nothing is special about them."""
    heads = init_heads(jax.random.key(seed), dict.fromkeys(MODALITIES, WIDTH), dtype=jnp.float64, hidden=hidden)
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda leaf: (leaf + 0.1 * rng.normal(size=leaf.shape))[None], heads)


def learn_all(method: Method, stream: Sequence[Task], heads: Heads) -> list[tuple[Heads, object]]:
    """Heads and memory before the stream and after each of its steps."""
    history = [
        (heads, init_memory(method, heads, list(dict.fromkeys(pair for step, _ in stream for pair in step.pairs))))
    ]
    for step, features in stream:
        learned = learn(method, *history[-1], step, features, jax.random.key(step.number)[None])
        history.append((learned.heads, learned.memory))
    return history


def train_from(method: Method, heads: Heads, state: PyTree, task: Task, key: jax.Array) -> Heads:
    """All heads after a step of one run that trains them as they are from a state of one's own making."""
    step, features = task
    in_step = InStep(active_heads(heads, step), state, jnp.zeros((1, method.training.epochs)))
    in_step = jax.tree.map(jnp.copy, in_step)
    epochs = (0, method.training.epochs)
    trained = train_epochs(of_runs(method, heads), in_step, features, key[None], epochs, RunAxis.default()).trained
    return with_heads(heads, trained, step)


def alignment(heads: Heads, task: Task, roles: str = "ab") -> np.ndarray:
    """All scores `Z_a Z_b^T` of a step's training rows in two of its roles, in numpy."""
    step, features = task
    one_seed = jax.tree.map(lambda leaf: np.asarray(leaf)[0], heads)
    z_a, z_b = (outputs_of(one_seed[step.roles[role]], np.asarray(features.by_role[role])[:ROWS]) for role in roles)
    return z_a @ z_b.T


def outputs_of(head: Head, rows: np.ndarray) -> np.ndarray:
    """Outputs of a head, linear or with hidden layers, in numpy."""
    last = entering_layers(head, rows)["output"]
    layer = head.get("output", head)
    return last @ np.asarray(layer["kernel"]) + np.asarray(layer["bias"])


def entering_layers(head: Head, rows: np.ndarray) -> dict[str, np.ndarray]:
    """What enters each layer of a head, in numpy; of a linear head, the rows."""
    if "output" not in head:
        return {"output": rows}
    length = np.linalg.norm(rows, axis=1, keepdims=True)
    entered, h = {}, rows / length * np.sqrt(rows.shape[1])
    for i in range(len(head) - 1):
        entered[f"hidden_{i}"] = h
        u = h @ np.asarray(head[f"hidden_{i}"]["kernel"]) + np.asarray(head[f"hidden_{i}"]["bias"])
        h = u / 2 * (1 + np.tanh(np.sqrt(2 / np.pi) * (u + 0.044715 * u**3)))  # arXiv 1606.08415
    return {**entered, "output": np.concatenate([rows, h * length / np.sqrt(h.shape[1])], axis=1)}


def drift(before: Heads, after: Heads, task: Task, roles: str = "ab") -> float:
    """Relative change of the alignment of a step's training rows in two of its roles."""
    old = alignment(before, task, roles)
    return float(np.linalg.norm(alignment(after, task, roles) - old) / np.linalg.norm(old))
