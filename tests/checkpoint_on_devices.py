"""A step of eight runs on one device or on a mesh of eight; as a script, an epoch of it on the mesh."""

import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from cmcl_jax.checkpoint import Checkpoints
from cmcl_jax.methods.base import InStep
from cmcl_jax.methods.vanilla import Vanilla
from cmcl_jax.runs import RUNS, RunAxis
from cmcl_jax.train import begin_step, of_runs, train_epochs
from tests.streams import MODALITIES, heads_of_one_seed, tasks, training

RUNS_ON_THEM, EPOCHS = 8, 3


def eight_devices() -> Mesh:
    """All devices, as the mesh of a run axis."""
    assert jax.device_count() == 8
    return jax.make_mesh((8,), (RUNS,), axis_types=(jax.sharding.AxisType.Auto,))


def begin(mesh: Mesh | None) -> InStep:
    """Where the step begins."""
    [(step, features)] = tasks(MODALITIES[:2])
    heads = jax.tree.map(lambda leaf: jnp.repeat(leaf, RUNS_ON_THEM, 0), heads_of_one_seed())
    return begin_step(of_runs(_method(), heads), heads, {}, step, features, RunAxis(1, mesh))


def train(in_step: InStep, epochs: tuple[int, int], mesh: Mesh | None) -> InStep:
    """Some epochs of it."""
    [(_, features)] = tasks(MODALITIES[:2])
    keys = jax.random.split(jax.random.key(0), RUNS_ON_THEM)
    return train_epochs(of_runs(_method(), in_step.trained), in_step, features, keys, epochs, RunAxis(1, mesh))


def save(folder: Path, number: int, in_step: InStep) -> None:
    """A checkpoint of it."""
    with Checkpoints(folder, keep=2, run={}) as checkpoints:
        checkpoints.save(number, {"steps": np.zeros(1)}, in_step)


def restore(folder: Path, like: InStep) -> tuple[int, InStep]:
    """The newest checkpoint, on the devices of its like."""
    with Checkpoints(folder, keep=2, run={}) as checkpoints:
        number, _ = checkpoints.restore_latest({"steps": np.zeros(1)})
        return number, checkpoints.restore_in_step(number, like)


def kernels(in_step: InStep) -> np.ndarray:
    """Of all runs and heads."""
    return np.stack([np.asarray(head["kernel"]) for head in in_step.trained.values()])


def _method() -> Vanilla:
    return Vanilla(training(epochs=EPOCHS))


if __name__ == "__main__":
    with jax.enable_x64(True):
        mesh, folder = eight_devices(), Path(sys.argv[1])
        like = begin(mesh)
        number, in_step = restore(folder, like)
        for leaf, other in zip(jax.tree.leaves(in_step), jax.tree.leaves(like), strict=True):
            assert leaf.sharding == other.sharding and len(leaf.sharding.device_set) == 8
        save(folder, number + 1, train(in_step, (number, number + 1), mesh))
