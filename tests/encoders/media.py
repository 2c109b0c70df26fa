"""Opens the committed samples."""

from pathlib import Path

import soundfile
from PIL import Image

from feature_cache.datasets.base import Waveform

SAMPLES = Path(__file__).parent / "samples"
RECORDED = Path(__file__).parents[1] / "samples"
FURNITURE = sorted(path.stem for path in SAMPLES.glob("*.webp") if path.stem != "emoji_cat")


def picture(name: str) -> Image.Image:
    return Image.open(SAMPLES / f"{name}.webp")


def photo(name: str) -> Image.Image:
    return Image.open(RECORDED / f"{name}.jpg")


def sound(name: str, folder: Path = SAMPLES) -> Waveform:
    samples, rate = soundfile.read(folder / f"{name}.flac", dtype="float32")
    return Waveform(samples, rate)
