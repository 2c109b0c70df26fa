"""Joint training: against a plain float64 loop, and what sets it apart from a continual method."""

import itertools
import operator
from collections import Counter
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from ml_collections import ConfigDict

from cmcl_jax.continual import run
from cmcl_jax.heads import Heads, init_heads
from cmcl_jax.methods.base import active_heads
from cmcl_jax.methods.joint import Joint
from cmcl_jax.methods.vanilla import Vanilla
from cmcl_jax.open_stream import open_stream
from cmcl_jax.stream import Stream
from cmcl_jax.train import _shuffled
from cmcl_jax.train_joint import AllAtOnce, mixed_batches, update_heads
from feature_cache import CacheWriter, Manifest, MediaSource, ModalitySpec, Rows
from tests.streams import training
from tests.tiny_caches import STEPS, WIDTHS, write_tiny_caches

EPOCHS, BATCH, RATE, DECAY = 2, 16, 1e-2, 1e-3
UNEQUAL = {**WIDTHS, "audio": 20, "depth": 9}
MIXED = (*STEPS[:2], ("rooms", ("text", "vision", "depth"), ("recall",)))


def method(**changes: object) -> Joint:
    return Joint(training(**{"epochs": EPOCHS, "batch_size": BATCH, "learning_rate": RATE, **changes}))


def start(stream: Stream, seeds: int = 1) -> tuple[Heads, jax.Array]:
    """Heads of so many seeds, moved off the identity, and keys."""
    rng = np.random.default_rng(0)
    heads = init_heads(jax.random.key(0), stream.widths, dtype=jnp.float64)
    keys = jax.vmap(jax.random.key)(jnp.arange(seeds))
    return jax.tree.map(lambda leaf: leaf + 0.1 * rng.normal(size=(seeds, *leaf.shape)), heads), keys


def learn_stream(joint: Joint, stream: Stream, heads: Heads, keys: jax.Array) -> tuple[Heads, list[np.ndarray]]:
    """The heads after the stream and the losses of every step."""
    learner = AllAtOnce(joint, stream, jnp.dtype(jnp.float64))
    memory, losses = learner.start(heads), []
    for step in stream.steps:
        heads, memory, loss = learner.learn(heads, memory, step, keys)
        losses.append(np.asarray(loss))
    return heads, losses


def loss_of_batch(active: dict, batch: dict) -> jax.Array:
    """Mean over both directions of all pairs."""
    z = [rows @ active[role]["kernel"] + active[role]["bias"] for role, rows in batch.items()]
    log_p = [jax.nn.log_softmax(z_a @ z_b.T, axis=1) for z_a, z_b in itertools.permutations(z, 2)]
    return -sum(jnp.diag(p).mean() for p in log_p) / len(log_p)


def by_hand(stream: Stream, heads: Heads, key: jax.Array) -> tuple[Heads, list[float]]:
    """One seed of joint training as a plain loop, AdamW written out; all losses in the order of the updates."""
    heads = jax.tree.map(lambda leaf: np.array(leaf[0]), heads)
    moments = {m: {name: [np.zeros_like(leaf)] * 2 for name, leaf in head.items()} for m, head in heads.items()}
    updates_of = Counter[str]()
    batches = [-(-stream.rows(step) // BATCH) for step in stream.steps]
    draws, losses = mixed_batches(batches, EPOCHS), []
    for u, (epoch, place, batch) in enumerate(draws):
        step = stream.steps[place]
        features = stream.training_features(step, step.modalities, np.float64)
        order = np.asarray(_shuffled(jax.random.fold_in(jax.random.fold_in(key, step.number), epoch), features, BATCH))
        rows = order[: stream.rows(step)][batch * BATCH : (batch + 1) * BATCH]
        pair = active_heads(heads, step)
        of_batch = {role: of_role[rows] for role, of_role in features.by_role.items()}
        value, gradient = jax.value_and_grad(loss_of_batch)(pair, of_batch)
        losses.append(float(value))
        norm = np.sqrt(sum(np.sum(np.square(leaf)) for leaf in jax.tree.leaves(gradient)))
        for side, modality in step.roles.items():
            updates_of[modality] += 1
            n = updates_of[modality]
            for name, leaf in gradient[side].items():
                g = np.asarray(leaf) * min(1, 1 / (norm + 1e-6))
                first, second = moments[modality][name]
                first, second = 0.9 * first + 0.1 * g, 0.999 * second + 0.001 * g**2
                moments[modality][name] = [first, second]
                change = first / (1 - 0.9**n) / (np.sqrt(second / (1 - 0.999**n)) + 1e-8)
                change = change + (DECAY * heads[modality][name] if name == "kernel" else 0)
                heads[modality][name] = heads[modality][name] - RATE * (1 - u / len(draws)) * change
    return heads, losses


@pytest.mark.parametrize(
    ("widths", "steps"),
    [(WIDTHS, STEPS), (UNEQUAL, STEPS), (WIDTHS, MIXED), (UNEQUAL, MIXED)],
    ids=["equal", "unequal", "three modalities", "three unequal modalities"],
)
def test_joint_training_equals_a_plain_loop_with_adamw_written_out(
    widths: dict[str, int], steps: tuple, tmp_path: Path, x64: None
) -> None:
    write_tiny_caches(tmp_path / "tiny", widths)
    stream = open_stream(steps, tmp_path, "tiny")
    heads, keys = start(stream)
    learned, losses = learn_stream(method(), stream, heads, keys)
    expected, each = by_hand(stream, heads, keys[0])
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x[0], y, atol=1e-10), learned, expected)
    of_steps = np.split(each, np.cumsum([EPOCHS * -(-stream.rows(step) // BATCH) for step in stream.steps])[:-1])
    for loss, of_step in zip(losses, of_steps, strict=True):
        np.testing.assert_allclose(loss[0], of_step.reshape(EPOCHS, -1).mean(axis=1), atol=1e-10)


def test_seeds_side_by_side_train_as_they_do_alone(tiny_caches: Path, x64: None) -> None:
    stream = open_stream(STEPS, tiny_caches, "tiny")
    heads, keys = start(stream, seeds=3)
    together, _ = learn_stream(method(), stream, heads, keys)
    for seed in range(3):
        own = jax.tree.map(operator.itemgetter(slice(seed, seed + 1)), heads)
        alone, _ = learn_stream(method(), stream, own, keys[seed : seed + 1])
        of_seed = jax.tree.map(operator.itemgetter(seed), together)
        jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y[0], atol=1e-12), of_seed, alone)
    kernel = together["vision"]["kernel"] - heads["vision"]["kernel"]
    assert np.abs(kernel[0] - kernel[1]).max() > 1e-3


@pytest.mark.parametrize("batches", [[1], [3, 1, 5], [2, 2]])
def test_an_epoch_has_every_batch_of_every_step_once_in_an_order_of_its_own(batches: list[int]) -> None:
    mixed = mixed_batches(batches, epochs=4)
    every = [(step, batch) for step, count in enumerate(batches) for batch in range(count)]
    orders = [[(s, b) for e, s, b in mixed.tolist() if e == epoch] for epoch in range(4)]
    assert all(sorted(order) == every for order in orders)
    assert mixed[:, 0].tolist() == sorted(mixed[:, 0].tolist())
    assert len(every) < 4 or len(set(map(tuple, orders))) == 4
    np.testing.assert_array_equal(mixed, mixed_batches(batches, epochs=4))


def test_joint_makes_as_many_updates_as_vanilla_and_compiles_one_program_per_pair_of_widths(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, x64: None
) -> None:
    write_tiny_caches(tmp_path / "tiny", {**WIDTHS, "depth": 9})
    stream = open_stream(STEPS, tmp_path, "tiny")  # pairs of widths (12, 12) and (12, 9)
    heads, keys = start(stream)
    of_step: list[int] = []

    def counting(*args: Any) -> Any:
        of_step[-1] += 1
        return update_heads(*args)

    monkeypatch.setattr("cmcl_jax.train_joint.update_heads", counting)
    update_heads.clear_cache()
    joint = method(epochs=3)
    learner = AllAtOnce(joint, stream, jnp.dtype(jnp.float64))
    memory = learner.start(heads)
    for step in stream.steps:
        of_step.append(0)
        heads, memory, _ = learner.learn(heads, memory, step, keys)
    assert of_step == [
        int(Vanilla(joint.training).training.total_updates(stream.training_features(step, step.modalities).rows))
        for step in stream.steps
    ]
    assert int(memory["decay"].updates_done[0]) == int(memory["decay"].total_updates[0]) == sum(of_step)
    assert update_heads._cache_size() == 2


def test_an_update_changes_the_heads_and_moments_of_the_drawn_pair_only(tiny_caches: Path, x64: None) -> None:
    stream = open_stream(STEPS, tiny_caches, "tiny")
    heads, _ = start(stream)
    joint, step = method(), stream.steps[1]  # text and audio
    one_seed = jax.tree.map(lambda leaf: leaf[0], heads)
    memory = joint.init(one_seed, stream.tuples)
    state = joint.before_step(memory, one_seed, step, jnp.asarray(1))
    pair = active_heads(one_seed, step)
    _, state = joint.update(state, jax.tree.map(jnp.ones_like, pair), pair)
    after = joint.after_update(memory, state, step)
    for modality in WIDTHS:
        counts = [int(optax.tree.get(state["adamw"][modality], "count")) for state in (memory, after)]
        assert counts == [0, int(modality in ("text", "audio"))]
        same = jax.tree.map(np.array_equal, memory["adamw"][modality], after["adamw"][modality])
        assert all(jax.tree.leaves(same)) == (modality not in ("text", "audio"))


def test_heads_outside_the_drawn_steps_are_the_same_arrays(tiny_caches: Path, x64: None) -> None:
    stream = open_stream(STEPS[:2], tiny_caches, "tiny")
    heads, keys = start(stream)
    heads |= {"depth": jax.tree.map(jnp.copy, heads["text"])}
    learned, _ = learn_stream(method(), stream, heads, keys)
    assert learned["depth"] is heads["depth"]


def test_a_joint_run_reports_levels_but_no_transfer(tiny_config: ConfigDict, tmp_path: Path) -> None:
    tiny_config.method = "joint"
    summary = run(tiny_config, tmp_path)
    assert summary["bwt_a"]["mean"] is summary["bwt_r10"]["mean"] is summary["forgetting_r10"]["mean"] is None
    assert summary["acc"]["mean"] > summary["zero_shot_acc"]["mean"]
    matrix = np.load(tmp_path / "r10_matrix.npy")
    assert (np.ptp(matrix.mean(axis=(0, 2))[1:]) > 0) and not np.isnan(matrix).any()


def write_conflicting_caches(cache_dir: Path) -> None:
    """Two datasets of one pair whose captions follow from different directions of the pictures, under equal offsets."""
    rng = np.random.default_rng(0)
    for number, dataset in enumerate(("left", "right")):
        rotation = np.linalg.qr(rng.normal(size=(8, 8)))[0]
        manifest = Manifest(
            encoder="made",
            weights_sha256="0" * 64,
            preprocessing_version="1",
            dataset=dataset,
            dataset_version="1",
            dtype="float32",
            synthetic=True,
            sources=(MediaSource("random numbers", "1", "CC0-1.0", "https://numpy.org"),),
            modalities={"vision": ModalitySpec(16, 1.0), "text": ModalitySpec(16, 1.0)},
            classes=(),
        )
        writer = CacheWriter(cache_dir / dataset, manifest)
        for split, count in {"train": 96, "validation": 8, "test": 64}.items():
            items, place = rng.normal(size=(count, 8)), np.zeros((count, 8))
            place[:, number] = 2.0  # a direction of its own, so that one linear head can serve both
            features = {"vision": np.hstack([items, place]), "text": np.hstack([items @ rotation, place])}
            rows = Rows([f"{split}{i}" for i in range(count)], [""] * count, [-1] * count)
            writer.write_shard(split, 0, rows, features)
        writer.finish()


def test_joint_beats_vanilla_where_steps_conflict(tiny_config: ConfigDict, tmp_path: Path) -> None:
    write_conflicting_caches(tmp_path / "caches" / "made")
    tiny_config.update(cache_dir=str(tmp_path / "caches"), encoder="made")
    tiny_config.stream.steps = tuple((name, ("vision", "text"), ("recall",)) for name in ("left", "right"))
    tiny_config.training.epochs = 20
    r1 = {}
    for name in ("vanilla", "joint"):
        tiny_config.method = name
        r1[name] = run(tiny_config, tmp_path / name)["r1"]["mean"]
    first_task = {name: np.load(tmp_path / name / "r1_matrix.npy")[:, -1, 0].mean() for name in r1}
    assert r1["joint"] > r1["vanilla"] + 3
    assert first_task["joint"] > first_task["vanilla"] + 10
