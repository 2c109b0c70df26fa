"""UCF101 and NYU Depth v2 as tensorflow-datasets prepares them: ArrayRecord files below `<data_root>/tfds`.

Only preparing them needs TensorFlow. Reading does not: the records are `tf.train.Example` messages, of which any one
can be read without the others, so that worker processes stay light and open what they are asked for.
"""

import functools
import importlib.util
import json
import re
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from feature_cache.atomic import write_atomically
from feature_cache.datasets.base import DepthMap, Item, Raw, Video
from feature_cache.datasets.published import published_splits
from feature_cache.datasets.splits import members
from feature_cache.datasets.ucf101 import in_words
from feature_cache.decoding.pictures import open_picture
from feature_cache.errors import MediaError, UserError
from feature_cache.manifest import ClassLabel, MediaSource

if TYPE_CHECKING:
    from PIL.Image import Image

FOLDER = "tfds"
BUILDERS = {"ucf101": "ucf101/ucf101_1", "nyudv2": "nyu_depth_v2"}
"""What tensorflow-datasets calls them; of UCF101's three official splits, the first."""
CHUNK = 32
FRAMES_PER_SECOND = 25.0


class Ucf101FromTfds:
    """9,537 and 3,783 videos, the first official split; class and caption as those of the files.

    The names of the files are not kept, so that an id is the class and the number of the record.
    """

    name = "ucf101"
    version = "1+tfds"
    modalities = ("text", "video")
    open_classes: tuple[ClassLabel, ...] = ()
    sources = (
        MediaSource(
            "UCF101 (tensorflow-datasets ucf101/ucf101_1)",
            "2.0.0",
            "not stated; for research",
            "https://www.crcv.ucf.edu/data/UCF101.php",
        ),
    )
    synthetic = False

    def __init__(self, data_root: Path) -> None:
        prepared = Prepared.find(self.name, data_root)
        names = (prepared.folder / "label.labels.txt").read_text().split()
        ordered = sorted(names)
        self.classes = tuple(ClassLabel(name, in_words(name)) for name in ordered)
        numbers = [ordered.index(name) for name in names]
        self._splits = published_splits(*(self._items(prepared, split, numbers) for split in ("train", "test")))

    def items(self, split: str) -> Sequence[Item]:
        return members(self._splits, split)

    def _items(self, prepared: "Prepared", split: str, numbers: Sequence[int]) -> Iterator[Item]:
        records = prepared.records(split)
        for index, label in enumerate(prepared.labels(split)):
            known = self.classes[numbers[label]]
            media = {"video": partial(_open_video, records, index)}
            yield Item(f"{known.name}_{index:05d}", known.text, numbers[label], media=media)


class NyuDepthV2FromTfds:
    """47,584 and 654 frames without their scenes, whose names are not kept; depth is rounded to 16-bit floats."""

    name = "nyudv2"
    version = "1+tfds"
    modalities = ("vision", "depth")
    classes: tuple[ClassLabel, ...] = ()
    open_classes: tuple[ClassLabel, ...] = ()
    sources = (
        MediaSource(
            "NYU Depth v2 (tensorflow-datasets nyu_depth_v2)",
            "0.0.1",
            "not stated; for research",
            "https://cs.nyu.edu/~fergus/datasets/nyu_depth_v2.html",
        ),
    )
    synthetic = False

    def __init__(self, data_root: Path) -> None:
        prepared = Prepared.find(self.name, data_root)
        self._splits = published_splits(_frames(prepared, "train"), _frames(prepared, "validation"))

    def items(self, split: str) -> Sequence[Item]:
        return members(self._splits, split)


def _frames(prepared: "Prepared", split: str) -> Iterator[Item]:
    records, shape = prepared.records(split), prepared.shape("depth")
    for index in range(len(records)):
        media: dict[str, Callable[[], Raw]] = {
            "vision": partial(_open_picture, records, index),
            "depth": partial(_open_depth, records, index, shape),
        }
        yield Item(f"{split}_{index:05d}", "", media=media)


@dataclass(frozen=True)
class Prepared:
    """A dataset that tensorflow-datasets has written.

    Attributes:
        name: the key in `BUILDERS`.
        folder: of one version, with `dataset_info.json`.
        info: what is in that file.
    """

    name: str
    folder: Path
    info: Mapping[str, Any]

    @classmethod
    def find(cls, name: str, data_root: Path) -> "Prepared":
        """The newest version below the data root. Raises `MediaError` if there is none that can be read at random."""
        root = data_root / FOLDER / BUILDERS[name]
        versions = [path.parent for path in root.glob("*/dataset_info.json")]
        if not versions:
            raise MediaError(
                f"There is no prepared {BUILDERS[name]} in {root}. {_how_to_prepare(name, data_root)} If you have it "
                f"elsewhere, `ln -s ~/tensorflow_datasets {data_root / FOLDER}`."
            )
        folder = max(versions, key=lambda path: [int(number) for number in re.findall(r"\d+", path.name)])
        info = json.loads((folder / "dataset_info.json").read_text())
        if info.get("fileFormat") != "array_record":
            raise MediaError(
                f"{folder} is in the format {info.get('fileFormat', 'tfrecord')!r}, which can only be read in its "
                f"order. Delete it; then: {_how_to_prepare(name, data_root)}"
            )
        return cls(name, folder, info)

    def records(self, split: str) -> "Records":
        """The records of one of its splits. Raises `MediaError` if files are missing."""
        _require("array_record", "tensorflow_datasets")
        files = tuple(str(path) for path in sorted(self.folder.glob(f"*-{split}.array_record-*")))
        splits = {entry["name"]: entry for entry in self.info.get("splits", [])}
        lengths = [int(length) for length in splits.get(split, {}).get("shardLengths", [])]
        if len(files) != len(lengths):
            raise MediaError(f"{self.folder} should have {len(lengths)} files of {split}, but {len(files)} are there.")
        records = Records(files)
        if len(records) != sum(lengths):
            raise MediaError(
                f"{self.folder} should have {sum(lengths)} records of {split}, but {len(records)} are there."
            )
        return records

    def labels(self, split: str) -> list[int]:
        """The feature `label` of every record. All have to be read once for it, so that the list is kept in a file."""
        kept = self.folder / f".labels-{split}.json"
        records = self.records(split)
        with suppress(OSError, ValueError):
            labels: list[int] = json.loads(kept.read_text())
            if len(labels) == len(records):
                return labels
        labels = [int(features["label"].int64_list.value[0]) for features in records.in_order()]
        with suppress(OSError):  # a folder that belongs to somebody else
            write_atomically(kept, json.dumps(labels).encode())
        return labels

    def shape(self, feature: str) -> tuple[int, ...]:
        """Of a tensor, as `features.json` says."""
        features = json.loads((self.folder / "features.json").read_text())["featuresDict"]["features"]
        return tuple(int(size) for size in features[feature]["tensor"]["shape"]["dimensions"])


@dataclass(frozen=True)
class Records:
    """Messages in ArrayRecord files. It can be sent to other processes, each of which opens the files for itself."""

    files: tuple[str, ...]

    def __len__(self) -> int:
        return len(_opened(self.files))

    def __getitem__(self, index: int) -> Mapping[str, Any]:
        """The features of one record."""
        return _features(_opened(self.files)[index])

    def in_order(self) -> Iterator[Mapping[str, Any]]:
        opened = _opened(self.files)
        for start in range(0, len(opened), CHUNK):
            yield from map(_features, opened.__getitems__(range(start, min(start + CHUNK, len(opened)))))


@functools.lru_cache(maxsize=8)
def _opened(files: tuple[str, ...]) -> Any:
    from array_record.python.array_record_data_source import ArrayRecordDataSource

    return ArrayRecordDataSource(list(files))


def _features(record: bytes) -> Mapping[str, Any]:
    from tensorflow_datasets.proto import tf_example_pb2

    features: Mapping[str, Any] = tf_example_pb2.Example.FromString(record).features.feature
    return features


@dataclass(frozen=True, eq=False)
class JpegFrames(Video):
    """A video whose frames are JPEG pictures in memory, decoded when they are picked."""

    frames: Sequence[bytes]
    rate: float = FRAMES_PER_SECOND

    def __len__(self) -> int:
        return len(self.frames)

    def pick(self, indices: Sequence[int]) -> "list[Image]":
        return [open_picture(self.frames[index]).convert("RGB") for index in indices]


def _open_video(records: Records, index: int) -> JpegFrames:
    return JpegFrames(tuple(records[index]["video"].bytes_list.value))


def _open_picture(records: Records, index: int) -> "Image":
    return open_picture(records[index]["image"].bytes_list.value[0])


def _open_depth(records: Records, index: int, shape: tuple[int, ...]) -> DepthMap:
    depth = np.asarray(records[index]["depth"].float_list.value, np.float32).reshape(shape)
    return DepthMap(np.where(depth > 0, depth, np.float32(np.inf)), unit=1.0)


def prepare(name: str, data_root: Path) -> Path:
    """Downloads a dataset with tensorflow-datasets and writes it as ArrayRecord files; returns their folder.

    Raises `UserError` if TensorFlow is missing, or what else the dataset needs.
    """
    _require("tensorflow", "tensorflow_datasets", "array_record")
    if name == "ucf101" and not shutil.which("ffmpeg"):
        raise UserError(
            "tensorflow-datasets cuts UCF101 into frames with ffmpeg, which is not installed. Install it (Debian and "
            "Ubuntu: sudo apt-get install ffmpeg; macOS: brew install ffmpeg)."
        )
    import tensorflow_datasets as tfds

    builder = tfds.builder(BUILDERS[name], data_dir=data_root / FOLDER, file_format="array_record")
    builder.download_and_prepare()
    return Prepared.find(name, data_root).folder


def _how_to_prepare(name: str, data_root: Path) -> str:
    return (
        f"Run `python extract_features.py download --dataset={name} --source=tfds --data_root={data_root}`, which "
        f"needs TensorFlow: `{_INSTALL['tensorflow']}`."
    )


_INSTALL = {"tensorflow": "pip install 'cmcl-jax[tensorflow]'"}


def _require(*packages: str) -> None:
    for package in packages:
        if importlib.util.find_spec(package) is None:
            install = _INSTALL.get(package, "pip install 'cmcl-jax[tfds]'")
            raise UserError(f"--source=tfds needs the package {package}, which is not installed: `{install}`.")
