"""UCF101: videos of people doing one of 101 things."""

import re
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path

from feature_cache.datasets.base import Item
from feature_cache.datasets.published import Layout, published_splits, stem
from feature_cache.datasets.splits import members
from feature_cache.decoding.video import open_video
from feature_cache.manifest import ClassLabel, MediaSource

FOLDERS = {"train": ("train",), "test": ("test", "val")}
"""Per split its folders: what the release calls validation is tested on, as published."""


class Ucf101:
    """About 10,000 and 3,300 videos; a class is a folder, and its name in words is the caption of its videos."""

    name = "ucf101"
    version = "1"
    modalities = ("text", "video")
    open_classes: tuple[ClassLabel, ...] = ()
    sources = (
        MediaSource(
            "UCF101 (hub NoahMartinezXiang/UCF101)",
            "main",
            "not stated; for research",
            "https://www.crcv.ucf.edu/data/UCF101.php",
        ),
    )
    synthetic = False
    layout = "ucf101/UCF101/{train,test,val}/<Class>/*.avi"

    def __init__(self, data_root: Path) -> None:
        layout = Layout(self.name, data_root, self.layout)
        videos = {split: list(_videos(layout, folders)) for split, folders in FOLDERS.items()}
        names = sorted({path.parent.name for paths in videos.values() for path in paths})
        self.classes = tuple(ClassLabel(name, in_words(name)) for name in names)
        labels = {label.name: (number, label.text) for number, label in enumerate(self.classes)}
        self._splits = published_splits(**{split: [_item(path, labels) for path in videos[split]] for split in FOLDERS})

    def items(self, split: str) -> Sequence[Item]:
        return members(self._splits, split)


def in_words(name: str) -> str:
    """A class as the published caption: lower case, a space before what was upper case.

    >>> in_words("ApplyEyeMakeup"), in_words("YoYo")
    ('apply eye makeup', 'yo yo')
    """
    return re.sub("[A-Z]", lambda match: " " + match[0].lower(), name).strip()


def _videos(layout: Layout, folders: Sequence[str]) -> Iterator[Path]:
    for folder in folders:
        for name in layout.folders(f"ucf101/UCF101/{folder}"):
            path = f"ucf101/UCF101/{folder}/{name}"
            yield from (layout.root / path / file for file in layout.files(path, ".avi"))


def _item(path: Path, labels: Mapping[str, tuple[int, str]]) -> Item:
    label, text = labels[path.parent.name]
    return Item(f"{path.parent.name}_{stem(path.name)}", text, label, media={"video": partial(open_video, path)})
