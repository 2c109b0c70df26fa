"""The tables that come with datasets and name their files; read as far as they can be."""

import csv
import unicodedata
from collections.abc import Iterator
from contextlib import suppress
from itertools import islice
from pathlib import Path

VGGSOUND_LIST = "vggsound.csv"
VGGSOUND_CLIPS = "scratch/shared/beegfs/hchen/train_data/VGGSound_final/video"


def rows(table: Path) -> Iterator[dict[str, str]]:
    """The rows of a CSV file with a header; bytes that are not UTF-8 are read as something."""
    with suppress(OSError, csv.Error), table.open(newline="", encoding="utf-8-sig", errors="replace") as file:
        yield from csv.DictReader(file)


def clotho_files(table: Path) -> Iterator[Path]:
    """The sounds that one of `clotho_captions_*.csv` names; accents may be spelled in another way in their names."""
    folder = table.parent / table.stem.rpartition("_")[2]
    there = {unicodedata.normalize("NFC", path.name): path for path in folder.glob("*.wav")}
    for row in rows(table):
        if name := row.get("file_name"):
            yield there.get(unicodedata.normalize("NFC", name), folder / name)


def tvl_files(table: Path) -> Iterator[Path]:
    """The pictures and tactile pictures of the captioned rows of one of TVL's tables."""
    for row in rows(table):
        url = row.get("url")
        if url and row.get("caption"):
            yield table.parent / url
            yield table.parent / (row.get("tactile") or url.replace("rgb", "tac"))


def vggsound_clips(table: Path, split: str, limit: int | None = None) -> Iterator[str]:
    """The first clips of a split in `vggsound.csv`, as the names of their files without ".mp4", in its order."""
    with suppress(OSError, csv.Error), table.open(newline="", encoding="utf-8-sig", errors="replace") as file:
        listed = (row for row in csv.reader(file) if len(row) == 4 and row[3] == split and row[1].isdecimal())
        for video, second, _, _ in islice(listed, limit):
            yield f"{video}_{int(second):06d}"
