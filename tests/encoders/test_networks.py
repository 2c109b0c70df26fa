"""The networks against independent computations with the same weights."""

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file

from feature_cache.encoders import efficientnet_lite, minilm, yamnet
from feature_cache.encoders.log_mel import log_mel_patches
from feature_cache.encoders.tensor_bundle import read_bundle
from tests.encoders import numpy_networks
from tests.encoders.media import SAMPLES, picture, sound


@pytest.mark.parametrize("name", ["emoji_cat", "grand_piano"])
def test_efficientnet_agrees_with_numpy(name: str) -> None:
    state = torch.load(efficientnet_lite.FILES[0].locate(), weights_only=True)
    weights = {key: value.double().numpy() for key, value in state.items()}
    pixels = efficientnet_lite.square(picture(name))
    logits = numpy_networks.efficientnet_lite0(weights, pixels)
    expected = np.exp(logits) / np.exp(logits).sum()
    actual = efficientnet_lite.EfficientNetLite0().probabilities([pixels])[0]
    np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=1e-9)


@pytest.mark.parametrize("text", ["a cat", "Grand piano, with the lid open; naïve", ""])
def test_minilm_agrees_with_numpy(text: str) -> None:
    weights = {name: value.astype(np.float64) for name, value in load_file(minilm.FILES[0].locate()).items()}
    ids = minilm.tokenize(text)
    actual = minilm.MiniLM().embed([ids])[0]
    np.testing.assert_allclose(actual, numpy_networks.minilm(weights, ids), atol=1e-6)


def test_yamnet_agrees_with_numpy() -> None:
    variables = read_bundle(yamnet.FILES[0].locate().with_suffix(""))
    patch = log_mel_patches(sound("flute"))[:1]
    actual = yamnet.YAMNet().scores([patch])[0]
    np.testing.assert_allclose(actual, numpy_networks.yamnet(variables, patch[0]), rtol=1e-4, atol=1e-9)


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
