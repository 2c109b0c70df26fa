"""VGGSound-S: videos of things that can be seen and heard, the first ten thousand of VGGSound."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from itertools import islice
from pathlib import Path
from typing import NamedTuple

from feature_cache.datasets.base import Item, Raw
from feature_cache.datasets.published import Layout, published_splits
from feature_cache.datasets.splits import members
from feature_cache.decoding.audio import open_waveform
from feature_cache.decoding.video import open_video
from feature_cache.manifest import ClassLabel, MediaSource

ROOT = "vggsound/scratch/shared/beegfs/hchen/train_data/VGGSound_final"
TABLE = "vggsound/vggsound.csv"
LIMITS = {"train": 10_001, "test": 2_001}
"""How many videos of each split are taken: the published counter stops one after 10,000 and 2,000."""


class Row(NamedTuple):
    """A line of the table."""

    id: str
    label: str
    split: str


class VggSoundS:
    """The first 10,001 and 2,001 rows of the table whose videos are there; class and caption are the raw label.

    The sound is the file in `audio` where there is one, and else the sound of the video itself, so that nothing has
    to be cut beforehand. The classes are those of the rows that are taken.
    """

    name = "vggsound_s"
    version = "1"
    modalities = ("text", "audio", "video")
    open_classes: tuple[ClassLabel, ...] = ()
    sources = (
        MediaSource(
            "VGGSound (hub Loie/VGGSound)", "main", "CC-BY-4.0", "https://www.robots.ox.ac.uk/~vgg/data/vggsound/"
        ),
    )
    synthetic = False
    layout = f"{TABLE}, {ROOT}/video/<youtube id>_<start, six digits>.mp4 and, if you like, {ROOT}/audio/<the same>.mp3"

    def __init__(self, data_root: Path) -> None:
        layout = Layout(self.name, data_root, self.layout)
        videos = set(layout.files(f"{ROOT}/video", ".mp4"))
        sounds = set(layout.files_if_any(f"{ROOT}/audio", ".mp3")) if (layout.root / ROOT / "audio").is_dir() else set()
        present = [row for row in _rows(layout) if f"{row.id}.mp4" in videos]
        taken = {split: _first(present, split) for split in LIMITS}
        if empty := [split for split, rows in taken.items() if not rows]:
            raise layout.wrong(f"no video of the {empty[0]} rows of {TABLE} is in {layout.root / ROOT / 'video'}")
        names = sorted({row.label for rows in taken.values() for row in rows})
        self.classes = tuple(ClassLabel(name, name) for name in names)
        labels = {name: number for number, name in enumerate(names)}
        items = {
            split: [_item(layout.root / ROOT, row, sounds, labels) for row in rows] for split, rows in taken.items()
        }
        self._splits = published_splits(**items)

    def items(self, split: str) -> Sequence[Item]:
        return members(self._splits, split)


def _rows(layout: Layout) -> Iterator[Row]:
    for number, row in enumerate(layout.rows(TABLE), start=1):
        if len(row) != 4 or not row[1].strip().isdecimal():
            raise layout.wrong(
                f"line {number} of {layout.root / TABLE} should be id, start, label, split, but is {row}"
            )
        yield Row(f"{row[0]}_{int(row[1]):06d}", row[2], row[3])


def _first(rows: Sequence[Row], split: str) -> list[Row]:
    """The first rows of a split; a video that is listed twice counts twice, as published, and is taken once."""
    first = islice((row for row in rows if row.split == split), LIMITS[split])
    return list({row.id: row for row in reversed(list(first))}.values())


def _item(root: Path, row: Row, sounds: set[str], labels: Mapping[str, int]) -> Item:
    video, sound = root / "video" / f"{row.id}.mp4", root / "audio" / f"{row.id}.mp3"
    audio = sound if sound.name in sounds else video
    media: dict[str, Callable[[], Raw]] = {"audio": partial(open_waveform, audio), "video": partial(open_video, video)}
    return Item(row.id, row.label, labels[row.label], media=media)
