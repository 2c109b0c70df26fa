"""What dual null-space projection promises about old alignments, and where the promise ends."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cmcl_jax.heads import Heads
from cmcl_jax.methods.dns import DualNullSpace
from cmcl_jax.methods.vanilla import Vanilla
from cmcl_jax.train import learn
from tests.streams import MODALITIES, Task, drift, heads_of_one_seed, learn_all, tasks, train_from, training

A, B, C, D = MODALITIES
DNS = DualNullSpace(training(), project="updates", rule="relative", input_threshold=1e-10, output_threshold=1e-10)
pytestmark = pytest.mark.usefixtures("x64")


def moved(before: Heads, after: Heads, modality: str) -> float:
    return float(np.abs(np.asarray(after[modality]["kernel"] - before[modality]["kernel"])).max())


def test_old_alignment_stays_through_the_stream_ab_bc_ad() -> None:
    stream = tasks((A, B), (B, C), (A, D))
    (_, after_ab, after_bc, after_ad) = (heads for heads, _ in learn_all(DNS, stream, heads_of_one_seed()))
    assert drift(after_ab, after_ad, stream[0]) < 1e-10
    assert moved(after_ab, after_bc, B) > 1e-3  # the partner did train in between
    assert moved(after_bc, after_ad, A) > 1e-3  # and so did the head itself
    vanilla = [heads for heads, _ in learn_all(Vanilla(training()), stream, heads_of_one_seed())]
    assert drift(vanilla[1], vanilla[3], stream[0]) > 1e-2


def learn_last_step_as_if_partner_were(partner: Heads, stream: list[Task]) -> float:
    """Drift of (a, b) over (a, d) when the projector of `a` is made with another head of `b` than today's."""
    history = learn_all(DNS, stream, heads_of_one_seed())
    (after_ab, _), (after_bc, memory) = history[1], history[2]
    step, features = stream[2]
    one_seed = lambda tree: jax.tree.map(lambda leaf: leaf[0], tree)  # noqa: E731
    state = DNS.before_step(memory, one_seed({**after_bc, B: partner}), step, features.rows)
    state = jax.tree.map(lambda leaf: leaf[None], state)
    return drift(after_ab, train_from(DNS, after_bc, state, stream[2], jax.random.key(step.number)), stream[0])


def test_a_stale_partner_or_one_without_its_bias_breaks_the_promise() -> None:
    stream = tasks((A, B), (B, C), (A, D))
    history = [heads for heads, _ in learn_all(DNS, stream, heads_of_one_seed())]
    today, stale = history[2][B], history[1][B]
    no_bias = {**today, "bias": jnp.zeros_like(today["bias"])}
    fresh_drift = learn_last_step_as_if_partner_were(today, stream)
    assert fresh_drift < 1e-10
    assert learn_last_step_as_if_partner_were(stale, stream) > 1e-5
    assert learn_last_step_as_if_partner_were(no_bias, stream) > 1e-5


def test_with_both_heads_training_drift_falls_with_the_square_of_the_learning_rate() -> None:
    stream = tasks((A, B), (A, B))
    drifts = []
    first_step = learn_all(DNS, stream, heads_of_one_seed())[1]
    for learning_rate in (1e-3, 1e-4):
        method = dataclasses.replace(DNS, training=training(learning_rate=learning_rate))
        step, features = stream[1]
        learned = learn(method, *first_step, step, features, jax.random.key(2)[None])
        drifts.append(drift(first_step[0], learned.heads, stream[0]))
    assert 80 < drifts[0] / drifts[1] < 120
    assert drifts[0] > 1e-8


def test_one_sided_projection_is_exact_with_both_heads_training() -> None:
    stream = tasks((A, B), (A, B))
    method = dataclasses.replace(DNS, one_sided=True)
    history = [heads for heads, _ in learn_all(method, stream, heads_of_one_seed())]
    assert drift(history[1], history[2], stream[0]) < 1e-10
    assert moved(history[1], history[2], A) > 1e-3


def test_projecting_gradients_before_adam_does_not_keep_the_promise() -> None:
    stream = tasks((A, B), (B, C), (A, D))
    method = dataclasses.replace(DNS, project="gradients")
    history = [heads for heads, _ in learn_all(method, stream, heads_of_one_seed())]
    assert drift(history[1], history[3], stream[0]) > 1e-4


@pytest.mark.parametrize("method", [Vanilla(training()), DNS], ids=["vanilla", "dns"])
def test_heads_outside_the_pair_are_bit_identical(method: Vanilla) -> None:
    stream = tasks((A, B), (B, C))
    before, after = (heads for heads, _ in learn_all(method, stream, heads_of_one_seed())[1:])
    for outside in (A, D):
        jax.tree.map(np.testing.assert_array_equal, before[outside], after[outside])
    assert moved(before, after, B) > 0


def test_the_first_step_of_dns_is_vanilla() -> None:
    stream = tasks((A, B))
    dns, vanilla = (learn_all(m, stream, heads_of_one_seed())[1][0] for m in (DNS, Vanilla(training())))
    jax.tree.map(np.testing.assert_array_equal, dns, vanilla)
