"""Speaks texts: eSpeak NG, a formant synthesizer, so that the same text in the same voice is always the same sound.

The package espeakng-loader brings the library and its voices; the interface is that of espeak-ng/speak_lib.h.
"""

import _ctypes  # for dlclose, which ctypes itself does not offer
import ctypes
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from jaxtyping import Float32
from scipy.signal import resample_poly

from feature_cache.datasets.base import Waveform
from feature_cache.errors import MediaError

RATE = 16_000
SLOWEST, FASTEST = 80, 450
"""Words per minute that eSpeak NG can speak."""
SILENCE = 1e-3
"""A text whose loudest sample stays below this was not spoken; words reach hundreds of times as much."""

_PACKAGE = "espeakng-loader==0.2.4"
_UP, _DOWN = 320, 441  # from 22 050 Hz, at which all voices speak, to `RATE`
_SYNCHRONOUS, _DO_NOT_EXIT = 2, 0x8000
_UTF8 = 1
_RATE_PARAMETER = 1
_CALLBACK = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.c_void_p)
_one_at_a_time = threading.Lock()


def speak(text: str, voice: str = "en-us", rate_wpm: int = 175) -> Waveform:
    """A text as speech at 16 kHz, the same samples every time.

    Args:
        text: what to say, in the voice's language.
        voice: a language that eSpeak NG speaks, "en-us" or "en" (British), maybe with a variant, "en-us+f3".
        rate_wpm: words per minute.

    Raises:
        MediaError: espeakng-loader is not installed or damaged, or has no such voice.
        ValueError: there is nothing to say in the text, or the rate is impossible.
    """
    if not SLOWEST <= rate_wpm <= FASTEST:
        raise ValueError(f"rate_wpm should lie between {SLOWEST} and {FASTEST} words per minute, but is {rate_wpm}.")
    with _one_at_a_time:
        spoken = _synthesize(text.encode(), voice, rate_wpm)
    if not spoken.size or np.abs(spoken).max() < SILENCE:
        raise ValueError(f"The voice {voice} says nothing at {text!r}: it has to contain a word.")
    return Waveform(np.asarray(resample_poly(spoken, _UP, _DOWN), np.float32), RATE)


def _synthesize(text: bytes, voice: str, rate_wpm: int) -> Float32[np.ndarray, " t"]:
    parts: list[Float32[np.ndarray, " n"]] = []

    def keep(samples: "ctypes._Pointer[ctypes.c_short]", count: int, _events: int) -> int:
        if samples and count > 0:
            parts.append(np.ctypeslib.as_array(samples, (count,)).astype(np.float32) / 32768)
        return 0

    callback = _CALLBACK(keep)  # the library holds no reference to it
    with _fresh_library() as (library, data):
        _check_variant(data, voice)
        if library.espeak_SetVoiceByName(voice.encode()):
            raise _no_such_voice(voice)
        library.espeak_SetSynthCallback(callback)
        library.espeak_SetParameter(_RATE_PARAMETER, rate_wpm, 0)
        library.espeak_Synth(text, ctypes.c_size_t(len(text) + 1), 0, 0, 0, _UTF8, None, None)
    return np.concatenate([np.zeros(0, np.float32), *parts])


@contextmanager
def _fresh_library() -> Iterator[tuple[ctypes.CDLL, Path]]:
    """The library as it is after loading, and where its voices are.

    It is loaded for every text (4 ms), since neither a new voice nor a new start brings its many static variables back
    to their first values, and a text would sound a little different after another one.
    """
    try:
        import espeakng_loader
    except ModuleNotFoundError as error:
        raise MediaError(
            "Speech is synthesised with espeakng-loader, which is not installed: run `make extract-deps`, or "
            f"`pip install {_PACKAGE}`."
        ) from error
    data = Path(espeakng_loader.get_data_path())
    library = ctypes.CDLL(espeakng_loader.get_library_path())
    try:
        rate = library.espeak_Initialize(_SYNCHRONOUS, 0, str(data).encode(), _DO_NOT_EXIT)
        if rate * _UP != RATE * _DOWN:
            raise MediaError(
                f"eSpeak NG did not start with its voices in {data}: it gave {rate} as the rate of its samples. Run "
                f"`pip install --force-reinstall {_PACKAGE}`."
            )
        library.espeak_ng_SetRandSeed(ctypes.c_long(0))  # it starts from the time of day
        yield library, data
        library.espeak_Terminate()
    finally:
        _ctypes.dlclose(library._handle)


def _check_variant(data: Path, voice: str) -> None:
    """The library would take an unknown variant for none at all."""
    _, plus, variant = voice.partition("+")
    if plus and not (data / "voices" / "!v" / variant).is_file():
        raise _no_such_voice(voice)


def _no_such_voice(voice: str) -> MediaError:
    return MediaError(
        f"eSpeak NG has no voice {voice!r}. It has en-us, en and en-gb-scotland, and variants of each: en-us+f3, en+m1."
    )
