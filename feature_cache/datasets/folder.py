"""Anyone's own media, described by a table of pairs: `--dataset=folder --pairs=pairs.csv`. See `pair_table.py`.

    id,vision,text,label,split
    a1,pictures/a1.jpg,a blackbird on a fence,blackbird,train

Files are below the table's folder, or below --data_root; absolute paths are taken as they are. Pictures of vision,
thermal and tactile are what Pillow opens; sound of audio and speech, and videos, what libsndfile or FFmpeg do. A depth
map is a grey picture in millimetres (16 bits) or 255ths of 10 m (8 bits). A recording of an imu is an .npz with
`samples`, floats [t, 6], acceleration in g and then rotation in rad/s, and `rate`, per second.

A cell of text may be empty: it is an empty caption, and embedded as one. An empty cell of another modality, and a file
that cannot be opened, make the item a failure that is listed: a cache has every item in every modality.
"""

import zipfile
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import ClassVar

import numpy as np

from feature_cache.datasets.base import Item, Motion, Raw
from feature_cache.datasets.pair_table import ID, LABEL, SPLIT, PairTable, read_pairs, version_of
from feature_cache.datasets.splits import caption_key, hashed_split, members
from feature_cache.errors import MediaError
from feature_cache.manifest import SPLITS, ClassLabel, MediaSource
from feature_cache.registry import resolve

OPENERS = {
    "vision": "feature_cache.decoding.pictures:open_picture",
    "audio": "feature_cache.decoding.audio:open_waveform",
    "thermal": "feature_cache.decoding.pictures:open_picture",
    "depth": "feature_cache.decoding.depth:open_depth",
    "imu": "feature_cache.datasets.folder:open_motion",
    "video": "feature_cache.decoding.video:open_video",
    "tactile": "feature_cache.decoding.pictures:open_picture",
    "speech": "feature_cache.decoding.audio:open_waveform",
}


class Folder:
    """The media of a table; `of_table` makes the class of one, with its name and version.

    Attributes:
        pairs: the table's file.
        license: of the media.
        home: where relative paths start unless --data_root is given.
        notes: what a user should know of how the table was read, a sentence each.
    """

    name: ClassVar[str] = "folder"
    version: ClassVar[str] = "that of a table"
    pairs: ClassVar[Path | None] = None
    license: ClassVar[str] = "unknown"
    home: ClassVar[Path] = Path()

    open_classes: tuple[ClassLabel, ...] = ()
    synthetic = False

    def __init__(self, data_root: Path) -> None:
        """Reads the table. Raises `MediaError` where it is wrong; the media themselves are not looked for."""
        if self.pairs is None:
            raise MediaError("The dataset folder needs a table of its items: give --pairs=pairs.csv or .parquet.")
        table = read_pairs(self.pairs)
        self.modalities: tuple[str, ...] = table.modalities
        self.classes: tuple[ClassLabel, ...] = table.classes
        self.sources: tuple[MediaSource, ...] = (MediaSource(self.pairs.name, self.version, self.license, ""),)
        self._splits = _items(table, data_root)
        self.notes: tuple[str, ...] = ()
        if not table.has_splits:
            counts = ", ".join(f"{split} {len(items)}" for split, items in self._splits.items())
            self.notes = (
                f"{self.pairs.name} has no column {SPLIT!r}, so that the rows are split by their captions, those "
                "that differ in numbers, colours, sizes and the like alone together: "
                f"{counts}. Add the column to say it yourself.",
            )

    def items(self, split: str) -> Sequence[Item]:
        """The items of a split, in the order of the table."""
        return members(self._splits, split)


def of_table(pairs: Path, name: str | None = None, license: str = "unknown") -> type[Folder]:
    """The dataset that a table describes.

    Its version is the SHA-256 of the table, so that a cache is outdated once the table changes. The media are not part
    of it: after another picture has come under an old path, extract with --overwrite.

    Args:
        pairs: the table, CSV or Parquet.
        name: of the dataset, and of its cache's folder; by default the file's, without its ending.
        license: of the media, for the manifest.

    Raises `MediaError` if there is no such file, or if the name cannot be that of a cache.
    """
    name = pairs.stem if name is None else name
    _check_folder_name(name)

    class Table(Folder):
        pass

    Table.name, Table.version = name, version_of(pairs)
    Table.pairs, Table.license, Table.home = pairs, license, pairs.parent
    return Table


def open_medium(modality: str, path: Path) -> Raw:
    """Opens a file as the modality's raw type. Raises whatever its decoder does on a broken one."""
    raw: Raw = resolve(OPENERS, "modality", modality)(path)
    return raw


def open_motion(path: Path) -> Motion:
    """A recording of an inertial sensor. Raises `ValueError` for an .npz whose two arrays are not as they should be."""
    with path.open("rb") as opened:
        if not zipfile.is_zipfile(opened):
            raise ValueError(f"{path.name} should be an .npz with the arrays samples and rate, but is no .npz")
    with np.load(path, allow_pickle=False) as file:
        if not {"samples", "rate"} <= set(file.files):
            raise ValueError(f"{path.name} should have the arrays samples and rate, but has {', '.join(file.files)}")
        samples, rate = file["samples"], file["rate"]
    if samples.ndim != 2 or samples.shape[1] != 6 or not len(samples) or samples.dtype.kind != "f":
        found = f"{list(samples.shape)} of {samples.dtype}"
        raise ValueError(f"samples in {path.name} should be floats [t, 6], but are {found}")
    if rate.shape != () or rate.dtype.kind not in "iuf" or not rate > 0 or rate != np.floor(rate):
        raise ValueError(f"rate in {path.name} should be one positive whole number, but is {rate}")
    return Motion(samples.astype(np.float32), int(rate))


def _items(table: PairTable, root: Path) -> dict[str, list[Item]]:
    splits: dict[str, list[Item]] = {split: [] for split in SPLITS}
    index = {label.name: number for number, label in enumerate(table.classes)}
    texts = {label.name: label.text for label in table.classes}
    for number, cells in enumerate(table.rows, 1):
        label = cells.get(LABEL, "")
        caption = cells.get("text", texts.get(label, ""))
        media = {
            modality: partial(open_medium, modality, root / cells[modality])
            if cells[modality]
            else partial(_absent, modality, number)
            for modality in table.modalities
            if modality != "text"
        }
        item = Item(cells[ID], caption, index.get(label, -1), media=media)
        splits[cells[SPLIT] if table.has_splits else _split_of(item)].append(item)
    return splits


def _split_of(item: Item) -> str:
    """By the caption without what tells variants apart; by all of it, as of emoji; or by the id, without a caption."""
    return hashed_split(caption_key(item.caption) or item.caption.strip() or item.id)


def _absent(modality: str, row: int) -> Raw:
    raise ValueError(f"no {modality} in row {row}")


def _check_folder_name(name: str) -> None:
    from feature_cache import datasets

    if not name or name.startswith(".") or Path(name).name != name:
        raise MediaError(f"The dataset's name {name!r} cannot be that of a folder. Choose another with --name.")
    taken = [*datasets.REGISTRY, *datasets.GROUPS]
    if name in taken:
        raise MediaError(f"There is a dataset {name!r} already, whose cache this would be. Choose another with --name.")
