"""The test tasks of a stream on the device, and the result matrices that their measurements fill."""

from __future__ import annotations

import functools
from collections.abc import Collection
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Float, PRNGKeyArray

from cmcl_jax.evaluate import evaluate_task
from cmcl_jax.heads import Heads, init_heads
from cmcl_jax.metrics.chance import chance_levels
from cmcl_jax.runs import RUNS
from cmcl_jax.stream import Stream, Task, TaskFeatures

Matrices = dict[str, Float[np.ndarray, "runs times tasks"]]
GALLERY_SEED = 0


def initial_heads(stream: Stream, keys: PRNGKeyArray, dtype: Any, hidden: tuple[int, ...] = ()) -> Heads:
    """The heads before the first step, with a run axis.

    Args:
        stream: whose modalities get one each.
        keys: one per run; the steps fold in 1, 2, …, the heads 0.
        dtype: of the parameters.
        hidden: widths of hidden layers.
    """
    init = functools.partial(init_heads, widths=stream.widths, dtype=dtype, hidden=hidden)
    heads: Heads = jax.vmap(lambda key: init(jax.random.fold_in(key, 0)))(keys)
    return heads


class TestTasks:
    """Measures heads on every test task of a stream.

    Args:
        stream: the tasks' and their rows'.
        split: "test" or "validation".
        credit: what the headline recall counts, "diagonal" or "any".
        dtype: of the features.
        mesh: over whose axis "runs" the heads are spread; None: one device.
    """

    __test__ = False  # says pytest that this is none

    def __init__(self, stream: Stream, split: str, credit: str, dtype: Any, mesh: Mesh | None = None) -> None:
        self.stream, self.credit, self.mesh = stream, credit, mesh
        self.features = [stream.test_features(task, split, dtype) for task in stream.tasks]

    def measure(self, heads: Heads, matrices: Matrices, time_index: int, trained: Collection[str]) -> Matrices:
        """The matrices with row `time_index` filled in.

        Args:
            heads: with a leading run axis.
            matrices: by quantity, NaN where nothing is measured; empty at the start.
            time_index: number of steps that are done.
            trained: modalities whose heads changed since the row before. Tasks without any of them have that row's
              values again, which are copied.
        """
        runs = len(jax.tree.leaves(heads)[0])
        shape = (runs, len(self.stream.steps) + 1, len(self.stream.tasks))
        measured = {name: _with_row_before(matrix, time_index) for name, matrix in matrices.items()}
        for column, (task, features) in enumerate(zip(self.stream.tasks, self.features, strict=True)):
            if set(trained).isdisjoint(task.pair):
                continue
            for name, values in self._evaluate(heads, task, features).items():
                matrix = measured.setdefault(name, np.full(shape, np.nan, np.float32))
                matrix[:, time_index, column] = values
        return measured

    def _evaluate(self, heads: Heads, task: Task, features: TaskFeatures) -> dict[str, Float[Array, " runs"]]:
        key = jax.random.key(GALLERY_SEED)
        if self.mesh is None:
            return evaluate_task(heads, task, features, key, credit=self.credit)
        # One executable serves all tasks of equal shapes and metrics, whatever their names.
        names = tuple("text" if modality == "text" else role for role, modality in zip("ab", task.pair, strict=True))
        pair = {name: heads[modality] for name, modality in zip(names, task.pair, strict=True)}
        what = Task("", 0, "", (names[0], names[1]), task.metrics)
        measured: dict[str, Array] = _evaluate_on_mesh(pair, features, key, what, self.credit, self.mesh)
        return measured

    def chance(self) -> list[dict[str, float]]:
        """What random scores would reach on every test task."""
        return [
            chance_levels(
                task.metrics,
                np.asarray(features.groups),
                {name: len(label_set.class_features) for name, label_set in features.label_sets.items()},
                self.credit,
            )
            for task, features in zip(self.stream.tasks, self.features, strict=True)
        ]


@functools.partial(jax.jit, static_argnames=("task", "credit", "mesh"))
def _evaluate_on_mesh(
    pair: Heads, features: TaskFeatures, key: PRNGKeyArray, task: Task, credit: str, mesh: Mesh
) -> dict[str, Array]:
    """Each device measures its own runs, one after the other; none waits for another."""
    evaluate = lambda pair, features, key: evaluate_task(pair, task, features, key, credit=credit)  # noqa: E731
    on_mesh = jax.shard_map(evaluate, mesh=mesh, in_specs=(P(RUNS), P(), P()), out_specs=P(RUNS), check_vma=False)
    measured: dict[str, Array] = on_mesh(pair, features, key)
    return measured


def finite_runs(*trees: Any) -> np.ndarray:
    """Which runs have only finite numbers in all leaves, each with a leading run axis."""
    leaves = jax.tree.leaves(trees)
    finite = [jnp.isfinite(leaf).reshape(len(leaf), -1).all(axis=1) for leaf in leaves]
    return np.asarray(jnp.stack(finite).all(axis=0))


def _with_row_before(matrix: np.ndarray, row: int) -> np.ndarray:
    """A copy in which a row starts as the one before it."""
    matrix = np.array(matrix)
    matrix[:, row] = matrix[:, row - 1]
    return matrix
