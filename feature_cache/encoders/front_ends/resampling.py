"""Resamples sound as torchaudio does: a sinc filter under a Hann window.

The filter is that of `torchaudio.functional.resample` with its defaults (pytorch.org/audio/stable/generated/
torchaudio.functional.resample.html), after J. O. Smith, Digital Audio Resampling (ccrma.stanford.edu/~jos/resample).
"""

import math

import numpy as np
from jaxtyping import Float32, Float64

WIDTH = 6
"""Zero crossings of the sinc on either side of its middle."""
ROLLOFF = 0.99
"""The filter's cut-off, as a part of the lower of the two Nyquist frequencies."""


def resample(samples: Float32[np.ndarray, " t"], rate: int, target: int) -> Float32[np.ndarray, " t2"]:
    """The same sound with `target` samples a second instead of `rate`: ⌈t · target / rate⌉ of them.

    With c = ROLLOFF · min(rate, target), output n is the sum over all inputs i of x[i] · c / rate · sinc(c τ) ·
    cos²(π c τ / 2 WIDTH) at τ = i / rate − n / target, as far as |c τ| < WIDTH.

    >>> resample(np.ones(480, np.float32), 48_000, 16_000)[80].round(2), len(resample(np.ones(7, np.float32), 3, 2))
    (np.float32(1.0), 5)

    Raises:
        ValueError: the sound is not a row, or a rate is not positive.
    """
    if samples.ndim != 1 or rate <= 0 or target <= 0:
        raise ValueError(f"Got samples of shape {samples.shape} and {rate} a second, to be {target} a second.")
    common = math.gcd(rate, target)
    down, up = rate // common, target // common
    if down == up or not samples.size:
        return np.asarray(samples, np.float32)
    from scipy.signal import upfirdn

    filter_, delay = _filter(down, up)
    length = -(-samples.size * up // down)
    filtered = upfirdn(filter_, samples.astype(np.float64), up, down)
    return np.asarray(filtered[delay : delay + length], np.float32)


def _filter(down: int, up: int) -> tuple[Float64[np.ndarray, " taps"], int]:
    """The filter between the common rate of input and output, and how many outputs it lags behind."""
    cutoff = ROLLOFF * min(down, up)
    delay = math.ceil(WIDTH * up / cutoff)
    crossings = cutoff * np.arange(-delay * down, delay * down + 1) / (down * up)
    window = np.cos(np.pi / 2 * np.clip(crossings / WIDTH, -1, 1)) ** 2
    return np.sinc(crossings) * window * (cutoff / down), delay
