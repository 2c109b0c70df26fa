"""YAMNet's front end: sound -> patches of a log-mel spectrogram.

Parameters: github.com/tensorflow/models, research/audioset/yamnet (params.py, features.py).
"""

import math

import numpy as np
from jaxtyping import Float, Float32

from feature_cache.datasets.base import Waveform
from feature_cache.encoders.front_ends.signals import hann, resample, triangles

RATE = 16_000
MEL_BANDS = 64
PATCH_FRAMES, PATCH_HOP = 96, 48

_WINDOW, _HOP, _FFT = 400, 160, 512  # samples: 25 ms, 10 ms, the next power of two
_MEL_LOW, _MEL_HIGH = 125.0, 7500.0  # Hz
_LOG_OFFSET = 0.001


def log_mel_patches(sound: Waveform) -> Float32[np.ndarray, "patches 96 64"]:
    """Log-mel spectrogram of a sound, cut into patches of 0.96 s that begin every 0.48 s.

    The sound is resampled to 16 kHz, and silence is appended until the last patch is full; there is at least one.

    Raises:
        ValueError: the sound is not a row of finite samples, or its rate is not positive.
    """
    samples = _pad(resample(sound, RATE))
    frames = np.lib.stride_tricks.sliding_window_view(samples, _WINDOW)[::_HOP]
    log_mel = np.log(np.abs(np.fft.rfft(frames * hann(_WINDOW), _FFT)) @ mel_weights() + _LOG_OFFSET)
    patches = np.lib.stride_tricks.sliding_window_view(log_mel, PATCH_FRAMES, axis=0)[::PATCH_HOP]
    return np.ascontiguousarray(patches.swapaxes(1, 2), dtype=np.float32)


def mel_weights() -> Float[np.ndarray, "257 64"]:
    """Triangles in the mel scale over the bins of the spectrum; the bin of frequency 0 has no weight."""
    bins = _mel(np.linspace(0, RATE / 2, _FFT // 2 + 1))
    weights = triangles(bins, np.linspace(_mel(_MEL_LOW), _mel(_MEL_HIGH), MEL_BANDS + 2))
    weights[0] = 0
    return weights


def _mel(frequency: Float[np.ndarray, "..."] | float) -> Float[np.ndarray, "..."]:
    return 1127 * np.log1p(np.asarray(frequency) / 700)


def _pad(samples: Float[np.ndarray, " t"]) -> Float[np.ndarray, " padded"]:
    first = (PATCH_FRAMES - 1) * _HOP + _WINDOW
    hop = PATCH_HOP * _HOP
    hops = math.ceil(max(samples.size - first, 0) / hop)
    return np.pad(samples, (0, first + hops * hop - samples.size))
