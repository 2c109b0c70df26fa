"""Writes media for the readers of the published layouts, and tells what comes back."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from feature_cache.datasets.base import Item, Waveform
from tests.raw_files import write_picture


def by_id(items: Sequence[Item]) -> dict[str, Item]:
    return {item.id: item for item in items}


def picture(path: Path, colour: tuple[int, ...] = (200, 0, 0)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    return write_picture(path, np.full((8, 8, 3), colour, np.uint8))


def colour_of(item: Item, modality: str) -> tuple[int, ...]:
    """The pixel in the middle, to the next 50."""
    opened = item.open(modality)
    assert isinstance(opened, Image.Image)
    return tuple(50 * round(channel / 50) for channel in opened.convert("RGB").getpixel((4, 4)))


def pitch_of(item: Item) -> float:
    """The loudest frequency of the sound, in hertz."""
    sound = item.open("audio")
    assert isinstance(sound, Waveform)
    spectrum = np.abs(np.fft.rfft(sound.samples.astype(np.float64) * np.hanning(len(sound.samples))))
    return float(spectrum.argmax() * sound.rate / len(sound.samples))


def empty(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
    return path
