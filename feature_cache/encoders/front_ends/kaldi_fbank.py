"""Kaldi's log-mel filter bank, as torchaudio computes it for ImageBind and LanguageBind.

Definitions: kaldi-asr.org/doc/feat.html; `torchaudio.compliance.kaldi.fbank` with htk_compat=True, use_energy=False,
window_type="hanning", dither=0 and the rest as it is by default.
"""

import numpy as np
from jaxtyping import Float, Float32

from feature_cache.encoders.front_ends.signals import triangles

WINDOW, HOP = 25, 10  # milliseconds
_PREEMPHASIS = 0.97
_LOWEST = 20.0  # Hz
_FLOOR = float(np.finfo(np.float32).eps)


def kaldi_fbank(samples: Float32[np.ndarray, " t"], rate: int, bins: int) -> Float32[np.ndarray, "frames {bins}"]:
    """Logarithms of the energies in `bins` mel bands, in windows of 25 ms that begin every 10 ms.

    Only windows that lie in the sound as a whole count. Energies below 2⁻²³ count as 2⁻²³.

    >>> kaldi_fbank(np.zeros(32_000, np.float32), 16_000, 128).shape
    (198, 128)

    Raises:
        ValueError: the sound is not a row, or is shorter than a window.
    """
    window, hop = rate * WINDOW // 1000, rate * HOP // 1000
    if samples.ndim != 1 or not 2 <= window <= samples.size:
        raise ValueError(
            f"A sound should have at least one window of 25 ms, but has shape {samples.shape} at {rate} samples a "
            "second."
        )
    frames = np.lib.stride_tricks.sliding_window_view(samples.astype(np.float64), window)[::hop]
    frames = frames - frames.mean(1, keepdims=True)
    frames = frames - _PREEMPHASIS * np.concatenate([frames[:, :1], frames[:, :-1]], axis=1)
    size = 1 << (window - 1).bit_length()
    power = np.abs(np.fft.rfft(frames * _symmetric_hann(window), size)) ** 2
    # The last bin, that of the Nyquist frequency, is in no band.
    energies = power[:, :-1] @ _bands(size, rate, bins)
    return np.asarray(np.log(np.maximum(energies, _FLOOR)), np.float32)


def _symmetric_hann(length: int) -> Float[np.ndarray, " {length}"]:
    return np.asarray(0.5 - 0.5 * np.cos(2 * np.pi * np.arange(length) / (length - 1)))


def _bands(size: int, rate: int, bins: int) -> Float[np.ndarray, "half bins"]:
    """Triangles in the mel scale from `_LOWEST` to the Nyquist frequency."""
    frequencies = np.arange(size // 2) * (rate / size)
    return triangles(_mel(frequencies), np.linspace(_mel(_LOWEST), _mel(rate / 2), bins + 2))


def _mel(frequency: Float[np.ndarray, "..."] | float) -> Float[np.ndarray, "..."]:
    return 1127 * np.log1p(np.asarray(frequency) / 700)
