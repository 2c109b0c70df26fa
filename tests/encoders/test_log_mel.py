import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from feature_cache.datasets.base import Waveform
from feature_cache.encoders.pocket.log_mel import log_mel_patches, mel_weights
from tests.encoders.media import sound


def tone(frequency: float, rate: int, seconds: float = 1.0) -> Waveform:
    return Waveform(np.sin(2 * np.pi * frequency * np.arange(int(seconds * rate)) / rate).astype(np.float32), rate)


def test_patches_agree_with_a_transform_written_out() -> None:
    samples = sound("guitar").samples.astype(np.float64)
    angle = 2 * np.pi * np.outer(np.arange(400), np.arange(257)) / 512
    hann = np.sin(np.pi * np.arange(400) / 400) ** 2
    patches = log_mel_patches(sound("guitar"))
    for patch in (0, 1):
        for frame in (0, 40, 95):
            start = (48 * patch + frame) * 160
            windowed = samples[start : start + 400] * hann
            magnitude = np.hypot(windowed @ np.cos(angle), windowed @ np.sin(angle))
            expected = [math.log(0.001 + sum(mel_band(band, magnitude))) for band in range(64)]
            np.testing.assert_allclose(patches[patch, frame], expected, rtol=1e-5)


def mel_band(band: int, magnitude: np.ndarray) -> list[float]:
    """What each bin of the spectrum contributes to one of the 64 triangles from 125 to 7500 Hz."""
    lowest, highest = (1127 * math.log(1 + hertz / 700) for hertz in (125, 7500))
    width = (highest - lowest) / 65
    centre = lowest + (band + 1) * width
    mels = [1127 * math.log(1 + 31.25 * bin_ / 700) for bin_ in range(257)]
    return [float(m * max(0.0, 1 - abs(mel - centre) / width)) for m, mel in zip(magnitude, mels, strict=True)]


def test_direct_current_has_no_weight() -> None:
    weights = mel_weights()
    assert weights.shape == (257, 64)
    assert not weights[0].any()
    assert (weights >= 0).all()
    assert (weights.max(0) > 0).all()


@given(length=st.integers(1, 80_000))
@settings(deadline=None)
def test_every_sample_lies_in_a_patch_and_no_patch_is_all_padding(length: int) -> None:
    patches = log_mel_patches(Waveform(np.zeros(length, np.float32), 16_000))
    needed = math.ceil(max(length - 15_600, 0) / 7_680) + 1
    assert patches.shape == (needed, 96, 64)
    assert patches.dtype == np.float32


def test_silence_is_the_logarithm_of_the_offset() -> None:
    patches = log_mel_patches(Waveform(np.zeros(100, np.float32), 16_000))
    np.testing.assert_allclose(patches, math.log(0.001), rtol=1e-6)


@pytest.mark.parametrize("rate", [8_000, 22_050, 44_100, 48_000])
def test_resampling_keeps_a_tone_where_it_is(rate: int) -> None:
    expected, actual = log_mel_patches(tone(1000, 16_000)), log_mel_patches(tone(1000, rate))
    assert actual.shape == expected.shape
    middle = slice(10, 80)
    assert (actual[0, middle].argmax(1) == expected[0, middle].argmax(1)).all()
    np.testing.assert_allclose(actual[0, middle].max(1), expected[0, middle].max(1), atol=0.01)


@pytest.mark.parametrize(
    "samples, rate",
    [([], 16_000), ([[0.0, 0.0]], 16_000), ([0.0, np.nan], 16_000), ([np.inf], 16_000), ([0.0], 0), ([0.0], -8_000)],
)
def test_an_impossible_waveform_is_refused(samples: list[float], rate: int) -> None:
    with pytest.raises(ValueError, match="A waveform is a row of finite samples with a positive rate"):
        log_mel_patches(Waveform(np.array(samples, np.float32), rate))
