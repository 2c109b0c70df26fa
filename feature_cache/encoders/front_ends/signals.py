"""What the front ends for sound and for motion share."""

import math

import numpy as np
from jaxtyping import Float

from feature_cache.datasets.base import Waveform


def hann(length: int) -> Float[np.ndarray, " {length}"]:
    """One period of a raised cosine."""
    return np.asarray(0.5 - 0.5 * np.cos(2 * np.pi * np.arange(length) / length))


def triangles(bins: Float[np.ndarray, " n"], edges: Float[np.ndarray, " bands+2"]) -> Float[np.ndarray, "n bands"]:
    """Weight of every bin in every band; a band rises from an edge to 1 at the next and falls to the one after it.

    >>> triangles(np.array([0.0, 0.5, 1.0, 1.5, 2.0]), np.array([0.0, 1.0, 2.0])).T
    array([[0. , 0.5, 1. , 0.5, 0. ]])
    """
    low, centre, high = edges[:-2], edges[1:-1], edges[2:]
    at = bins[:, None]
    return np.asarray(np.maximum(0, np.minimum((at - low) / (centre - low), (high - at) / (high - centre))))


def resample(sound: Waveform, rate: int) -> Float[np.ndarray, " t"]:
    """The samples of a sound at another rate.

    Raises:
        ValueError: the sound is not a row of finite samples, or its rate is not positive.
    """
    samples = np.asarray(sound.samples, np.float64)
    if samples.ndim != 1 or not samples.size or not np.isfinite(samples).all() or sound.rate <= 0:
        raise ValueError(
            f"A waveform is a row of finite samples with a positive rate; got shape {samples.shape}, "
            f"{np.count_nonzero(~np.isfinite(samples))} samples that are not finite, and a rate of {sound.rate}."
        )
    if sound.rate == rate:
        return samples
    from scipy.signal import resample_poly

    common = math.gcd(sound.rate, rate)
    return np.asarray(resample_poly(samples, rate // common, sound.rate // common))
