"""Whisper's front end: speech -> a log-mel spectrogram.

Parameters: github.com/openai/whisper, whisper/audio.py. Its mel scale is that of Slaney's Auditory Toolbox: linear up
to 1000 Hz, logarithmic above, and every band has the same area.
"""

import numpy as np
from jaxtyping import Float, Float32

from feature_cache.datasets.base import Waveform
from feature_cache.encoders.front_ends.signals import hann, resample, triangles

RATE = 16_000
MEL_BANDS = 80
LONGEST = 29
"""Seconds that are heard; the rest of a longer sound is cut off."""
SILENT_FRAMES = 100
"""1 s of silence after every sound. To fill up the 30 s that the network was trained on, as its decoder needs it, takes
twelve times as long and gives embeddings from which texts are found hardly better."""

_WINDOW, _HOP = 400, 160  # samples: 25 ms, 10 ms
_STEP = 2 * _HOP  # the network joins two frames
_LOWEST_POWER, _DECADES = 1e-10, 8.0


def whisper_log_mel(sound: Waveform) -> Float32[np.ndarray, "80 frames"]:
    """Log-mel spectrogram of a sound at 16 kHz and of the second of silence after it, an even number of frames.

    Raises:
        ValueError: the sound is not a row of finite samples, or its rate is not positive.
    """
    samples = resample(sound, RATE)[: LONGEST * RATE]
    samples = np.pad(samples, (0, -samples.size % _STEP + SILENT_FRAMES * _HOP))
    reflected = np.pad(samples, _WINDOW // 2, mode="reflect")
    frames = np.lib.stride_tricks.sliding_window_view(reflected, _WINDOW)[:-1:_HOP]
    power = np.abs(np.fft.rfft(frames * hann(_WINDOW))) ** 2
    decades = np.log10(np.maximum(power @ mel_weights(), _LOWEST_POWER))
    return np.ascontiguousarray((np.maximum(decades, decades.max() - _DECADES) + 4).T / 4, dtype=np.float32)


def mel_weights() -> Float[np.ndarray, "201 80"]:
    """Triangles over the bins of the spectrum, from 0 to 8000 Hz, each of area 1."""
    edges = _hertz(np.linspace(0, _mel(RATE / 2), MEL_BANDS + 2))
    weights = triangles(np.linspace(0, RATE / 2, _WINDOW // 2 + 1), edges)
    return np.asarray(weights * 2 / (edges[2:] - edges[:-2]))


_HERTZ_PER_MEL, _KNEE, _STEPS_PER_FACTOR = 200 / 3, 1000.0, 27 / np.log(6.4)


def _mel(frequency: float) -> float:
    return float(_KNEE / _HERTZ_PER_MEL + _STEPS_PER_FACTOR * np.log(frequency / _KNEE))  # above the knee


def _hertz(mel: Float[np.ndarray, " n"]) -> Float[np.ndarray, " n"]:
    knee = _KNEE / _HERTZ_PER_MEL
    return np.where(mel < knee, mel * _HERTZ_PER_MEL, _KNEE * np.exp((mel - knee) / _STEPS_PER_FACTOR))
