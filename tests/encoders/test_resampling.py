import math
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from feature_cache.encoders.front_ends.resampling import resample

NOISE = np.random.default_rng(0).standard_normal(3000).astype(np.float32)
RATES = [(48_000, 16_000), (44_100, 16_000), (22_050, 16_000), (8_000, 16_000), (16_000, 44_100), (11_025, 8_000)]


def one_output(samples: np.ndarray, rate: int, target: int, number: int) -> float:
    """Every term of the sum in double precision, with times in seconds."""
    cutoff = 0.99 * min(rate, target)
    total = 0.0
    for place, sample in enumerate(samples.astype(float)):
        crossings = cutoff * (place / rate - number / target)
        if abs(crossings) < 6:
            sinc = math.sin(math.pi * crossings) / (math.pi * crossings) if crossings else 1.0
            total += sample * cutoff / rate * sinc * math.cos(math.pi * crossings / 12) ** 2
    return total


@pytest.mark.parametrize("rate, target", RATES)
def test_outputs_are_the_sums_of_the_definition(rate: int, target: int) -> None:
    resampled = resample(NOISE, rate, target)
    assert resampled.dtype == np.float32
    last = len(resampled) - 1
    for number in (0, 1, 5, last // 2, last // 2 + 1, last - 1, last):
        assert resampled[number] == pytest.approx(one_output(NOISE, rate, target, number), abs=2e-6)


@pytest.mark.parametrize("rate, target", RATES)
def test_a_tone_keeps_its_frequency_and_its_loudness(rate: int, target: int) -> None:
    for frequency in (100, 440, 1000, 3000):
        resampled = resample(sine(frequency, rate), rate, target)
        np.testing.assert_allclose(resampled[200:-200], sine(frequency, target)[200:-200], atol=0.02)


def sine(frequency: float, rate: int) -> np.ndarray:
    return np.sin(2 * np.pi * frequency * np.arange(rate) / rate).astype(np.float32)


def test_a_tone_above_the_new_nyquist_frequency_is_gone() -> None:
    assert np.abs(resample(sine(12_000, 48_000), 48_000, 16_000)[100:-100]).max() < 0.003


@given(length=st.integers(1, 400), rate=st.integers(1, 60), target=st.integers(1, 60))
@settings(deadline=None, max_examples=200)
def test_the_duration_stays_rounded_up_to_a_sample(length: int, rate: int, target: int) -> None:
    assert len(resample(NOISE[:length], rate, target)) == math.ceil(length * target / rate)


def test_the_same_rate_changes_nothing() -> None:
    np.testing.assert_array_equal(resample(NOISE, 16_000, 16_000), NOISE)
    assert resample(NOISE[:0], 8_000, 16_000).size == 0


def test_it_is_linear_and_has_no_memory() -> None:
    impulse = np.zeros(1000, np.float32)
    impulse[500] = 1
    response = resample(impulse, 44_100, 16_000)
    reached = np.flatnonzero(response)
    assert reached[-1] - reached[0] <= 13
    np.testing.assert_allclose(resample(3 * impulse, 44_100, 16_000), 3 * response, rtol=1e-6)


@pytest.mark.parametrize("rate", [48_000, 44_100, 44_101])
def test_ten_seconds_take_no_time_to_speak_of(rate: int) -> None:
    samples = np.zeros(10 * rate, np.float32)
    resample(samples[:100], rate, 16_000)
    start = time.process_time()
    resample(samples, rate, 16_000)
    assert time.process_time() - start < 0.5


@pytest.mark.parametrize("shape, rate, target", [((2, 100), 8, 16), ((100,), 0, 16), ((100,), 8, -1)])
def test_an_impossible_sound_is_refused(shape: tuple[int, ...], rate: int, target: int) -> None:
    with pytest.raises(ValueError, match="samples of shape"):
        resample(np.zeros(shape, np.float32), rate, target)
