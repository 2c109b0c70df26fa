"""From a memory budget to the number of runs that a device trains in one go."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict

from cmcl_jax.runs import RunAxis
from cmcl_jax.sweeps import chunks, expand
from cmcl_jax.sweeps.programs import Group, groups
from cmcl_jax.sweeps.resident import Features, Streams
from cmcl_jax.sweeps.training import local_mesh
from feature_cache.errors import UserError

WIDTH, LONGEST, BYTES = 12, 56, 4
HEAD = BYTES * (WIDTH * WIDTH + WIDTH)


@pytest.fixture
def by_method(tiny_sweep: ConfigDict) -> dict[str, Group]:
    found = groups(expand(tiny_sweep), Streams(Features(local_mesh(), 10**9)))
    return {group.members[0].run.method: group for group in found}


def test_the_shapes_say_what_a_run_takes(by_method: dict[str, Group]) -> None:
    """Vanilla: four heads, two under training, two moments of each; counters are a few bytes more."""
    kept, rows = chunks.bytes_per_run(by_method["vanilla"], jnp.float32)
    assert kept == pytest.approx(2 * (4 + 2 + 2 * 2) * HEAD, rel=0.01)
    assert rows == 0, "the step's rows are shared"
    kept, rows = chunks.bytes_per_run(by_method["dns"], jnp.float32)
    assert rows == 2 * LONGEST * WIDTH * BYTES, "in rotated coordinates each run has its own"
    assert kept > 2 * (10 * HEAD + 5 * WIDTH * WIDTH * BYTES), "two bases a head, and between their outputs"
    joint, rows = chunks.bytes_per_run(by_method["joint"], jnp.float32)
    assert joint > 2 * (4 + 2 * 4) * HEAD, "moments of all heads"
    assert rows == 0


def test_more_memory_means_larger_chunks_until_all_runs_are_in_one(by_method: dict[str, Group]) -> None:
    axis = RunAxis(None, local_mesh([jax.devices()[0]]))
    of_dns = by_method["dns"]
    kept, rows = chunks.bytes_per_run(of_dns, jnp.float32)
    stream = of_dns.stream
    features = stream.all_training_bytes(jnp.float32) + max(stream.training_bytes(step) for step in stream.steps)
    room = [features + n * (kept + rows) for n in (1, 2, 4, 7, 8, 100)]
    assert len(of_dns.members) == 8
    assert [chunks.choose([of_dns], axis, 1, int(bytes_), jnp.float32) for bytes_ in room] == [1, 2, 4, 4, 8, 8]
    assert chunks.choose([of_dns], axis, 4, room[-1], jnp.float32) == 2, "so that four processes have as much to do"
    with pytest.raises(UserError, match="A run needs .* but the budget is .* Raise --memory-gb"):
        chunks.choose([of_dns], axis, 1, int(features), jnp.float32)


def test_what_fits_stays_on_the_device_and_is_shared_by_all_orders(tiny_sweep: ConfigDict) -> None:
    config = tiny_sweep.copy_and_resolve_references()
    config.sweep = ConfigDict({"stream": {"order_seed": (None, 1)}})
    one, two = groups(expand(config), Streams(Features(local_mesh(), 10**9)))
    rooms = next(step for step in one.stream.steps if step.name.startswith("4 rooms"))
    same = next(step for step in two.stream.steps if step.modalities == rooms.modalities)
    a, b = (g.stream.training_features(s, s.modalities) for g, s in ((one, rooms), (two, same)))
    assert a.by_role["a"] is b.by_role["a"]
    assert int(a.rows) == 24
    full = groups(expand(config), Streams(Features(local_mesh(), 0)))[0].stream
    again = full.training_features(rooms, rooms.modalities)
    assert again.by_role["a"] is not full.training_features(rooms, rooms.modalities).by_role["a"]
    np.testing.assert_array_equal(again.by_role["b"], a.by_role["b"])


@pytest.mark.parametrize(
    ("largest", "runs", "workers", "at_once", "expected"),
    [
        (100, [20], 1, None, 20),
        (100, [20], 8, None, 3),
        (3, [20], 8, None, 3),
        (8, [9], 1, None, 5),
        (100, [9, 33], 1, None, 33),
        (30, [9, 33], 1, None, 17),
        (100, [9, 33], 1, 1, 1),
        (100, [1], 8, 1, 1),
    ],
)
def test_chunks_are_as_even_as_can_be(
    largest: int, runs: list[int], workers: int, at_once: int | None, expected: int
) -> None:
    assert chunks.chunk_size(largest, runs, workers, at_once) == expected
