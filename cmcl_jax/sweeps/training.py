"""Trains a chunk: runs of one group side by side through the stream, on all devices of this process."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from jaxtyping import Float, Int, PyTree

from cmcl_jax.measuring import Matrices, TestTasks, finite_runs, initial_heads
from cmcl_jax.methods.base import Method
from cmcl_jax.metrics.transfer import HEADLINES, summarize
from cmcl_jax.open_stream import ordered
from cmcl_jax.runs import RUNS, RunAxis
from cmcl_jax.sweeps.programs import Group, Member, stacked


@dataclass(frozen=True)
class Trained:
    """What came out of some runs, each array with a leading run axis.

    Attributes:
        ids: of the runs.
        matrices: result matrices `[run, t, task]` by quantity. The tasks are those of the steps as they are listed,
          whatever the order in which a run met them; `t` counts the steps in that order. NaN after a run diverged.
        learned_at: `[run, task]`, the step of each task.
        scores: the entries of a summary, NaN for what has no value.
        losses: `[run, step, epoch]`, mean over the epoch's batches.
        diverged_at: the step in which a loss or a head became infinite or NaN, 0 for none.
        seconds: of the chunk divided by the number of its runs.
    """

    ids: tuple[str, ...]
    matrices: Matrices
    learned_at: Int[np.ndarray, "runs tasks"]
    scores: dict[str, Float[np.ndarray, " runs"]]
    losses: Float[np.ndarray, "runs steps epochs"]
    diverged_at: Int[np.ndarray, " runs"]
    seconds: float


def local_mesh(devices: Sequence[jax.Device] | None = None) -> Mesh:
    """Devices of this process, all of them by default, along the axis "runs"."""
    devices = devices or jax.local_devices()
    return jax.make_mesh((len(devices),), (RUNS,), axis_types=(AxisType.Auto,), devices=devices)


def train_chunk(group: Group, members: Sequence[Member], slots: int, axis: RunAxis) -> Trained:
    """Trains runs of a group.

    Args:
        group: theirs.
        members: at least one, at most `slots`.
        slots: number of runs that the program has; repetitions of the last run fill it up, and are dropped.
        axis: with the mesh; `slots` is a multiple of its size.
    """
    started = time.perf_counter()
    filled = [*members, *[members[-1]] * (slots - len(members))]
    config, stream = filled[0].run.config, group.stream
    dtype = jnp.dtype(config.dtype)
    assert axis.mesh is not None
    spread = NamedSharding(axis.mesh, P(RUNS))
    keys = jax.vmap(jax.random.key)(jnp.asarray([member.run.seed for member in filled]))
    method = jax.device_put(stacked([member.method for member in filled], dtype), spread)
    learner = method.learner(stream, dtype, axis, config.feature_memory_mb)
    tests = TestTasks(stream, config.evaluation.split, config.evaluation.credit, dtype, axis.mesh)
    heads = jax.device_put(initial_heads(stream, keys, dtype, config.head.hidden), spread)
    keys = jax.device_put(keys, spread)
    memory = _on_mesh(learner.start(heads), method, axis.mesh)
    matrices = tests.measure(heads, {}, 0, trained=heads)
    losses, diverged_at = [], np.zeros(slots, int)
    for step in stream.steps:
        heads, memory, of_step = learner.learn(heads, memory, step, keys)
        diverged_at[(diverged_at == 0) & ~finite_runs(of_step, heads)] = step.number
        losses.append(np.asarray(of_step))
        matrices = tests.measure(heads, matrices, step.number, step.modalities if learner.stepwise else tuple(heads))
    kept = len(members)
    matrices = {name: _until(matrix[:kept], diverged_at[:kept]) for name, matrix in matrices.items()}
    learned_at = np.array([task.step for task in stream.tasks])
    columns = _listed(group)
    return Trained(
        ids=tuple(member.id for member in members),
        matrices={name: matrix[..., columns] for name, matrix in matrices.items()},
        learned_at=np.tile(learned_at[columns], (kept, 1)),
        scores=_scores(matrices, learned_at, learner.stepwise),
        losses=np.stack(losses, axis=1)[:kept],
        diverged_at=diverged_at[:kept],
        seconds=(time.perf_counter() - started) / kept,
    )


def _on_mesh(memory: PyTree, method: Method, mesh: Mesh) -> PyTree:
    """A memory where it will be after the first step, so that no program is compiled for another place."""
    spread, everywhere = NamedSharding(mesh, P(RUNS)), NamedSharding(mesh, P())
    places = jax.tree.map(
        lambda own, part: jax.tree.map(lambda _: spread if own else everywhere, part), method.memory_per_run, memory
    )
    return jax.device_put(memory, places)


def _until(matrix: np.ndarray, diverged_at: np.ndarray) -> np.ndarray:
    """A copy without the rows of a run from the step in which it diverged on: ranks of NaN mean nothing."""
    matrix = np.array(matrix)
    for run, step in enumerate(diverged_at):
        if step:
            matrix[run, step:] = np.nan
    return matrix


def _listed(group: Group) -> list[int]:
    """Where the tasks of the steps as listed are among those of the order in which they were met."""
    steps = group.stream.steps
    met = ordered(range(len(steps)), group.members[0].run.config.stream.order_seed)
    first = np.cumsum([0, *(len(step.tasks) for step in steps)])
    places = {listed: range(first[at], first[at + 1]) for at, listed in enumerate(met)}
    return [place for listed in range(len(steps)) for place in places[listed]]


def _scores(matrices: Matrices, learned_at: np.ndarray, stepwise: bool) -> dict[str, Any]:
    nothing = np.full_like(next(iter(matrices.values())), np.nan)
    summary = summarize({name: matrices.get(name, nothing) for name in HEADLINES}, learned_at, stepwise)
    as_nan = lambda values: np.array([np.nan if value is None else value for value in values])  # noqa: E731
    return {name: as_nan(entry["seeds"]) for name, entry in summary.items()}
