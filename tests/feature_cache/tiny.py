"""A deterministic encoder and dataset, small and without torch, that obey the protocols of the real ones."""

import os
import signal
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from feature_cache import MediaError, datasets, encoders
from feature_cache.datasets.base import ClassLabel, Item, MediaSource, Raw, Waveform
from feature_cache.manifest import ModalitySpec

COUNTS = {"train": 10, "validation": 3, "test": 5}
FIRST = {"train": 0, "validation": 100, "test": 200}
# The tones of each shard, at four items a shard.
SHARDS = {
    "train-00000": range(0, 4), "train-00001": range(4, 8), "train-00002": range(8, 10),
    "validation-00000": range(100, 103), "test-00000": range(200, 204), "test-00001": range(204, 205),
}  # fmt: skip
TONES = sorted(str(i) for numbers in SHARDS.values() for i in numbers)
REGISTRIES = (
    (encoders.REGISTRY, "tinybind", "tests.feature_cache.tiny:TinyBind"),
    (datasets.REGISTRY, "tones", "tests.feature_cache.tiny:Tones"),
)


class TinyBind:
    """Audio -> (first sample, mean, length); text -> (first byte, mean, length, 1), both /8 so that float16 is exact.

    What is embedded is appended, a line each, to the file that the environment variable TINY_LOG names.
    """

    name: ClassVar[str] = "tinybind"
    preprocessing_version: ClassVar[str] = "1"
    modalities: ClassVar[dict[str, ModalitySpec]] = {"text": ModalitySpec(4), "audio": ModalitySpec(3, 2.5)}
    weights: ClassVar[str] = "ab" * 32

    precisions: ClassVar[tuple[str, ...]] = ("float32",)

    def __init__(self, device: str = "auto", precision: str = "float32", weights: Path | None = None) -> None:
        self.device, self.precision = device, precision

    def weights_sha256(self) -> str:
        return self.weights

    def preprocess(self, modality: str, raw: Raw) -> np.ndarray[Any, Any]:
        if modality == "text":
            assert isinstance(raw, str)
            return np.frombuffer(raw.encode(), np.uint8)
        assert isinstance(raw, Waveform)
        return raw.samples

    def embed(self, modality: str, batch: Sequence[np.ndarray[Any, Any]]) -> np.ndarray[Any, Any]:
        if "TINY_LOG" in os.environ:
            with open(os.environ["TINY_LOG"], "a") as log:
                log.writelines(
                    f"{modality} {a.tobytes().decode() if modality == 'text' else int(a[0])}\n" for a in batch
                )
        rows = [[a[0], a.mean(), len(a), 8.0][: self.modalities[modality].dim] for a in batch]
        return np.array(rows, np.float32) / 8


class Tones:
    """`COUNTS` sounds below `data_root/tones`; neighbours share a caption."""

    name: ClassVar[str] = "tones"
    version: ClassVar[str] = "1"
    modalities = ("text", "audio")
    classes = tuple(ClassLabel(name, f"a {name} tone") for name in ("low", "middle", "high"))
    open_classes = (ClassLabel("tone", "something that sounds"),)
    sources = (MediaSource("numbers", "1", "CC0-1.0", "https://numpy.org"),)
    synthetic = True

    def __init__(self, data_root: Path) -> None:
        self.folder = data_root / "tones"
        if not self.folder.is_dir():
            raise MediaError(f"The tones are missing: {self.folder} is not a folder. Run `make tones`.")

    def items(self, split: str) -> list[Item]:
        return [self._item(split, i) for i in range(COUNTS[split])]

    def _item(self, split: str, i: int) -> Item:
        path = self.folder / f"{split}{i}.npy"
        return Item(path.stem, f"tone {i // 2}", i % 3, 0, {"audio": partial(read_tone, path)})


def read_tone(path: Path) -> Waveform:
    return Waveform(np.load(path), 8)


def write_tones(data_root: Path) -> Path:
    """Writes the media of `Tones`: the first sample says which one it is, lengths differ."""
    folder = data_root / "tones"
    folder.mkdir(parents=True)
    for split, count in COUNTS.items():
        for i in range(count):
            np.save(folder / f"{split}{i}.npy", np.full(2 + i % 4, FIRST[split] + i, np.float32))
    return data_root


def break_medium(data_root: Path, name: str) -> None:
    """Cuts a sound off in its header."""
    (data_root / "tones" / f"{name}.npy").write_bytes(b"\x93NUMPY")


def register() -> None:
    """For a process of its own; tests in this process use the fixture `tiny`."""
    for registry, name, target in REGISTRIES:
        registry[name] = target


def die_at_rename(count: int) -> None:
    """From now on the `count`-th file that would appear does not: the process gets SIGKILL instead."""
    replace, seen = os.replace, 0

    def deadly(source: Any, target: Any) -> None:
        nonlocal seen
        seen += 1
        if seen == count:
            os.kill(os.getpid(), signal.SIGKILL)
        replace(source, target)

    os.replace = deadly
