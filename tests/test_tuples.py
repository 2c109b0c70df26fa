"""Steps of three and more modalities: the loss, the update, what is remembered, and what DNS promises."""

import dataclasses
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cmcl_jax.heads import Heads, apply_head
from cmcl_jax.losses import all_pairs_info_nce, info_nce
from cmcl_jax.methods.base import Batch, active_heads, pytree_dataclass
from cmcl_jax.methods.dns import DualNullSpace
from cmcl_jax.methods.dns_released import ReleasedDualNullSpace
from cmcl_jax.methods.vanilla import Vanilla
from cmcl_jax.train import learn, train_epochs
from tests.streams import MODALITIES, ROWS, Task, drift, heads_of_one_seed, learn_all, tasks, train_from, training

A, B, C, D = MODALITIES
DNS = DualNullSpace(training(), project="updates", rule="relative", input_threshold=1e-10, output_threshold=1e-10)
pytestmark = pytest.mark.usefixtures("x64")


def cross_entropy(scores: np.ndarray) -> float:
    shifted = scores - scores.max(axis=1, keepdims=True)
    return float(np.mean(np.log(np.exp(shifted).sum(axis=1)) - np.diag(shifted)))


def mean_over_pairs(z: list[np.ndarray], temperature: float, direction: str) -> float:
    losses = []
    for z_a, z_b in itertools.combinations(z, 2):
        scores = z_a @ z_b.T / temperature
        both = (cross_entropy(scores) + cross_entropy(scores.T)) / 2
        losses.append(both if direction == "symmetric" else cross_entropy(scores))
    return float(np.mean(losses))


@settings(max_examples=10, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    modalities=st.integers(2, 5),
    rows=st.integers(1, 7),
    direction=st.sampled_from(["symmetric", "a_to_b"]),
)
def test_the_loss_of_a_tuple_is_the_mean_of_the_losses_of_its_pairs(
    seed: int, modalities: int, rows: int, direction: str
) -> None:
    z = np.random.default_rng(seed).normal(size=(modalities, 7, 4))
    outputs = {role: jnp.asarray(x) for role, x in reversed(list(zip("abcde", z, strict=False)))}
    found = all_pairs_info_nce(outputs, jnp.arange(7) < rows, 0.5, direction)
    np.testing.assert_allclose(found, mean_over_pairs(list(z[:, :rows]), 0.5, direction), atol=1e-12)


def test_a_step_trains_on_the_mean_over_all_pairs_of_its_head_outputs() -> None:
    [(step, features)] = tasks((A, B, C))
    method = Vanilla(training(temperature=3.0))
    active = jax.tree.map(lambda leaf: leaf[0], active_heads(heads_of_one_seed(), step))
    batch = Batch({role: rows[:10] for role, rows in features.by_role.items()}, jnp.arange(10) < 9)

    def by_hand(heads: Heads) -> float:
        z = [
            np.asarray(rows)[:9] @ np.asarray(heads[role]["kernel"]) + np.asarray(heads[role]["bias"])
            for role, rows in batch.by_role.items()
        ]
        return mean_over_pairs(z, 3.0, "symmetric")

    loss, gradients = jax.jit(lambda: method.gradient({}, active, batch))()
    np.testing.assert_allclose(loss, by_hand(active), atol=1e-12)
    for role in "abc":
        direction = np.random.default_rng(1).normal(size=(12, 12))
        ahead, behind = (
            by_hand({**active, role: {**active[role], "kernel": active[role]["kernel"] + step * direction}})
            for step in (1e-6, -1e-6)
        )
        slope = np.sum(np.asarray(gradients[role]["kernel"]) * direction)
        np.testing.assert_allclose(slope, (ahead - behind) / 2e-6, rtol=1e-6)


@pytree_dataclass
class OnePair(Vanilla):
    """Vanilla as it is for two modalities only."""

    def gradient(self, state: object, active: Heads, batch: Batch) -> tuple[jax.Array, Heads]:
        def loss(active: Heads) -> jax.Array:
            z_a, z_b = (apply_head(active[role], batch.by_role[role]) for role in "ab")
            return info_nce(z_a, z_b, batch.valid, self.training.temperature, self.training.direction)

        return jax.value_and_grad(loss)(active)


@pytest.mark.parametrize("direction", ["symmetric", "a_to_b"])
def test_a_tuple_of_two_is_the_pair_bit_for_bit(direction: str) -> None:
    stream = tasks((A, B))
    as_tuple, as_pair = (
        learn_all(method(training(direction=direction)), stream, heads_of_one_seed())[-1][0]
        for method in (Vanilla, OnePair)
    )
    jax.tree.map(np.testing.assert_array_equal, as_tuple, as_pair)


def test_fewer_than_two_modalities_have_no_loss() -> None:
    with pytest.raises(ValueError, match=r"outputs must have two or more modalities, but has \['a'\]"):
        all_pairs_info_nce({"a": jnp.ones((2, 2))}, jnp.ones(2, bool))


@pytest.mark.slow
def test_one_executable_serves_all_steps_of_as_many_modalities() -> None:
    stream = [
        (step, features._replace(rows=jnp.asarray(rows, jnp.int32)))
        for (step, features), rows in zip(tasks((A, B, C), (B, C, D), (A, B), (C, D)), (24, 7, 30, 11), strict=True)
    ]
    train_epochs.clear_cache()
    learn_all(DNS, stream, heads_of_one_seed())
    assert train_epochs._cache_size() == 2


def moved(before: Heads, after: Heads, modality: str) -> float:
    return float(np.abs(np.asarray(after[modality]["kernel"] - before[modality]["kernel"])).max())


@pytest.mark.parametrize(
    ("stream", "partners"),
    [(((A, B, C), (A, D)), "fresh"), (((A, B, C), (B, C, D), (A, D)), "pooled")],
    ids=["abc ad, fresh", "abc bcd ad, pooled"],
)
def test_all_old_alignments_of_a_head_stay_when_it_alone_of_its_tuple_trains(
    stream: tuple[tuple[str, ...], ...], partners: str
) -> None:
    steps = tasks(*stream)
    method = dataclasses.replace(DNS, partners=partners)
    history = [heads for heads, _ in learn_all(method, steps, heads_of_one_seed())]
    vanilla = [heads for heads, _ in learn_all(Vanilla(training()), steps, heads_of_one_seed())]
    assert moved(history[-2], history[-1], A) > 1e-3
    for roles in ("ab", "ac"):
        assert drift(history[-2], history[-1], steps[0], roles) < 1e-10
        assert drift(vanilla[-2], vanilla[-1], steps[0], roles) > 1e-2


def test_a_partner_of_the_tuple_that_is_not_remembered_is_not_protected() -> None:
    stream = tasks((A, B, C), (A, D))
    heads, memory = learn_all(DNS, stream, heads_of_one_seed())[1]
    assert isinstance(memory, dict)
    for forgotten, kept, lost in ((C, "ab", "ac"), (B, "ac", "ab")):
        partial = {pair: known for pair, known in memory.items() if pair != f"{A}-{forgotten}"}
        assert len(partial) == len(memory) - 1
        after = as_if_remembered(partial, heads, stream[1])
        assert drift(heads, after, stream[0], kept) < 1e-10
        assert drift(heads, after, stream[0], lost) > 1e-4


def as_if_remembered(memory: dict, heads: Heads, task: Task) -> Heads:
    """All heads after a step whose projectors are those of another memory."""
    step, features = task
    state = DNS.before_step(memory, jax.tree.map(lambda leaf: leaf[0], heads), step, features.rows)
    state = jax.tree.map(lambda leaf: leaf[None], state)
    return train_from(DNS, heads, state, task, jax.random.key(2))


@pytest.mark.slow
def test_a_tuple_that_is_trained_again_drifts_with_the_square_of_the_learning_rate() -> None:
    stream = tasks((A, B, C), (A, B, C))
    first_step = learn_all(DNS, stream[:1], heads_of_one_seed())[1]
    drifts = []
    for learning_rate in (1e-3, 1e-4):
        method = dataclasses.replace(DNS, training=training(learning_rate=learning_rate))
        learned = learn(method, *first_step, *stream[1], jax.random.key(2)[None])
        drifts.append([drift(first_step[0], learned.heads, stream[0], roles) for roles in ("ab", "ac", "bc")])
    for large, small in zip(*drifts, strict=True):
        assert 80 < large / small < 120


def test_one_sided_projection_keeps_all_pairs_of_a_tuple_with_all_heads_training() -> None:
    stream = tasks((A, B, C), (A, B, C))
    history = [h for h, _ in learn_all(dataclasses.replace(DNS, one_sided=True), stream, heads_of_one_seed())]
    for roles, modality in (("ab", A), ("ac", B), ("bc", C)):
        assert drift(history[1], history[2], stream[0], roles) < 1e-10
        assert moved(history[1], history[2], modality) > 1e-3


def test_the_memory_of_the_released_mode_takes_the_mean_over_partners() -> None:
    [(step, features)] = tasks((A, B, C))
    method = ReleasedDualNullSpace(training(), "gradients", "absolute", 0.01, 0.0)
    heads = jax.tree.map(lambda leaf: leaf[0], heads_of_one_seed())
    memory = method.after_step(method.init(heads, step.pairs), heads, step, features)
    rows = {modality: np.asarray(features.by_role[role])[:ROWS] for role, modality in step.roles.items()}
    outputs = {modality: x @ np.asarray(heads[modality]["kernel"]) for modality, x in rows.items()}
    for modality in step.modalities:
        partners = [z.T @ z / ROWS for other, z in outputs.items() if other != modality]
        np.testing.assert_allclose(memory["partner_outputs"][modality], np.mean(partners, axis=0), atol=1e-12)
        np.testing.assert_allclose(memory["inputs"][modality], rows[modality].T @ rows[modality] / ROWS, atol=1e-12)
    assert not np.any(memory["inputs"][D])
