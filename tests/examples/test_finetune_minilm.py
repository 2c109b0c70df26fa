"""The example that fine-tunes MiniLM: its network, its memory, its training, its command."""

import doctest
import subprocess
import sys
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file

from cmcl_jax import NullSpaceProjector
from examples.minilm import cli, texts, weights
from examples.minilm.data import Pairs
from examples.minilm.experiment import PLAIN, Data, Run, experiment
from examples.minilm.measuring import cosines, drift, recall_at_10
from examples.minilm.model import Activations, MiniLM, SentenceOutput, Shape
from examples.minilm.remembering import protection, ranks, remember
from examples.minilm.training import Settings, embed, fit
from feature_cache.encoders.pocket import minilm
from feature_cache.errors import WeightsError
from tests.encoders import numpy_networks

TINY = Shape(vocabulary=9, positions=5, segments=2, layers=2, width=8, heads=2, hidden=12)
CAPTIONS = ["a cat", "Grand piano, with the lid open; naïve", "", "fog " * 9]
SETTINGS = Settings(epochs=30, batch=3, learning_rate=1e-2, temperature=0.1)


@pytest.fixture(scope="module")
def params() -> dict[str, Any]:
    return weights.load_params()


def random_pairs(seed: int, texts: int = 3, width: int = 16, hidden: int = 24) -> Pairs:
    """Texts of one to three tokens; where there is no token, there is garbage."""
    rng = np.random.default_rng(seed)
    mask = np.arange(3) < 1 + np.arange(texts)[:, None] % 3
    inputs = np.where(mask[:, :, None], rng.normal(size=(texts, 3, hidden)), 1e3)
    seen = Activations(*map(jnp.asarray, (inputs, rng.normal(size=(texts, 3, width)), mask)))
    partners = rng.normal(size=(texts, width))
    partners /= np.linalg.norm(partners, axis=1, keepdims=True)
    return Pairs(seen, jnp.asarray(partners), jnp.arange(texts))


def random_sentence(pairs: Pairs) -> dict[str, Any]:
    module = SentenceOutput(pairs.partners.shape[1])
    found: dict[str, Any] = module.init(jax.random.key(1), pairs.seen)["params"]
    return jax.tree.map(lambda leaf: leaf.astype(pairs.partners.dtype), found)


def test_the_network_agrees_with_numpy(params: dict[str, Any]) -> None:
    file = load_file(minilm.FILES[0].locate())
    exact = {name: tensor.astype(np.float64) for name, tensor in file.items()}
    ids, mask = texts.padded(CAPTIONS)
    actual = jax.jit(MiniLM().apply)({"params": params}, ids, mask)
    expected = [numpy_networks.minilm(exact, row[there]) for row, there in zip(ids, mask, strict=True)]
    np.testing.assert_allclose(actual, expected, atol=1e-5, rtol=0)


@pytest.mark.slow
def test_the_network_agrees_with_the_encoder_that_made_the_caches(params: dict[str, Any]) -> None:
    expected = minilm.MiniLM().embed([minilm.tokenize(text) for text in CAPTIONS])
    actual = embed(params["sentence"], texts.activations(params, CAPTIONS))
    np.testing.assert_allclose(actual, expected, atol=1e-5, rtol=0)


def test_every_number_of_the_file_is_in_the_tree_or_listed_as_unused(params: dict[str, Any]) -> None:
    file = load_file(minilm.FILES[0].locate())
    unused = [file[name].size for name in weights.UNUSED]
    assert sum(leaf.size for leaf in jax.tree.leaves(params)) + sum(unused) == sum(t.size for t in file.values())


def tiny_tensors() -> dict[str, np.ndarray]:
    """A file of a network of the size TINY, each tensor filled with a number of its own."""
    paths = weights._expected(TINY)
    return {
        weights.bert_name(path, TINY): np.full(like.shape[::-1] if path[-1] == "kernel" else like.shape, i, np.float32)
        for i, (path, like) in enumerate(paths.items())
    }


def test_each_tensor_goes_to_one_place_only() -> None:
    tree = weights.params_from(tiny_tensors(), TINY, Path("file"))
    values = [float(leaf.ravel()[0]) for leaf in jax.tree.leaves(tree)]
    assert sorted(values) == list(range(len(values)))
    assert tree["layer_0"]["output"]["kernel"].shape == (TINY.hidden, TINY.width)


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda file: file.pop("encoder.layer.1.output.dense.weight"), "no tensor encoder.layer.1.output.dense.weight"),
        (lambda file: file.update({"encoder.layer.2.x": np.zeros(1)}), "1 tensors .* such as encoder.layer.2.x"),
        (
            lambda file: file.update({"encoder.layer.0.output.dense.bias": np.zeros(3)}),
            r"dense.bias is of shape \(3,\)",
        ),
    ],
)
def test_a_file_of_another_network_is_refused(change: Any, message: str) -> None:
    file = tiny_tensors()
    change(file)
    with pytest.raises(WeightsError, match=message):
        weights.params_from(file, TINY, Path("file"))


@pytest.mark.parametrize("module", [weights, texts])
def test_examples_in_docstrings_hold(module: Any) -> None:
    failed, tried = doctest.testmod(module)
    assert tried > 0 and failed == 0


def test_memories_are_of_tokens_not_of_padding(x64: None) -> None:
    pairs = random_pairs(0)  # 3 texts, far fewer than a batch of captions
    memory = remember(random_sentence(pairs), pairs, seed=0)["output"]
    tokens = np.asarray(pairs.seen.inputs)[np.asarray(pairs.seen.mask)]
    assert memory.inputs.rows == len(tokens) == 6
    np.testing.assert_allclose(memory.inputs.moment, tokens.T @ tokens / 6, rtol=1e-12)


def test_directions_are_where_cosines_move(x64: None) -> None:
    pairs = random_pairs(1, texts=1)
    sentence = random_sentence(pairs)
    memory = remember(sentence, pairs, seed=0)["output"]

    def cosine(bias: np.ndarray) -> float:
        moved = {**sentence, "output": {**sentence["output"], "bias": jnp.asarray(bias)}}
        return float(cosines(moved, pairs)[0, 0])

    step = 1e-5 * np.eye(16)
    slope = np.array([(cosine(row) - cosine(-row)) / 2e-5 for row in step])
    np.testing.assert_allclose(memory.outputs.moment, np.outer(slope, slope), atol=1e-8)
    assert np.abs(slope).max() > 1e-3


def test_one_sided_protection_of_all_directions_keeps_remembered_embeddings(x64: None) -> None:
    old, new = random_pairs(0), random_pairs(2)
    sentence = random_sentence(old)
    protect = protection(remember(sentence, old, seed=0), 1 - 1e-12, one_sided=True)
    assert ranks(protect) == (6, 16)  # as many as there are tokens, of 24
    after = fit(sentence, new, SETTINGS, 0, "updates", protect)
    plain = fit(sentence, new, SETTINGS, 0)
    assert drift(sentence, after, old) < 1e-12 < 1e-2 < drift(sentence, plain, old)
    assert jnp.abs(embed(sentence, new.seen) - embed(after, new.seen)).max() > 1e-2  # it did learn


@pytest.mark.parametrize("project", ["updates", "exact"])
def test_two_sided_drift_is_of_second_order(x64: None, project: str) -> None:
    old, new = random_pairs(3, texts=2), random_pairs(2)
    sentence = random_sentence(old)
    protect = protection(remember(sentence, old, seed=0), 1 - 1e-12)
    # 3 tokens, 2 partners: 2 directions at the text of one token; 3 at that of two, where the unit norm ties them.
    assert ranks(protect) == (3, 5)
    once = Settings(epochs=1, batch=3, temperature=0.1)

    def moved(rate: float, protect: NullSpaceProjector | None) -> float:
        used = None if protect is None else project
        after = fit(sentence, new, once._replace(learning_rate=rate), 0, used, protect)
        return float(drift(sentence, after, old))

    assert moved(1e-3, None) / moved(1e-4, None) == pytest.approx(10, rel=0.1)
    assert moved(1e-3, protect) / moved(1e-4, protect) == pytest.approx(100, rel=0.1)


def test_only_the_layer_trains_and_full_protection_freezes_it(x64: None) -> None:
    new = random_pairs(2)
    sentence = random_sentence(new)
    plain = fit(sentence, new, SETTINGS, 0)
    assert (plain["output_norm"]["scale"] == sentence["output_norm"]["scale"]).all()
    assert jnp.abs(plain["output"]["kernel"] - sentence["output"]["kernel"]).max() > 1e-3
    frozen = fit(sentence, new, SETTINGS, 0, "updates", NullSpaceProjector(jnp.eye(24), jnp.eye(16)))
    jax.tree.map(np.testing.assert_array_equal, frozen, sentence)


def test_a_batch_larger_than_the_split_is_refused() -> None:
    pairs = random_pairs(0)
    with pytest.raises(ValueError, match="batch is 64, but there are 3 pairs"):
        fit(random_sentence(pairs), pairs, Settings(), 0)


def test_recall_counts_any_item_of_the_same_caption() -> None:
    pairs = random_pairs(4, texts=30)._replace(groups=jnp.arange(30) // 2)
    sentence = random_sentence(pairs)
    scores = np.asarray(cosines(sentence, pairs))
    same = np.arange(30)[:, None] // 2 == np.arange(30) // 2
    found = [same[i][np.argsort(-side[i])[:10]].any() for side in (scores, scores.T) for i in range(30)]
    assert float(recall_at_10(sentence, pairs)) == pytest.approx(100 * np.mean(found))


def test_the_experiment_measures_drift_since_the_old_task_was_learned(x64: None) -> None:
    old, new = random_pairs(0), random_pairs(2)
    data = Data(old, old, new, new, new)
    runs = (PLAIN, Run("all", "updates", (1.0, 1.0)))
    before, learned, plain, kept = experiment(random_sentence(old), data, SETTINGS, seed=0, runs=runs)
    assert before.drift == learned.drift == 0
    assert kept.ranks[0] >= 6 and plain.drift > 10 * kept.drift


@pytest.mark.slow
def test_the_command_prints_a_table_and_what_was_measured(capsys: pytest.CaptureFixture[str]) -> None:
    cli.main(["--epochs=2", "--limit=64", "--batch=32"])
    printed = capsys.readouterr().out
    rows = {line[:18].strip(): line[18:].split() for line in printed.splitlines()}
    drifts = {name: float(rows[name][-3]) for name in ("plain", "DNS exact 90 %", "DNS 1-sided 100 %")}
    assert drifts["DNS 1-sided 100 %"] < 1e-4 < drifts["DNS exact 90 %"] < drifts["plain"] / 2
    assert "Measured (one seed): while the layer learned instruments, R@10 of held-out" in " ".join(printed.split())


@pytest.mark.slow
def test_it_runs_as_a_file_from_anywhere_without_torch(tmp_path: Path) -> None:
    script = Path(cli.__file__).parents[1] / "finetune_minilm.py"
    code = f"""
import runpy, sys
sys.modules["torch"] = None  # an import of it fails
sys.argv = ["finetune_minilm.py", "--help"]
runpy.run_path({str(script)!r}, run_name="__main__")
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert "--learning_rate" in done.stdout


@pytest.mark.slow
def test_the_command_says_what_is_wrong() -> None:
    with pytest.raises(SystemExit, match="finetune_minilm: .*batch is 64, but there are 8 pairs"):
        cli.main(["--limit=8"])
