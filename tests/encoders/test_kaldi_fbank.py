import math

import numpy as np
import pytest

from feature_cache.encoders.front_ends.kaldi_fbank import kaldi_fbank
from tests.raw_files import tone

NOISE = np.random.default_rng(0).standard_normal(6000).astype(np.float32)


def mel(frequency: float) -> float:
    return 1127 * math.log(1 + frequency / 700)


def one_frame(samples: np.ndarray, rate: int, bins: int, frame: int) -> list[float]:
    """One frame in double precision, step by step, with the Fourier transform written out."""
    window, hop = rate * 25 // 1000, rate * 10 // 1000
    cut = samples[frame * hop : frame * hop + window].astype(float)
    centred = cut - cut.mean()
    emphasized = [centred[n] - 0.97 * centred[max(n - 1, 0)] for n in range(window)]
    windowed = [x * (0.5 - 0.5 * math.cos(2 * math.pi * n / (window - 1))) for n, x in enumerate(emphasized)]
    size = 2
    while size < window:
        size *= 2
    angles = 2 * np.pi * np.outer(np.arange(size // 2), np.arange(window)) / size
    power = (np.cos(angles) @ windowed) ** 2 + (np.sin(angles) @ windowed) ** 2
    step = (mel(rate / 2) - mel(20)) / (bins + 1)
    energies = []
    for band in range(bins):
        left, centre, right = (mel(20) + (band + k) * step for k in range(3))
        places = [mel(k * rate / size) for k in range(size // 2)]
        rising = [(m - left) / (centre - left) for m in places]
        falling = [(right - m) / (right - centre) for m in places]
        weights = [max(0.0, min(up, down)) for up, down in zip(rising, falling, strict=True)]
        energies.append(sum(w * p for w, p in zip(weights, power, strict=True)))
    return [math.log(max(energy, 1.1920928955078125e-07)) for energy in energies]


@pytest.mark.parametrize("rate, bins", [(16_000, 128), (16_000, 126), (16_000, 32), (22_050, 80), (44_100, 23)])
def test_frames_agree_with_a_computation_written_out(rate: int, bins: int) -> None:
    features = kaldi_fbank(NOISE, rate, bins)
    assert features.dtype == np.float32
    assert features.shape == (1 + (6000 - rate * 25 // 1000) // (rate // 100), bins)
    for frame in (0, 3, len(features) - 1):
        np.testing.assert_allclose(features[frame], one_frame(NOISE, rate, bins, frame), atol=1e-5)


def test_quiet_and_loud_sounds_agree_too() -> None:
    for scale in (1e-5, 1e-3, 30):
        quiet = (scale * tone(700, 16_000, 0.1)).astype(np.float32)
        np.testing.assert_allclose(kaldi_fbank(quiet, 16_000, 128)[2], one_frame(quiet, 16_000, 128, 2), atol=1e-4)


@pytest.mark.parametrize("frequency", [250, 1000, 4000, 7500])
def test_a_tone_is_loudest_in_its_band(frequency: float) -> None:
    centres = np.linspace(mel(20), mel(8000), 66)[1:-1]
    loudest = kaldi_fbank(tone(frequency, 16_000, 0.5), 16_000, 64).mean(0).argmax()
    assert abs(loudest - np.abs(centres - mel(frequency)).argmin()) <= 1


def test_silence_and_a_constant_are_at_the_floor() -> None:
    for samples in (np.zeros(800, np.float32), np.full(800, 0.5, np.float32)):
        np.testing.assert_allclose(kaldi_fbank(samples, 16_000, 128), math.log(2**-23), rtol=1e-6)


def test_only_whole_windows_count() -> None:
    lengths = {400: 1, 559: 1, 560: 2, 16_000: 98, 32_000: 198}
    assert {n: len(kaldi_fbank(np.zeros(n, np.float32), 16_000, 128)) for n in lengths} == lengths


@pytest.mark.parametrize("shape, rate", [((399,), 16_000), ((0,), 16_000), ((2, 1000), 16_000), ((100,), 40)])
def test_a_sound_shorter_than_a_window_is_refused(shape: tuple[int, ...], rate: int) -> None:
    with pytest.raises(ValueError, match="at least one window of 25 ms"):
        kaldi_fbank(np.zeros(shape, np.float32), rate, 128)
