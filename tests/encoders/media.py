"""Opens the committed samples."""

from pathlib import Path

import numpy as np
import soundfile
from PIL import Image

from feature_cache.datasets.base import Clip, DepthMap, Motion, Waveform
from feature_cache.datasets.pocket.speech_synthesis import speak

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


def exercise(subject: int, number: int) -> Motion:
    return Motion(np.load(SAMPLES / "exercises.npy")[subject, number].astype(np.float32), 50)


def walk_past(picture: Image.Image) -> Clip:
    """Three frames of a picture, as a camera sees it that moves sideways."""
    width = picture.width * 9 // 10
    starts = [(picture.width - width) * step // 2 for step in range(3)]
    return Clip([picture.crop((start, 0, start + width, picture.height)) for start in starts])


def depth_of_a_ball(size: int, distance: float) -> DepthMap:
    x, y = np.meshgrid(*[np.linspace(-1.5, 1.5, size)] * 2)
    inside = x**2 + y**2 < 1
    depth = np.full((size, size), np.inf, np.float32)
    depth[inside] = distance - np.sqrt(1 - x[inside] ** 2 - y[inside] ** 2)
    return DepthMap(depth)


MEDIA = {
    "text": ["cat", "a small black cat that sleeps on the sofa", "", "guitar"],
    "vision": [photo("cat"), picture("emoji_cat"), picture("stove"), Image.new("L", (30, 50), 90)],
    "depth": [depth_of_a_ball(40, 2.0), depth_of_a_ball(61, 5.0)],
    "video": [walk_past(photo("cat")), Clip([picture("stove")]), Clip([picture("barrel"), picture("desk")])],
    "audio": [sound("flute"), Waveform(np.zeros(10, np.float32), 8_000), sound("marimba")],
    "speech": [speak("a cat"), sound("flute"), Waveform(np.zeros(10, np.float32), 8_000), speak("a longer text", "en")],
    "imu": [exercise(0, 0), exercise(3, 5), Motion(np.full((60, 6), 0.5, np.float32), 20)],
}
