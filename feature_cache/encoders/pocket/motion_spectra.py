"""Motion -> 384 numbers, by no network: no pretrained one for inertial sensors is in the package registries.

They are what second-order statistics say of a stationary signal of six channels: where it points on average, and its
cross-spectral matrix, how strongly each two of the channels swing together and which of them comes first.
"""

import numpy as np
from jaxtyping import Float, Float32

from feature_cache.datasets.base import Motion
from feature_cache.encoders.front_ends.signals import hann, triangles

DIM = 384
SHORTEST = 1.0
"""Seconds; slow movements need several."""

_CHANNELS, _PARTS = 6, 4
_BANDS = np.geomspace(0.2, 20.0, 12)  # Hz, edges of ten bands: from a slow exercise to the trembling of a hand
_RESOLUTION = 0.025  # Hz


def motion_spectra(motion: Motion) -> Float32[np.ndarray, "384"]:
    """Signed square roots of amplitudes, which are zero where nothing moves; not normalised.

    For each of ten bands from 0.2 to 20 Hz the 36 real numbers of the cross-spectral matrix, in (g or rad/s)²/Hz, which
    do not depend on when a movement begins, under a signed fourth root; then the means of the channels over four parts
    of the time under a signed square root. The roots let weak channels count, and those with a sign leave no large
    common mean.

    Raises:
        ValueError: the samples are not [t, 6], finite, not all zero and last a second, or the rate is not positive.
    """
    samples = np.asarray(motion.samples, np.float64)
    _check(samples, motion.rate)
    means = np.stack([part.mean(0) for part in np.array_split(samples, _PARTS)])
    return np.concatenate([_root(_cross_spectra(samples, motion.rate), 4), _root(means.ravel(), 2)]).astype(np.float32)


def _cross_spectra(samples: Float[np.ndarray, "t 6"], rate: int) -> Float[np.ndarray, "360"]:
    window = hann(len(samples))[:, None]
    bins = max(len(samples), round(rate / _RESOLUTION))
    spectrum = np.fft.rfft((samples - samples.mean(0)) * window, bins, axis=0)
    bands = triangles(np.fft.rfftfreq(bins, 1 / rate), _BANDS)
    density = np.einsum("fc,fd,fb->bcd", spectrum, spectrum.conj(), bands / np.maximum(bands.sum(0), 1))
    density /= rate * np.sum(window**2)
    together, ahead = np.triu_indices(_CHANNELS), np.triu_indices(_CHANNELS, 1)
    return np.concatenate([density.real[:, *together].ravel(), density.imag[:, *ahead].ravel()])


def _root(values: Float[np.ndarray, " n"], degree: int) -> Float[np.ndarray, " n"]:
    return np.asarray(np.sign(values) * np.abs(values) ** (1 / degree))


def _check(samples: Float[np.ndarray, "t 6"], rate: int) -> None:
    if samples.ndim != 2 or samples.shape[1] != _CHANNELS or not np.isfinite(samples).all() or not samples.any():
        raise ValueError(
            f"Motion is [t, {_CHANNELS}] finite samples, not all of them zero, as even a sensor at rest feels gravity; "
            f"got shape {list(samples.shape)}, {np.count_nonzero(~np.isfinite(samples))} samples that are not finite "
            f"and {np.count_nonzero(samples)} that are not zero."
        )
    if rate <= 0 or len(samples) < max(SHORTEST * rate, _PARTS):
        raise ValueError(
            f"Motion should last at least {SHORTEST} s and have {_PARTS} samples; got {len(samples)} samples at a rate "
            f"of {rate} per second."
        )
