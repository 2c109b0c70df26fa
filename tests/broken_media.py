"""Spoils some of the raw media of the paper's datasets: so that they cannot be opened, or are only out of the ordinary.

    spoiled = break_media(write_raw_datasets(tmp_path, items_per_split=10), share=0.05)

Of `share` of all items one medium is broken: opening it raises. Of as many others, and of at least one for each way,
one is made odd: it opens. Listing the datasets is not affected by either.
"""

import csv
import math
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import cycle, islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow.parquet as pq
from PIL import Image

from feature_cache.datasets import PAPER, REGISTRY, esc50
from feature_cache.datasets.base import Item
from feature_cache.datasets.esc50 import Row
from feature_cache.datasets.published import stem
from feature_cache.registry import resolve
from tests.raw_datasets import write_csv, write_esc50_file
from tests.raw_files import moving_square, tone, truncate, write_audio, write_video

CAPTIONS = {
    "empty caption": "",
    "emoji caption": "🐕‍🦺🔊 woof 👩🏽‍🚀",
    "right-to-left caption": "صوت المطر على السقف, קול הגשם",
}
"""Odd, but valid; written into Clotho's tables."""


@dataclass(frozen=True)
class Spoiled:
    """A medium that is not as it was.

    Attributes:
        dataset, split, id, modality: which.
        way: a key of `BROKEN`, `ODD` or `CAPTIONS`.
        broken: whether opening it raises.
    """

    dataset: str
    split: str
    id: str
    modality: str
    way: str
    broken: bool


def no_bytes(path: Path) -> None:
    path.write_bytes(b"")


def half(path: Path) -> None:
    truncate(path, 0.5)


def words(path: Path) -> None:
    path.write_text("This is a text, whatever its name says.\n" * 20)


def gone(path: Path) -> None:
    path.unlink()


def low_rate(path: Path) -> None:
    write_audio(path, tone(330, 8_000, 0.5), 8_000)


def mono(path: Path) -> None:
    write_audio(path, tone(330, 44_100, 0.5), 44_100)


def stereo(path: Path) -> None:
    write_audio(path, tone(330, 44_100, 0.5, channels=2), 44_100)


def surround(path: Path) -> None:
    """Six channels, as a WAV file whatever the name."""
    content = path.with_suffix(".wav")
    write_audio(content, tone(330, 44_100, 0.5, channels=6), 44_100)
    content.replace(path)


def short_sound(path: Path) -> None:
    write_audio(path, tone(330, 16_000, 0.2), 16_000)


def one_frame(path: Path) -> None:
    _write_video(path, frames=1, seconds=1)


def short_video(path: Path) -> None:
    _write_video(path, frames=5, seconds=0.2)


def grey(path: Path) -> None:
    Image.new("L", (30, 40), 77).save(path, _format(path))


def grey_16_bits(path: Path) -> None:
    Image.fromarray(np.arange(1200, dtype=np.uint16).reshape(30, 40) * 50).save(path, "PNG")


def with_transparency(path: Path) -> None:
    Image.new("RGBA", (40, 30), (200, 30, 30, 90)).save(path, "PNG")


def palette(path: Path) -> None:
    Image.new("RGB", (40, 30), (200, 30, 30)).convert("P").save(path, "PNG")


def depth_8_bits(path: Path) -> None:
    Image.new("L", (40, 30), 128).save(path, "PNG")


class Way(NamedTuple):
    """One way to spoil a medium: what it can befall, by modality and file ending, and what does it to a file."""

    modalities: tuple[str, ...]
    endings: tuple[str, ...]
    spoil: Callable[[Path], None]


PICTURES, ANY_PICTURE = ("vision", "thermal", "tactile"), (".png", ".jpg")
ANY_SOUND = (".wav", ".mp3")
BROKEN = {
    "truncated avi": Way(("video",), (".avi",), half),
    "zero-byte wav": Way(("audio",), (".wav",), no_bytes),
    "text called .png": Way(PICTURES, (".png",), words),
    "truncated mp4": Way(("video",), (".mp4",), half),
    "truncated picture": Way(PICTURES, ANY_PICTURE, half),
    "truncated depth map": Way(("depth",), (".png",), half),
    "text called .avi": Way(("video",), (".avi",), words),
    "missing picture": Way(PICTURES, ANY_PICTURE, gone),
    "text called a sound": Way(("audio",), ANY_SOUND, words),
}
"""By what is wrong."""
ODD = {
    "sound of another sample rate": Way(("audio",), ANY_SOUND, low_rate),
    "mono sound": Way(("audio",), ANY_SOUND, mono),
    "stereo sound": Way(("audio",), ANY_SOUND, stereo),
    "5.1 sound": Way(("audio",), ANY_SOUND, surround),
    "sound of 0.2 s": Way(("audio",), ANY_SOUND, short_sound),
    "video of one frame": Way(("video",), (".avi", ".mp4"), one_frame),
    "video of 0.2 s": Way(("video",), (".avi", ".mp4"), short_video),
    "grey picture": Way(PICTURES, ANY_PICTURE, grey),
    "picture of 16 bits": Way(PICTURES, (".png",), grey_16_bits),
    "picture with transparency": Way(PICTURES, ANY_PICTURE, with_transparency),
    "picture with a palette": Way(PICTURES, ANY_PICTURE, palette),
    "depth map of 8 bits": Way(("depth",), (".png",), depth_8_bits),
}
"""By what is unusual. Depth maps of 16 bits are the ordinary ones."""


def break_media(root: Path, share: float = 0.05, seed: int = 0) -> list[Spoiled]:
    """Spoils media below a data root that has all seven datasets; says which, broken ones first.

    Raises `ValueError` if there are too few items for so many.
    """
    captions = spoil_captions(root)
    items = list(_items(root))
    count = math.ceil(share * len(items))
    taken = {(s.dataset, s.split, s.id) for s in captions}
    order = np.random.default_rng(seed).permutation(len(items))
    candidates = [items[number] for number in order if (*items[number][:2], items[number][2].id) not in taken]
    broken = [_spoil_one(candidates, way, BROKEN) for way in islice(cycle(BROKEN), count)]
    odd = [_spoil_one(candidates, way, ODD) for way in islice(cycle(ODD), max(count, len(ODD)))]
    return [*broken, *odd, *captions]


def spoil_captions(root: Path) -> list[Spoiled]:
    """Gives the first sounds of Clotho's training split the captions of `CAPTIONS`."""
    path = root / "clotho/clotho_captions_development.csv"
    with path.open(newline="", encoding="utf-8") as stream:
        head, *rows = csv.reader(stream)
    for row, caption in zip(rows, CAPTIONS.values(), strict=False):
        row[head.index("caption_1")] = caption
    write_csv(path, [head, *rows])
    return [
        Spoiled("clotho", "train", stem(row[0]), "text", way, broken=False)
        for row, way in zip(rows, CAPTIONS, strict=False)
    ]


def _items(root: Path) -> Iterator[tuple[str, str, Item]]:
    for name in PAPER:
        dataset = resolve(REGISTRY, "dataset", name)(root)
        for split in ("train", "test"):
            yield from ((name, split, item) for item in dataset.items(split))


def _spoil_one(candidates: list[tuple[str, str, Item]], way: str, ways: dict[str, Way]) -> Spoiled:
    """Spoils the first candidate that has such a medium, and removes it."""
    modalities, endings, spoil = ways[way]
    for number, (dataset, split, item) in enumerate(candidates):
        for modality in modalities:
            source = _source(item, modality)
            # A sound in a video file is left alone, because that would spoil the video.
            if source is not None and _ending(source) in endings:
                del candidates[number]
                spoil(source) if isinstance(source, Path) else _spoil_row(source, spoil)
                return Spoiled(dataset, split, item.id, modality, way, ways is BROKEN)
    raise ValueError(f"No item is left for '{way}': write more with items_per_split.")


def _source(item: Item, modality: str) -> Path | Row | None:
    """The file of a medium, or its row in one."""
    medium: Any = item.media.get(modality)
    return medium.args[0] if medium else None


def _ending(source: Path | Row) -> str:
    return source.suffix if isinstance(source, Path) else ".wav"


def _spoil_row(row: Row, spoil: Callable[[Path], None]) -> None:
    """The same for a sound of ESC-50, which is in a Parquet file."""
    table = pq.read_table(row.path).to_pylist()
    entry = next(entry for entry in table if entry["filename"] == row.file_name)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "sound.wav"
        file.write_bytes(entry["audio"]["bytes"])
        spoil(file)
        entry["audio"]["bytes"] = file.read_bytes()
    write_esc50_file(row.path, table)
    esc50.forget()


def _write_video(path: Path, frames: int, seconds: float) -> None:
    """A video of so many frames; with a sound track where that is the only sound there is."""
    sound = (tone(330, 44_100, seconds), 44_100) if path.suffix == ".mp4" else None
    write_video(path, moving_square(frames), round(frames / seconds), audio=sound)


def _format(path: Path) -> str:
    return "JPEG" if path.suffix == ".jpg" else "PNG"
