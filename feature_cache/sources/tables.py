"""The tables that come with datasets and name their files; read without believing that they are whole."""

import csv
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

VGGSOUND_LIST = "vggsound.csv"
VGGSOUND_CLIPS = "scratch/shared/beegfs/hchen/train_data/VGGSound_final/video"


def rows(table: Path) -> Iterator[dict[str, str]]:
    """The rows of a CSV file with a header; bytes that are not UTF-8 are read as something."""
    with table.open(newline="", encoding="utf-8-sig", errors="replace") as file:
        yield from csv.DictReader(file)


def clotho_files(table: Path) -> Iterator[Path]:
    """The sounds that one of `clotho_captions_*.csv` names."""
    split = table.stem.rpartition("_")[2]
    for row in rows(table):
        if row.get("file_name"):
            yield table.parent / split / row["file_name"]


def tvl_files(table: Path) -> Iterator[Path]:
    """The pictures and tactile pictures of the captioned rows of one of TVL's tables."""
    for row in rows(table):
        url = row.get("url")
        if url and row.get("caption"):
            yield table.parent / url
            yield table.parent / (row.get("tactile") or url.replace("rgb", "tac"))


def vggsound_clips(table: Path, split: str, limit: int | None = None) -> Iterator[str]:
    """The first clips of a split in `vggsound.csv`, as the names of their files without ".mp4", in its order."""
    with table.open(newline="", encoding="utf-8", errors="replace") as file:
        listed = (row for row in csv.reader(file) if len(row) == 4 and row[3] == split and row[1].isdecimal())
        for video, second, _, _ in islice(listed, limit):
            yield f"{video}_{int(second):06d}"
