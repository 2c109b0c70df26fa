import numpy as np
import pytest

from feature_cache.datasets.base import Motion
from feature_cache.encoders.pocket.motion_spectra import motion_spectra
from tests.encoders.media import exercise

PAIRS = [(a, b) for a in range(6) for b in range(a, 6)]
PAIRS_AHEAD = [(a, b) for a in range(6) for b in range(a + 1, 6)]


def swings(rate: int, seconds: float = 8.0, lag: float = 0.0) -> Motion:
    """Gravity along the second axis, a swing of 1 Hz along the first, and one of the third that follows it."""
    time = np.arange(round(seconds * rate)) / rate
    samples = np.zeros((time.size, 6))
    samples[:, 0] = 0.3 * np.sin(2 * np.pi * time)
    samples[:, 1] = -1
    samples[:, 2] = 0.2 * np.sin(2 * np.pi * (time - lag))
    return Motion(samples.astype(np.float32), rate)


def together(features: np.ndarray, band: int, a: int, b: int) -> float:
    return float(features[21 * band + PAIRS.index((a, b))])


def ahead(features: np.ndarray, band: int, a: int, b: int) -> float:
    return float(features[210 + 15 * band + PAIRS_AHEAD.index((a, b))])


def test_features_agree_with_sums_written_out() -> None:
    motion = exercise(2, 4)
    samples = motion.samples.astype(np.float64)
    features = motion_spectra(motion)
    hann = np.sin(np.pi * np.arange(200) / 200) ** 2
    edges = [0.2 * 100 ** (step / 11) for step in range(12)]
    frequencies = np.arange(1001) * 0.025
    waves = np.exp(-2j * np.pi * np.outer(frequencies, np.arange(200) / 50))
    spectrum = waves @ ((samples - samples.mean(0)) * hann[:, None])
    for band in (0, 4, 9):
        low, centre, high = edges[band : band + 3]
        weights = np.interp(frequencies, [low, centre, high], [0, 1, 0])
        for a, b in [(0, 0), (1, 4), (2, 5)]:
            density = np.sum(weights * spectrum[:, a] * spectrum[:, b].conj()) / weights.sum() / 50 / (hann**2).sum()
            assert together(features, band, a, b) == pytest.approx(root(density.real, 4), abs=1e-5)
            if a != b:
                assert ahead(features, band, a, b) == pytest.approx(root(density.imag, 4), abs=1e-5)
    quarters = [[root(value, 2) for value in samples[50 * part : 50 * (part + 1)].mean(0)] for part in range(4)]
    np.testing.assert_allclose(features[360:], np.ravel(quarters), atol=1e-6)


def root(value: float, degree: int) -> float:
    return float(np.sign(value) * abs(value) ** (1 / degree))


def test_which_channel_comes_first_has_a_sign() -> None:
    band = 3  # 0.70 to 1.63 Hz
    before, after = (motion_spectra(swings(50, lag=lag)) for lag in (0.25, -0.25))
    assert ahead(before, band, 0, 2) > 0.3
    assert ahead(after, band, 0, 2) < -0.3
    same, opposite = (motion_spectra(swings(50, lag=lag)) for lag in (0.0, 0.5))
    assert together(same, band, 0, 2) > 0.3
    assert together(opposite, band, 0, 2) < -0.3


def test_the_rate_of_the_sensor_hardly_matters() -> None:
    slow, fast = motion_spectra(swings(50)), motion_spectra(swings(100))
    assert np.abs(slow).max() > 0.5
    np.testing.assert_allclose(slow, fast, atol=0.02)


def test_when_a_steady_swing_is_cut_hardly_matters() -> None:
    samples = swings(50, seconds=20, lag=0.1).samples
    first, later = (motion_spectra(Motion(samples[start : start + 400], 50)) for start in (0, 37))
    np.testing.assert_allclose(first[:360], later[:360], atol=0.05)


def test_a_sensor_at_rest_has_only_gravity_with_its_sign() -> None:
    samples = np.zeros((100, 6), np.float32)
    samples[:, 1], samples[:, 2] = -0.81, 0.25
    features = motion_spectra(Motion(samples, 50))
    assert features.dtype == np.float32
    assert not features[:360].any()
    np.testing.assert_allclose(features[360:].reshape(4, 6), [[0, -0.9, 0.5, 0, 0, 0]] * 4, atol=1e-6)


@pytest.mark.parametrize("rate, length", [(1, 4), (10, 10), (25, 77), (50, 200), (200, 12_000)])
def test_any_rate_and_length_gives_finite_features(rate: int, length: int) -> None:
    samples = np.random.default_rng(0).normal(size=(length, 6)).astype(np.float32)
    features = motion_spectra(Motion(samples, rate))
    assert features.shape == (384,)
    assert np.isfinite(features).all()
    assert features.any()


@pytest.mark.parametrize(
    "samples, rate, message",
    [
        (np.ones((200, 5)), 50, r"got shape \[200, 5\]"),
        (np.ones(200), 50, r"got shape \[200\]"),
        (np.ones((0, 6)), 50, r"got shape \[0, 6\]"),
        (np.zeros((200, 6)), 50, "even a sensor at rest feels gravity"),
        (np.full((200, 6), np.nan), 50, "1200 samples that are not finite"),
        (np.ones((3, 6)), 1, "and have 4 samples; got 3 samples"),
        (np.ones((49, 6)), 50, "at least 1.0 s and have 4 samples; got 49 samples at a rate of 50"),
        (np.ones((200, 6)), 0, "at a rate of 0"),
        (np.ones((200, 6)), -50, "at a rate of -50"),
    ],
)
def test_impossible_motion_is_refused(samples: np.ndarray, rate: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        motion_spectra(Motion(samples.astype(np.float32), rate))


def test_an_exercise_is_like_the_same_exercise_of_other_people() -> None:
    features = np.array([[motion_spectra(exercise(subject, number)) for number in range(7)] for subject in range(5)])
    units = features / np.linalg.norm(features, axis=2, keepdims=True)
    hits = 0
    for subject in range(5):
        others = np.delete(units, subject, axis=0).mean(0)
        others /= np.linalg.norm(others, axis=1, keepdims=True)
        hits += int(((units[subject] @ others.T).argmax(1) == np.arange(7)).sum())
    assert hits >= 15  # of 35; chance is 5


def test_random_exercises_have_no_large_direction_in_common() -> None:
    rows = np.array([motion_spectra(exercise(subject, number)) for subject in range(5) for number in range(7)])
    units = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    assert (units @ units.T)[np.triu_indices(35, 1)].mean() < 0.35
