"""Class texts in the memory: what they are for, and how they get there."""

import dataclasses
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cmcl_jax.heads import Heads
from cmcl_jax.methods.dns import DualNullSpace
from cmcl_jax.methods.dns_partners import PARTNERS
from cmcl_jax.open_stream import open_stream
from cmcl_jax.runs import RunAxis
from cmcl_jax.stream import Step, Stream
from tests.streams import MODALITIES, ROWS, WIDTH, heads_of_one_seed, learn_all, tasks, training
from tests.tiny_caches import STEPS

VISION, TEXT, AUDIO, DEPTH = MODALITIES
DNS = DualNullSpace(
    training(), project="updates", rule="relative", input_threshold=1e-10, output_threshold=1e-10, class_texts=True
)


def class_scores(heads: Heads, pictures: np.ndarray, texts: np.ndarray) -> np.ndarray:
    vision, text = (jax.tree.map(lambda leaf: np.asarray(leaf)[0], heads[m]) for m in (VISION, TEXT))
    return (pictures @ vision["kernel"] + vision["bias"]) @ (texts @ text["kernel"] + text["bias"]).T


def drift_of_class_scores(remembered: bool) -> float:
    """Relative change of the old pictures' scores to class texts unlike any caption, after either head trained on."""
    stream = tasks((VISION, TEXT), (TEXT, AUDIO), (VISION, DEPTH))
    texts = np.random.default_rng(5).normal(size=(2, WIDTH))
    step, features = stream[0]
    if remembered:
        stream[0] = (step, features._replace(class_texts=jnp.asarray(texts)))
    after = [heads for heads, _ in learn_all(DNS, stream, heads_of_one_seed())]
    pictures = np.asarray(features.by_role["a"])[:ROWS]
    old, new = (class_scores(heads, pictures, texts) for heads in (after[1], after[3]))
    return float(np.linalg.norm(new - old) / np.linalg.norm(old))


def test_scores_of_old_pictures_to_remembered_class_texts_stay(x64: None) -> None:
    assert drift_of_class_scores(remembered=True) < 1e-10
    assert drift_of_class_scores(remembered=False) > 1e-4


@pytest.mark.parametrize("partners", PARTNERS)
def test_each_class_counts_as_one_row_of_text_and_of_the_partners_outputs(partners: str, x64: None) -> None:
    [(step, features)] = tasks((VISION, TEXT))
    texts = np.random.default_rng(5).normal(size=(3, WIDTH))
    method = dataclasses.replace(DNS, partners=partners)
    heads = jax.tree.map(lambda leaf: leaf[0], heads_of_one_seed())
    memory = method.init(heads, step.pairs)
    memory = method.after_step(memory, heads, step, features._replace(class_texts=jnp.asarray(texts)))
    rows = np.concatenate([np.asarray(features.by_role["b"])[:ROWS], texts])
    (of_text,), _ = PARTNERS[partners].met(memory, heads, TEXT)
    assert float(of_text.rows) == ROWS + 3
    np.testing.assert_allclose(of_text.moment, rows.T @ rows / len(rows), atol=1e-12)
    (of_vision,), [(partner, _)] = PARTNERS[partners].met(memory, heads, VISION)
    assert (float(of_vision.rows), float(partner.rows)) == (ROWS, ROWS + 3)


def what_is_remembered(method: DualNullSpace, stream: Stream, step: Step, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The features that a run's step hands to `after_step`."""
    given: dict[str, Any] = {}
    monkeypatch.setattr("cmcl_jax.train.learn", lambda *args, **kwargs: given.update(kwargs))
    learner = method.learner(stream, jnp.float32, RunAxis.default())
    learner.learn({}, {}, step, jax.random.split(jax.random.key(0), 2))
    return given["remembered"]


def test_a_run_remembers_the_classes_by_which_a_step_is_measured(
    tiny_caches: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stream = open_stream(STEPS, str(tiny_caches), "tiny")
    by_accuracy, by_recall_alone = stream.steps[0], stream.steps[2]
    found = what_is_remembered(DNS, stream, by_accuracy, monkeypatch)
    np.testing.assert_array_equal(found.class_texts, stream.caches["birds"].class_features)
    np.testing.assert_array_equal(found.by_role["b"][:40], stream.caches["birds"].features("train", "text"))
    assert what_is_remembered(DNS, stream, by_recall_alone, monkeypatch).class_texts is None
    not_asked = dataclasses.replace(DNS, class_texts=False)
    assert what_is_remembered(not_asked, stream, by_accuracy, monkeypatch).class_texts is None


def test_a_step_measured_by_two_label_sets_has_the_texts_of_both() -> None:
    stream = open_stream((("instruments", ("text", "audio"), ("accuracy", "open_accuracy")),), "caches", "pocketbind")
    cache = stream.caches["instruments"]
    assert (len(cache.class_names), len(cache.open_class_names)) == (128, 16)
    found = np.asarray(stream.class_texts(stream.steps[0]))
    np.testing.assert_array_equal(found[:128], np.asarray(cache.class_features, np.float32))
    np.testing.assert_array_equal(found[128:], np.asarray(cache.open_class_features, np.float32))
