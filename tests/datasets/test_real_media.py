"""A photograph of a cat is nearest to the word, and so on: the encoder on media that nobody drew or synthesized."""

from pathlib import Path

import numpy as np
import pytest
import soundfile
from PIL import Image

from feature_cache.datasets.base import Raw, Waveform
from feature_cache.encoders.pocketbind import PocketBind

pytestmark = pytest.mark.slow

SAMPLES = Path(__file__).parents[1] / "samples"
TEXTS = ["a cat", "a dog", "a cup of coffee", "a truck", "a crow cawing", "a piano", "rain", "a guitar"]


@pytest.fixture(scope="module")
def pocketbind() -> PocketBind:
    return PocketBind("cpu")


def nearest_text(encoder: PocketBind, modality: str, raw: Raw) -> str:
    texts = encoder.embed("text", [encoder.preprocess("text", text) for text in TEXTS])
    medium = encoder.embed(modality, [encoder.preprocess(modality, raw)])
    return TEXTS[int(np.argmax(texts @ medium[0]))]


@pytest.mark.parametrize("name, expected", [("cat", "a cat"), ("coffee", "a cup of coffee")])
def test_a_photograph_is_nearest_to_what_it_shows(pocketbind: PocketBind, name: str, expected: str) -> None:
    with Image.open(SAMPLES / f"{name}.jpg") as photograph:
        assert nearest_text(pocketbind, "vision", photograph) == expected


def test_a_recorded_crow_is_nearest_to_a_crow_cawing(pocketbind: PocketBind) -> None:
    samples, rate = soundfile.read(SAMPLES / "crow.flac", dtype="float32")
    assert nearest_text(pocketbind, "audio", Waveform(samples, rate)) == "a crow cawing"
