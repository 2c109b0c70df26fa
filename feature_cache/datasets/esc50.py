"""ESC-50: sounds of five seconds from 50 sources, in Parquet files."""

from collections.abc import Sequence
from functools import lru_cache, partial
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from feature_cache.datasets.base import Item, Waveform
from feature_cache.datasets.published import Layout, published_splits
from feature_cache.datasets.splits import members
from feature_cache.decoding.audio import open_waveform
from feature_cache.manifest import ClassLabel, MediaSource

FOLDER = "esc50/data"
TRAINED_FIFTHS = 4
"""Of the rows of all files together, in order, so many fifths are for training: 1,600 of 2,000, as published."""


LARGE = 200 * 10**6
"""Bytes of a row group beyond which the user is told what it costs."""


class Row(NamedTuple):
    """A row of a file, and where its sound is: in which file, in which of its row groups, and where in that."""

    file_name: str
    category: str
    path: Path
    group: int
    offset: int


class Esc50:
    """1,600 and 400 sounds; class and caption are the raw category, such as "chirping_birds".

    Attributes:
        notes: what a user should know of the files, a sentence each.
    """

    name = "esc50"
    version = "1"
    modalities = ("text", "audio")
    open_classes: tuple[ClassLabel, ...] = ()
    sources = (
        MediaSource("ESC-50 (hub ashraq/esc50)", "main", "CC-BY-NC-3.0", "https://github.com/karolpiczak/ESC-50"),
    )
    synthetic = False
    layout = f"{FOLDER}/train-0000{{0,1}}-of-00002-*.parquet"

    def __init__(self, data_root: Path) -> None:
        layout = Layout(self.name, data_root, self.layout)
        files = layout.files(FOLDER, ".parquet")
        if len(files) != 2:
            raise layout.wrong(f"{layout.root / FOLDER} should have 2 .parquet files, but has {len(files)}")
        rows = [row for name in files for row in _rows(layout, layout.root / FOLDER / name)]
        categories = sorted({row.category for row in rows})
        self.classes = tuple(ClassLabel(category, category) for category in categories)
        labels = {category: number for number, category in enumerate(categories)}
        items = [Item(r.file_name, r.category, labels[r.category], media={"audio": partial(_sound, r)}) for r in rows]
        self.notes = _notes([layout.root / FOLDER / name for name in files])
        trained = len(items) * TRAINED_FIFTHS // 5
        self._splits = published_splits(items[:trained], items[trained:])

    def items(self, split: str) -> Sequence[Item]:
        return members(self._splits, split)


def _rows(layout: Layout, path: Path) -> list[Row]:
    """All rows of a file without their sounds, which are most of it."""
    try:
        with pq.ParquetFile(path) as file:
            names = file.read(columns=["filename", "category"]).to_pydict()
            sizes = [file.metadata.row_group(group).num_rows for group in range(file.num_row_groups)]
            file.schema_arrow.field("audio")
        places = [(group, offset) for group, size in enumerate(sizes) for offset in range(size)]
        columns = (names["filename"], names["category"])
    except (pa.ArrowException, OSError, KeyError) as error:
        raise layout.wrong(f"{path} should be a Parquet file with filename, category and audio ({error})") from None
    return [Row(name, category, path, *place) for name, category, place in zip(*columns, places, strict=True)]


def _notes(paths: Sequence[Path]) -> tuple[str, ...]:
    found = [pq.read_metadata(path) for path in paths]
    largest = max(file.row_group(n).total_byte_size for file in found for n in range(file.num_row_groups))
    if largest < LARGE:
        return ()
    size = f"{largest / 1e6:.0f} MB"
    return (
        f"The Parquet files have row groups of {size}. Each worker process keeps one, and takes several times as much "
        "to read it: if memory is short, give fewer --workers, or write the files anew with 100 rows in a group.",
    )


def _sound(row: Row) -> Waveform:
    entry: dict[str, bytes] = _sounds_of(row.path, row.group)[row.offset].as_py()
    return open_waveform(entry["bytes"])


@lru_cache(maxsize=1)
def _sounds_of(path: Path, group: int) -> pa.ChunkedArray:
    """The encoded sounds of a row group. One is kept: rows are asked for nearly in their order, and it is 40 MB."""
    with pq.ParquetFile(path) as file:
        sounds = file.read_row_group(group, ["audio.bytes"], use_threads=False)["audio"]
    pa.default_memory_pool().release_unused()  # decoding takes several times as much, which would be kept
    return sounds


forget = _sounds_of.cache_clear
"""For those who rewrite a file that has been read."""
