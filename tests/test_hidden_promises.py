"""What DNS promises for heads with hidden layers: all that it promises for linear ones, and where it ends."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jaxtyping import PyTree

from cmcl_jax.heads import Heads
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


def drifts(history: list[tuple[Heads, PyTree]], stream: list[Task]) -> list[float]:
    """Of the first two steps' alignments over the stream (a, b), (b, c), (a, d)."""
    heads = [heads for heads, _ in history]
    return [drift(heads[1], heads[3], stream[0]), drift(heads[2], heads[3], stream[1])]


@pytest.mark.parametrize("partners", PARTNERS)
def test_old_alignments_stay_while_their_heads_train_on_and_partners_are_those_of_today(partners: str) -> None:
    stream = few_rows((A, B), (B, C), (A, D))
    history = learn_all(dataclasses.replace(DNS, partners=partners), stream, start())
    if partners == "stale":
        assert drifts(history, stream)[0] > 1e-6
    else:
        assert max(drifts(history, stream)) < 1e-10
    assert moved(history[1][0], history[2][0], B) > 1e-3  # the partner did train in between, all of its layers
    assert moved(history[2][0], history[3][0], A) > 1e-3  # and so did the head itself


def test_without_protection_old_alignments_drift() -> None:
    stream = few_rows((A, B), (B, C), (A, D))
    assert drifts(learn_all(Vanilla(training()), stream, start()), stream)[0] > 1e-2


def test_protecting_the_output_layer_alone_does_not_keep_the_promise() -> None:
    class OutputLayerAlone(HiddenDualNullSpace):
        def before_step(self, memory: PyTree, heads: Heads, *args: object) -> PyTree:
            forgotten = jax.tree.map(jnp.zeros_like, memory["hidden"])
            return super().before_step({**memory, "hidden": forgotten}, heads, *args)

    stream = few_rows((A, B), (B, C), (A, D))
    method = OutputLayerAlone(**{field.name: getattr(DNS, field.name) for field in dataclasses.fields(DNS)})
    assert drifts(learn_all(method, stream, start()), stream)[0] > 1e-3


@pytest.mark.parametrize(("project", "biases"), [("exact", "leafwise"), ("updates", "stacked"), ("updates", "free")])
def test_every_form_that_protects_biases_keeps_old_alignments(project: str, biases: str) -> None:
    stream = few_rows((A, B), (B, C), (A, D))
    history = learn_all(dataclasses.replace(DNS, project=project, biases=biases), stream, start())
    if biases == "free":
        assert max(drifts(history, stream)) > 1e-4
    else:
        assert max(drifts(history, stream)) < 1e-10
    assert moved(history[2][0], history[3][0], A) > 1e-3


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
    stream = few_rows((A, B))
    dns, vanilla = (learn_all(m, stream, start())[1][0] for m in (DNS, Vanilla(training())))
    jax.tree.map(np.testing.assert_array_equal, dns, vanilla)


def test_memories_are_the_moments_of_what_entered_each_layer() -> None:
    stream = few_rows((A, B), (A, C))
    history = learn_all(DNS, stream, start())
    memory = history[2][1]
    entered = []
    for (step, features), (heads, _) in zip(stream, history[1:], strict=True):
        head = jax.tree.map(lambda leaf: np.asarray(leaf)[0], heads[A])
        [role] = [role for role, modality in step.roles.items() if modality == A]
        entered.append(entering_layers(head, np.asarray(features.by_role[role])[:ROWS]))
    for layer in LAYERS[:-1]:
        both = np.concatenate([inputs[layer] for inputs in entered])
        of_layer = memory["hidden"][A][layer].inputs
        np.testing.assert_allclose(of_layer.moment[0], both.T @ both / len(both), atol=1e-12)
        assert float(of_layer.rows[0]) == 2 * ROWS
    for other, inputs in zip((B, C), entered, strict=True):
        of_pair = memory["output"][f"{A}-{other}"][A]
        np.testing.assert_allclose(of_pair.moment[0], inputs["output"].T @ inputs["output"] / ROWS, atol=1e-12)
        np.testing.assert_allclose(of_pair.mean[0], inputs["output"].mean(axis=0), atol=1e-12)
