"""The networks against independent computations with the same weights."""

import numpy as np
import onnx
import pytest
import torch
from safetensors.numpy import load_file

from feature_cache.encoders.pocket import efficientnet_lite, minilm, paraphrase, yamnet
from feature_cache.encoders.pocket.efficientnet_lite import LITE0, LITE2, Variant
from feature_cache.encoders.pocket.log_mel import log_mel_patches
from feature_cache.encoders.pocket.tensor_bundle import read_bundle
from tests.encoders import numpy_networks
from tests.encoders.media import SAMPLES, picture, sound


@pytest.mark.parametrize("variant, repeats", [(LITE0, (1, 2, 2, 3, 3, 4, 1)), (LITE2, (1, 3, 3, 4, 4, 5, 1))])
@pytest.mark.parametrize("name", ["emoji_cat", "grand_piano"])
def test_efficientnet_agrees_with_numpy(variant: Variant, repeats: tuple[int, ...], name: str) -> None:
    state = torch.load(variant.weights.locate(), weights_only=True)
    weights = {key: value.double().numpy() for key, value in state.items()}
    pixels = np.array(efficientnet_lite.square(picture(name), variant.size))
    pooled, logits = numpy_networks.efficientnet_lite(weights, pixels, repeats)
    network = efficientnet_lite.EfficientNetLite(variant)
    expected = np.exp(logits) / np.exp(logits).sum()
    np.testing.assert_allclose(network.probabilities(pixels[None])[0], expected, rtol=2e-4, atol=1e-9)
    np.testing.assert_allclose(network.pooled(pixels[None])[0], pooled, atol=1e-4)


@pytest.mark.parametrize("text", ["a cat", "Grand piano, with the lid open; naïve", ""])
def test_minilm_agrees_with_numpy(text: str) -> None:
    weights = {name: value.astype(np.float64) for name, value in load_file(minilm.FILES[0].locate()).items()}
    ids = minilm.tokenize(text)
    actual = minilm.MiniLM().embed([ids])[0]
    np.testing.assert_allclose(actual, numpy_networks.minilm(weights, ids), atol=1e-6)


@pytest.mark.parametrize("text", ["a cat", "Grand piano, with the lid open; naïve", ""])
def test_paraphrase_minilm_agrees_with_numpy(text: str) -> None:
    weights = onnx_weights()
    ids = paraphrase.tokenize(text)
    actual = paraphrase.ParaphraseMiniLM().embed([ids])[0]
    np.testing.assert_allclose(actual, numpy_networks.minilm(weights, ids), atol=1e-6)


def onnx_weights() -> dict[str, np.ndarray]:
    """The file's initializers under BERT's names; a matrix has none of its own, so it takes that of its bias."""
    graph = onnx.load(paraphrase.FILES[0].locate()).graph
    values = {tensor.name: onnx.numpy_helper.to_array(tensor).astype(np.float64) for tensor in graph.initializer}
    products = {node.output[0]: node.input[1] for node in graph.node if node.op_type == "MatMul"}
    for node in graph.node:
        bias, product = node.input if node.op_type == "Add" else ("", "")
        if bias.endswith(".bias") and product in products:
            values[bias.removesuffix("bias") + "weight"] = values[products[product]].T
    return {name.removeprefix("model.0.auto_model."): value for name, value in values.items()}


def test_both_sentence_encoders_read_the_same_vocabulary() -> None:
    ours = onnx_weights()["embeddings.word_embeddings.weight"][2000:5000]
    reference = load_file(minilm.FILES[0].locate())["embeddings.word_embeddings.weight"][2000:5000]
    assert (nearest_words(ours) == nearest_words(reference)).mean() > 0.6  # by chance 1 of 3000


def nearest_words(table: np.ndarray) -> np.ndarray:
    centred = table - table.mean(0)
    units = centred / np.linalg.norm(centred, axis=1, keepdims=True)
    return (units @ units.T - 2 * np.eye(len(units))).argmax(1)


def test_yamnet_agrees_with_numpy() -> None:
    variables = read_bundle(yamnet.FILES[0].locate().with_suffix(""))
    patch = log_mel_patches(sound("flute"))[:1]
    network = yamnet.YAMNet()
    pooled, scores = numpy_networks.yamnet(variables, patch[0])
    np.testing.assert_allclose(network.scores([patch])[0], scores, rtol=1e-4, atol=1e-9)
    np.testing.assert_allclose(network.pooled([patch])[0], pooled, atol=1e-4)


def test_yamnet_agrees_with_its_saved_model_run_by_tensorflow() -> None:
    expected = np.load(SAMPLES / "guitar_yamnet_tensorflow.npy")
    patches = log_mel_patches(sound("guitar"))
    network = yamnet.YAMNet()
    actual = np.concatenate([network.scores([patch[None]]) for patch in patches])
    mean = network.scores([patches])
    np.testing.assert_allclose(actual, expected, rtol=1e-3, atol=1e-6)
    np.testing.assert_allclose(mean[0], expected.mean(0), rtol=1e-3, atol=1e-6)


def test_word_pieces_are_those_of_the_vocabulary() -> None:
    vocabulary = minilm.FILES[0].locate().with_name("vocab.txt").read_text(encoding="utf-8").splitlines()
    pieces = [vocabulary[token] for token in minilm.tokenize("The Marimba's tabby cats")]
    assert pieces == ["[CLS]", "the", "mari", "##mba", "'", "s", "tab", "##by", "cats", "[SEP]"]


def test_a_long_text_is_cut_to_the_models_length() -> None:
    assert len(minilm.tokenize("cat " * 1000)) == minilm.MAX_TOKENS
    assert len(paraphrase.tokenize("cat " * 1000)) == paraphrase.MAX_TOKENS
    assert paraphrase.tokenize("cat " * 1000)[-1] == minilm.tokenize("cat")[-1]
