"""For a process with eight virtual devices: memories whose rows are spread over them, and streamed runs."""

import sys
import tempfile
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from cmcl_jax.memory import FeatureMemory, empty_memory, update_memory
from cmcl_jax.methods.dns_factored import FactoredReleased
from cmcl_jax.methods.dns_rotated import RotatedDualNullSpace
from cmcl_jax.runs import RUNS, RunAxis
from cmcl_jax.train import init_memory, learn
from cmcl_jax.train_streamed import learn_streamed
from tests.stored_rows import on_disk
from tests.streams import heads_of_one_seed, tasks, training

ROWS, WIDTH = 40, 6


def close(found: object, expected: object) -> None:
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, atol=1e-12), found, expected)


def check_moments(mesh: jax.sharding.Mesh) -> None:
    """By psum, and by the compiler, the memory of one device and numpy's."""
    rng = np.random.default_rng(0)
    parts = [rng.normal(size=(ROWS, WIDTH)) for _ in range(2)]
    valid = [np.arange(ROWS) % 3 > 0, np.arange(ROWS) < 17]  # the second leaves devices without a row
    seen = np.concatenate([part[of_part] for part, of_part in zip(parts, valid, strict=True)])
    expected = FeatureMemory(seen.T @ seen / len(seen), seen.mean(axis=0), np.array(len(seen)))
    by_psum = jax.jit(
        jax.shard_map(
            lambda memory, rows, valid: update_memory(memory, rows, valid, axis_name=RUNS),
            mesh=mesh,
            in_specs=(P(), P(RUNS), P(RUNS)),
            out_specs=P(),
        )
    )
    alone = spread = summed = empty_memory(WIDTH, jnp.float64)
    for part, of_part in zip(parts, valid, strict=True):
        alone = update_memory(alone, part, of_part)
        summed = by_psum(summed, part, of_part)
        spread = update_memory(spread, *jax.device_put((part, of_part), NamedSharding(mesh, P(RUNS))))
    for found in (alone, summed, spread):
        close(found, expected)
    assert spread.moment.sharding.is_fully_replicated
    print("moments")


def check_streamed_runs(mesh: jax.sharding.Mesh, folder: Path) -> None:
    """Eight runs, one on each device, with blocks that the devices share when they are remembered."""
    [(step, features)] = tasks(("vision", "text"), noise=0.1)
    stored, rounded = on_disk(folder, features)
    heads = jax.tree.map(lambda leaf: jnp.repeat(leaf, 8, axis=0), heads_of_one_seed())
    keys = jax.random.split(jax.random.key(0), 8)
    batches = training(batch_size=8)
    for method in (
        RotatedDualNullSpace(batches, "exact", "relative", 0.05, 0.05),
        FactoredReleased(batches, "gradients", "absolute", 0.01, 0.5),
    ):
        memory = init_memory(method, heads, [("vision", "text")])
        expected = learn(method, heads, memory, step, rounded, keys, axis=RunAxis(1))
        block = 2 * 8 * 8 * 2 * 12 * 4  # two batches of eight rows for eight runs
        found = learn_streamed(method, heads, memory, step, stored, keys, block, axis=RunAxis(1, mesh))
        jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, atol=1e-10), found, expected)
        print("streamed", type(method).__name__)


def main() -> int:
    assert jax.device_count() == 8
    mesh = jax.make_mesh((8,), (RUNS,), axis_types=(AxisType.Auto,))
    with jax.enable_x64(True), tempfile.TemporaryDirectory() as folder:
        check_moments(mesh)
        check_streamed_runs(mesh, Path(folder))
    return 0


if __name__ == "__main__":
    sys.exit(main())
