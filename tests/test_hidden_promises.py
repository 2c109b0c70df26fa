"""What DNS promises for heads with hidden layers: all that it promises for linear ones, and where it ends."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jaxtyping import PyTree

from cmcl_jax.heads import Heads
from cmcl_jax.methods import Method
from cmcl_jax.methods.base import pytree_dataclass
from cmcl_jax.methods.dns_hidden import HiddenDualNullSpace
from cmcl_jax.methods.dns_partners import PARTNERS
from cmcl_jax.methods.vanilla import Vanilla
from cmcl_jax.train import learn
from tests.streams import (
    MODALITIES,
    ROWS,
    Task,
    drift,
    entering_layers,
    heads_of_one_seed,
    learn_all,
    tasks,
    training,
)

A, B, C, D = MODALITIES
HIDDEN = (16, 20)
LAYERS = ("hidden_0", "hidden_1", "output")
DNS = HiddenDualNullSpace(training(), project="updates", rule="relative", input_threshold=1e-12, output_threshold=1e-12)
pytestmark = pytest.mark.usefixtures("x64")


def few_rows(*steps: tuple[str, ...]) -> list[Task]:
    """Steps of 5 distinct rows, or what heads with hidden layers make of them would span all outputs."""
    pick = lambda rows: rows[jnp.arange(len(rows)) % 5]  # noqa: E731
    return [(step, features._replace(by_role=jax.tree.map(pick, features.by_role))) for step, features in tasks(*steps)]


def start() -> Heads:
    return heads_of_one_seed(hidden=HIDDEN)


def moved(before: Heads, after: Heads, modality: str) -> float:
    """By how much the kernel moved that moved least."""
    change = lambda layer: np.abs(np.asarray(after[modality][layer]["kernel"] - before[modality][layer]["kernel"]))  # noqa: E731
    return min(float(change(layer).max()) for layer in LAYERS)


@functools.cache
def history(method: Method) -> list[Heads]:
    """Heads before the stream (a, b), (b, c), (a, d) and after each step."""
    return [heads for heads, _ in learn_all(method, few_rows((A, B), (B, C), (A, D)), start())]


def drift_of_first_pair(method: Method) -> float:
    """Of the first step's alignments over the other two, in each of which one of its heads trains on, in all layers."""
    heads = history(method)
    assert moved(heads[1], heads[2], B) > 1e-3
    assert moved(heads[2], heads[3], A) > 1e-3
    return drift(heads[1], heads[3], few_rows((A, B))[0])


SLOW_PARTNERS = [name if name == "fresh" else pytest.param(name, marks=pytest.mark.slow) for name in PARTNERS]


@pytest.mark.parametrize("partners", SLOW_PARTNERS)
def test_old_alignments_stay_while_each_head_trains_on_if_partners_are_those_of_today(partners: str) -> None:
    found = drift_of_first_pair(dataclasses.replace(DNS, partners=partners))
    assert found > 1e-6 if partners == "stale" else found < 1e-10


def test_without_protection_old_alignments_drift() -> None:
    assert drift_of_first_pair(Vanilla(training())) > 1e-2


@pytest.mark.slow
def test_protecting_the_output_layer_alone_does_not_keep_the_promise() -> None:
    @pytree_dataclass
    class OutputLayerAlone(HiddenDualNullSpace):
        def before_step(self, memory: PyTree, heads: Heads, *args: Any) -> PyTree:
            forgotten = jax.tree.map(jnp.zeros_like, memory["hidden"])
            return super().before_step({**memory, "hidden": forgotten}, heads, *args)

    method = OutputLayerAlone(**{field.name: getattr(DNS, field.name) for field in dataclasses.fields(DNS)})
    assert drift_of_first_pair(method) > 1e-3


@pytest.mark.slow
@pytest.mark.parametrize(("project", "biases"), [("exact", "leafwise"), ("updates", "stacked"), ("updates", "free")])
def test_every_form_that_protects_biases_keeps_old_alignments(project: str, biases: str) -> None:
    found = drift_of_first_pair(dataclasses.replace(DNS, project=project, biases=biases))
    assert found > 1e-4 if biases == "free" else found < 1e-10


def drift_of_the_same_pair(learning_rate: float, one_sided: bool) -> float:
    """Of (a, b) over a second step of (a, b) on other rows, with both heads training."""
    stream = few_rows((A, B), (A, B))
    first = learn_all(DNS, stream[:1], start())[1]
    method = dataclasses.replace(DNS, training=training(learning_rate=learning_rate), one_sided=one_sided)
    step, features = stream[1]
    learned = learn(method, *first, step, features, jax.random.key(2)[None])
    assert moved(first[0], learned.heads, A) > learning_rate / 10
    return drift(first[0], learned.heads, stream[0])


def test_with_both_heads_training_drift_falls_with_the_square_of_the_learning_rate() -> None:
    large, small = (drift_of_the_same_pair(rate, one_sided=False) for rate in (1e-3, 1e-4))
    assert 80 < large / small < 120
    assert large > 1e-8


def test_one_sided_is_exact_with_both_heads_training() -> None:
    assert drift_of_the_same_pair(1e-2, one_sided=True) < 1e-10


def test_the_first_step_of_dns_is_vanilla() -> None:
    dns, vanilla = history(DNS), history(Vanilla(training()))
    jax.tree.map(np.testing.assert_array_equal, dns[1], vanilla[1])
    assert any(np.any(a != b) for a, b in zip(*map(jax.tree.leaves, (dns[2], vanilla[2])), strict=True))


def test_memories_are_the_moments_of_what_entered_each_layer() -> None:
    stream = few_rows((A, B), (A, C))
    heads_of = [jax.tree.map(lambda leaf: leaf[0], heads_of_one_seed(seed, HIDDEN)) for seed in (0, 1)]
    memory = DNS.init(heads_of[0], [(A, B), (A, C)])
    entered = []
    for (step, features), today in zip(stream, heads_of, strict=True):
        memory = DNS.after_step(memory, today, step, features)
        [role] = [role for role, modality in step.roles.items() if modality == A]
        entered.append(entering_layers(today[A], np.asarray(features.by_role[role])[:ROWS]))
    for layer in LAYERS[:-1]:
        both = np.concatenate([inputs[layer] for inputs in entered])
        of_layer = memory["hidden"][A][layer].inputs
        np.testing.assert_allclose(of_layer.moment, both.T @ both / len(both), atol=1e-12)
        assert float(of_layer.rows) == 2 * ROWS
    for other, inputs in zip((B, C), entered, strict=True):
        of_pair = memory["output"][f"{A}-{other}"][A]
        np.testing.assert_allclose(of_pair.moment, inputs["output"].T @ inputs["output"] / ROWS, atol=1e-12)
        np.testing.assert_allclose(of_pair.mean, inputs["output"].mean(axis=0), atol=1e-12)
