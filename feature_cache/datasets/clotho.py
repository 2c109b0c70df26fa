"""Clotho: sounds of 15 to 30 seconds, each with captions that people wrote."""

import unicodedata
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

from feature_cache.datasets.base import Item
from feature_cache.datasets.published import Layout, published_splits, stem
from feature_cache.datasets.splits import members
from feature_cache.decoding.audio import open_waveform
from feature_cache.manifest import ClassLabel, MediaSource


class Clotho:
    """2,893 and 1,045 sounds (version 1; 3,839 and 1,045 in 2.1) with the first of their five captions.

    The id is the file's name before its first dot. Files whose names begin alike share it: the first in the table
    keeps it, the others get "~2" and so on, where the published list has only the first.
    """

    name = "clotho"
    version = "1"
    modalities = ("text", "audio")
    classes: tuple[ClassLabel, ...] = ()
    open_classes: tuple[ClassLabel, ...] = ()
    sources = (
        MediaSource(
            "Clotho (Zenodo 3490684), sounds of freesound.org under licences of their own",
            "1.0 or later",
            "Tampere University licence, non-commercial",
            "https://zenodo.org/records/3490684",
        ),
    )
    synthetic = False
    layout = "clotho/{development,evaluation}/*.wav and clotho/clotho_captions_{development,evaluation}.csv"

    def __init__(self, data_root: Path) -> None:
        layout = Layout(self.name, data_root, self.layout)
        self._splits = published_splits(_sounds(layout, "development"), _sounds(layout, "evaluation"))

    def items(self, split: str) -> Sequence[Item]:
        return members(self._splits, split)


def _sounds(layout: Layout, split: str) -> Iterator[Item]:
    folder = f"clotho/{split}"
    # Some systems take letters with accents apart in file names, which the table does not.
    files = {unicodedata.normalize("NFC", name): name for name in layout.files(folder, ".wav")}
    rows = layout.table(f"clotho/clotho_captions_{split}.csv", ("file_name", "caption_1"))
    seen: set[str] = set()
    for row in rows:
        name = row["file_name"]
        if name in seen:
            continue
        seen.add(name)
        path = layout.root / folder / files.get(unicodedata.normalize("NFC", name), name)
        yield Item(stem(name), row["caption_1"], media={"audio": partial(open_waveform, path)})
