"""Single notes from a SoundFont."""

import threading
from functools import cache
from pathlib import Path

import numpy as np
from jaxtyping import Float32
from scipy.signal import resample_poly

from feature_cache.datasets.base import Waveform
from feature_cache.datasets.pocket.archives import damaged
from feature_cache.errors import MediaError

RATE = 16_000
OVERSAMPLING = 3
"""The synthesizer interpolates linearly, so it plays at 48 kHz and a proper filter removes what 16 kHz cannot hold."""
HELD, RELEASED = 1.0, 0.5
"""Seconds before and after the key is let go."""
PEAK = 0.9
SILENCE = 1e-4
"""A note whose loudest sample stays below this is silent; the quietest one of FluidR3 reaches 70 times as much."""


class Player:
    """A SoundFont in memory. A note depends on nothing played before it.

    Raises `MediaError` if the file is damaged or there is no synthesizer.
    """

    def __init__(self, path: Path) -> None:
        try:
            import tinysoundfont  # not made for every Python that the other datasets run on
        except ModuleNotFoundError as error:
            raise MediaError(
                "The dataset 'instruments' plays its notes with tinysoundfont, which is not installed: run "
                "`pip install --no-deps tinysoundfont==0.3.7`, which PyPI has for Python 3.11 and 3.12."
            ) from error
        self._synth = tinysoundfont.Synth(samplerate=RATE * OVERSAMPLING)
        try:
            self._id = self._synth.sfload(str(path))
        except RuntimeError as error:
            raise damaged(path, f"is no SoundFont or is damaged ({error})") from error
        self._lock = threading.Lock()

    def play(self, program: int, pitch: int, velocity: int) -> Float32[np.ndarray, " t"]:
        """One note of a General MIDI program, both channels mixed, as loud as the SoundFont has it, at `RATE`."""
        with self._lock:
            self._synth.program_select(0, self._id, 0, program)
            self._synth.noteon(0, pitch, velocity)
            held = self._generate(HELD)
            self._synth.noteoff(0, pitch)
            released = self._generate(RELEASED)
            self._synth.sounds_off(0)
            self._generate(0.1)  # voices that were cut off fade out here and not in the next note
        clip = resample_poly(np.concatenate([held, released]), 1, OVERSAMPLING)
        return np.asarray(clip, np.float32)

    def _generate(self, seconds: float) -> Float32[np.ndarray, " t"]:
        buffer = self._synth.generate(round(seconds * RATE * OVERSAMPLING))
        stereo = np.frombuffer(bytes(buffer), np.float32).reshape(-1, 2)
        return np.asarray(stereo.mean(axis=1), np.float32)


@cache
def player(path: Path) -> Player:
    """The player of a SoundFont, loaded once per process (FluidR3: 0.6 s, 300 MB)."""
    return Player(path)


def note(path: Path, program: int, pitch: int, velocity: int) -> Waveform:
    """One note, peak normalised; raises `ValueError` if the SoundFont has no such program or is silent there."""
    where = f"program {program}, pitch {pitch}, velocity {velocity}"
    try:
        samples = player(path).play(program, pitch, velocity)
    except RuntimeError as error:
        raise ValueError(f"{path.name} cannot play {where}: {error}.") from error
    peak = float(np.abs(samples).max())
    if peak < SILENCE:
        raise ValueError(f"{path.name} is silent at {where}: its loudest sample is {peak:.1e}, below {SILENCE:.0e}.")
    return Waveform(samples * np.float32(PEAK / peak), RATE)
