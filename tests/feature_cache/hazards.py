"""Functions that open media in ways that a pipeline must survive. In a module of their own: workers import it."""

import ctypes
import os
import signal
import sys
import time
from pathlib import Path

import numpy as np

from feature_cache.datasets.base import Item, Waveform
from feature_cache.errors import MediaError


def sound(number: int) -> Waveform:
    return Waveform(np.full(3, number, np.float32), 8)


def slow_sound(number: int, seconds: float) -> Waveform:
    time.sleep(seconds)
    return sound(number)


def large_sound(samples: int) -> Waveform:
    return Waveform(np.arange(samples, dtype=np.float32), 8)


def die(number: int) -> Waveform:
    os.kill(os.getpid(), number)
    time.sleep(60)
    raise AssertionError


def die_once(marker: Path) -> Waveform:
    if not marker.exists():
        marker.touch()
        die(signal.SIGKILL)
    return sound(1)


def shout() -> Waveform:
    """As a library in C does, and as Python does."""
    os.write(2, b"Note: Illegal Audio-MPEG-Header\n")
    print("Python's own", file=sys.stderr)
    return sound(1)


def leave() -> Waveform:
    os._exit(3)


def hang() -> Waveform:
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGINT})
    while True:
        time.sleep(60)


def hang_alone() -> Waveform:
    """Lets no other thread of the process run."""
    while True:
        ctypes.PyDLL(None).sleep(60)


def refuse() -> Waveform:
    raise MediaError("The disk with the tones is not there. Run `make tones`.")


def break_package() -> Waveform:
    raise ModuleNotFoundError("No module named 'soundfile'", name="soundfile")


class StrangeError(MediaError):
    """Cannot be unpickled: its constructor wants more than its message."""

    def __init__(self, path: Path, what: str) -> None:
        super().__init__(f"{path} is {what}")


def refuse_strangely() -> Waveform:
    raise StrangeError(Path("tones"), "gone")


class SpeechlessError(Exception):
    def __str__(self) -> str:
        raise ZeroDivisionError


def break_speechlessly() -> Waveform:
    raise SpeechlessError


def break_half_a_character() -> Waveform:
    raise ValueError("there is no caf\udce9.wav")  # a file name in Latin-1, as Python has it


def promise_too_much() -> Waveform:
    return Waveform(np.empty(1 << 60, np.float32), 8)


def broken() -> Waveform:
    raise ValueError("not a\nsound")


def circumstances() -> str:
    """In what kind of process this runs."""
    threads = os.environ["OMP_NUM_THREADS"], os.environ["OPENBLAS_NUM_THREADS"]
    return " ".join([str(os.getpid()), *threads, str("torch" in sys.modules), str("jax" in sys.modules)])


def item(name: str, audio: object = None, text: object = None) -> Item:
    media = {"audio": audio, "text": text}
    return Item(name, name, media={modality: opener for modality, opener in media.items() if opener})  # type: ignore[misc]
