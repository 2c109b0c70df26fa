"""Steps that train from disk in blocks against the same steps in memory."""

import dataclasses
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from ml_collections import ConfigDict

from cmcl_jax import train_streamed
from cmcl_jax.continual import _Run
from cmcl_jax.feature_memory import MB, device_memory, feature_memory
from cmcl_jax.heads import Heads
from cmcl_jax.methods.base import Learned, Method
from cmcl_jax.methods.dns import DualNullSpace
from cmcl_jax.methods.dns_factored import FactoredReleased
from cmcl_jax.methods.dns_hidden import HiddenDualNullSpace
from cmcl_jax.methods.dns_rotated import RotatedDualNullSpace
from cmcl_jax.methods.joint import Joint
from cmcl_jax.methods.vanilla import Vanilla
from cmcl_jax.open_stream import open_stream
from cmcl_jax.prefetch import prefetched
from cmcl_jax.progress import Progress
from cmcl_jax.runs import RunAxis
from cmcl_jax.stream import StepFeatures
from cmcl_jax.train import StepByStep, begin_step, init_memory, learn, of_runs, remember
from cmcl_jax.train_streamed import (
    Blocks,
    StreamedStepByStep,
    learn_streamed,
    remember_streamed,
    train_epochs_streamed,
)
from cmcl_jax.workdir import Workdir
from feature_cache.errors import UserError
from tests.stored_rows import on_disk
from tests.streams import MODALITIES, ROWS, Task, heads_of_one_seed, tasks, training
from tests.tiny_caches import STEPS

A, B, C, D = MODALITIES
SETTINGS = (training(), "exact", "relative", 0.05, 0.05)
UPDATES = (training(), "updates", *SETTINGS[2:])
METHODS: dict[str, Method] = {
    "vanilla": Vanilla(training()),
    "dns": RotatedDualNullSpace(*SETTINGS),
    "released": FactoredReleased(training(), "gradients", "absolute", 0.01, 0.5),
}
REMEMBER: dict[str, Method] = {
    **{name: DualNullSpace(*UPDATES, partners=name) for name in ("fresh", "pooled", "stale")},
    "released": FactoredReleased(training(), "gradients", "absolute", 0.01, 0.5),
    "hidden": HiddenDualNullSpace(*UPDATES),
}
BATCH = 10 * 2 * 12 * 4  # bytes of a batch of one run
KEYS = jax.random.split(jax.random.key(3), 2)


def of_two(heads: Heads) -> Heads:
    return jax.tree.map(lambda leaf: jnp.concatenate([leaf, 0.9 * leaf]), heads)


def same(found: Any, expected: Any) -> None:
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, atol=1e-10), found, expected)


def shortened(task: Task, rows: int) -> Task:
    step, features = task
    padded = {role: x.at[rows:].set(0) for role, x in features.by_role.items()}
    return step, features._replace(by_role=padded, rows=jnp.asarray(rows, jnp.int32))


@pytest.mark.parametrize("name", METHODS)
def test_a_stream_from_disk_ends_as_one_in_memory(name: str, tmp_path: Path, x64: None) -> None:
    method, heads = METHODS[name], of_two(heads_of_one_seed())
    stream = [shortened(task, rows) for task, rows in zip(tasks((A, B), (B, C), noise=0.1), (24, 17), strict=True)]
    start = Learned(heads, init_memory(method, heads, [(A, B), (B, C)]), jnp.zeros(0))
    from_disk, in_memory = start, start
    for step, features in stream:
        stored, rounded = on_disk(tmp_path / step.name, features)
        from_disk = learn_streamed(method, *from_disk[:2], step, stored, KEYS, 2 * 2 * BATCH)
        in_memory = learn(method, *in_memory[:2], step, rounded, KEYS)
        same(from_disk, in_memory)
    assert all(np.abs(in_memory.heads[m]["kernel"] - heads[m]["kernel"]).max() > 1e-3 for m in (A, B, C))


@pytest.mark.parametrize("name", REMEMBER)
def test_what_is_remembered_in_blocks_is_what_is_remembered_at_once(name: str, tmp_path: Path, x64: None) -> None:
    method = REMEMBER[name]
    heads = of_two(heads_of_one_seed(hidden=(5,) if name == "hidden" else ()))
    memory = init_memory(method, heads, [(A, B), (B, C), (A, C)])
    for step, features in tasks((A, B), (A, B, C)):
        stored, rounded = on_disk(tmp_path / step.name, features)
        found = remember_streamed(of_runs(method, heads), memory, heads, step, stored, RunAxis(1), Blocks(1, 10))
        expected = remember(of_runs(method, heads), memory, heads, step, rounded)
        same(found, expected)
        before, memory = memory, expected
        assert any(np.abs(x - y).max() > 0.1 for x, y in zip(*map(jax.tree.leaves, (before, memory)), strict=True))
    if name == "pooled":
        assert memory["met"] == {f"{A}-{B}": 2 * ROWS, f"{B}-{C}": ROWS, f"{A}-{C}": ROWS}


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rows=st.integers(1, 30), shard=st.integers(1, 30), batches=st.integers(1, 3))
def test_any_number_of_rows_in_any_shards_and_blocks(
    tmp_path_factory: pytest.TempPathFactory, rows: int, shard: int, batches: int
) -> None:
    with jax.enable_x64(True):
        step, features = shortened(noise(), rows)
        stored, rounded = on_disk(tmp_path_factory.mktemp("rows"), features, shard)
        method, heads = Vanilla(training()), heads_of_one_seed()
        found = learn_streamed(method, heads, {}, step, stored, KEYS[:1], batches * BATCH)
        same(found, learn(method, heads, {}, step, rounded, KEYS[:1]))


def noise() -> Task:
    [(step, features)] = tasks((A, B))
    rng = np.random.default_rng(1)
    return step, StepFeatures({role: jnp.asarray(rng.normal(size=(30, 12))) for role in "ab"}, features.rows)


@pytest.mark.parametrize("axis", [RunAxis(1), RunAxis()], ids=["in turns", "side by side"])
def test_blocks_of_all_steps_share_one_program(axis: RunAxis, tmp_path: Path, x64: None) -> None:
    method, heads = RotatedDualNullSpace(*SETTINGS), of_two(heads_of_one_seed())
    memory = init_memory(method, heads, [(A, B), (B, C)])
    train_streamed._train_block.clear_cache()
    for task, rows in zip(tasks((A, B), (B, C)), (30, 7), strict=True):
        step, features = shortened(task, rows)
        stored, rounded = on_disk(tmp_path / step.name, features)
        found = learn_streamed(method, heads, memory, step, stored, KEYS, 2 * BATCH, axis=axis)
        same(found, learn(method, heads, memory, step, rounded, KEYS, axis=axis))
    assert train_streamed._train_block._cache_size() == 1


def test_epochs_in_two_calls_give_the_bits_of_one(tmp_path: Path, x64: None) -> None:
    [(step, features)] = tasks((A, B))
    stored, _ = on_disk(tmp_path, features)
    heads, axis = heads_of_one_seed(), RunAxis.default()
    method = of_runs(Vanilla(training()), heads)

    def trained(*calls: tuple[int, int]) -> Any:
        in_step = begin_step(method, heads, {}, step, StepFeatures({}, jnp.asarray(stored.rows)), axis)
        for epochs in calls:
            in_step = train_epochs_streamed(method, in_step, stored, KEYS[:1], epochs, axis, Blocks(2, 10))
        return in_step

    jax.tree.map(np.testing.assert_array_equal, trained((0, 1), (1, 2)), trained((0, 2)))


def test_the_learner_streams_what_does_not_fit(tiny_caches: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stream = open_stream(STEPS, tiny_caches, "tiny")
    method = dataclasses.replace(RotatedDualNullSpace(*SETTINGS), class_texts=True)
    with jax.enable_x64(True):
        heads = of_two(heads_of_one_seed())
        step, needed = stream.steps[0], 56 * 2 * 12 * 8
        assert stream.training_bytes(step, jnp.float64) == needed
        ends = []
        for learner in (
            StepByStep(method, stream, jnp.float64, RunAxis.default()),
            StreamedStepByStep(method, stream, jnp.float64, RunAxis.default(), needed - 1),
        ):
            ends.append(learner.learn(heads, learner.start(heads), step, KEYS))
        same(*ends)
        fits = StreamedStepByStep(method, stream, jnp.float64, RunAxis.default(), needed)
        monkeypatch.setattr(StepByStep, "learn", lambda *arguments: "in memory")
        assert fits.learn(heads, fits.start(heads), step, KEYS) == "in memory"


def test_the_config_says_how_much_memory(tiny_config: ConfigDict, tmp_path: Path) -> None:
    for given_mb, expected in ((None, device_memory() // 4), (3, 3 * MB)):
        tiny_config.feature_memory_mb = given_mb
        learner = _Run(tiny_config, Workdir(tmp_path), Progress.silent()).learner
        assert isinstance(learner, StreamedStepByStep)
        assert learner.memory == expected


@pytest.mark.parametrize("value", [0, -1.5, True, float("nan")])
def test_memory_that_makes_no_sense_is_refused(value: float) -> None:
    with pytest.raises(UserError, match=r"config\.feature_memory_mb must be None, .* number greater than 0"):
        feature_memory(value)


def test_joint_does_not_train_on_more_than_fits(tiny_caches: Path) -> None:
    stream = open_stream(STEPS, tiny_caches, "tiny")
    needed = 7 * 56 * 12 * 4  # of seven distinct modalities of three datasets
    joint = Joint(training())
    joint.learner(stream, jnp.float32, RunAxis.default(), needed / MB)
    with pytest.raises(UserError, match=r"joint.*Raise config\.feature_memory_mb"):
        joint.learner(stream, jnp.float32, RunAxis.default(), (needed - 1) / MB)


def test_an_error_while_a_block_is_made_is_raised_where_it_is_used() -> None:
    class Broken:
        def __len__(self) -> int:
            return 3

        def __getitem__(self, index: int) -> int:
            if index == 1:
                raise OSError("the disk is gone")
            return index

    blocks = prefetched(Broken())
    assert next(blocks) == 0
    with pytest.raises(OSError, match="the disk is gone"):
        next(blocks)
