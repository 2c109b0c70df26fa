import hashlib
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from feature_cache import datasets
from feature_cache.datasets.base import Clip, DepthMap, Item, Motion, Waveform
from feature_cache.datasets.pocket.fingerprints import main
from feature_cache.datasets.pocket.likeness import thumbnail
from feature_cache.manifest import SPLITS

RED = Image.new("RGB", (24, 24), "red")
MEDIA = {
    "vision": RED,
    "audio": Waveform(np.arange(5, dtype=np.float32), 8),
    "depth": DepthMap(np.ones((24, 24), np.float32)),
    "imu": Motion(np.ones((5, 6), np.float32), 50),
    "video": Clip([RED, Image.new("RGB", (24, 24), "blue")]),
}


class Everything:
    """One item in each split, in all modalities."""

    name = "everything"
    modalities = ("vision", "text", "audio", "depth", "imu", "video")

    def __init__(self, data_root: Path) -> None: ...

    def items(self, split: str) -> list[Item]:
        return [Item(f"{split}0", "a thing", media={name: lambda raw=raw: raw for name, raw in MEDIA.items()})]


@pytest.fixture
def table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[tuple[str, str], dict[str, object]]:
    monkeypatch.setattr(datasets, "POCKET", ("everything",))
    monkeypatch.setattr(datasets, "REGISTRY", {"everything": f"{__name__}:Everything"})
    main([f"--data_root={tmp_path}", f"--out={tmp_path / 'out.parquet'}"])
    rows = pq.read_table(tmp_path / "out.parquet").to_pylist()
    return {(row["split"], row["modality"]): row for row in rows}


def test_every_medium_but_text_has_a_row(table: dict[tuple[str, str], dict[str, object]]) -> None:
    assert set(table) == {(split, modality) for split in SPLITS for modality in MEDIA}


def test_the_checksum_is_that_of_pixels_and_samples(table: dict[tuple[str, str], dict[str, object]]) -> None:
    frames = b"".join(np.asarray(frame).tobytes() for frame in MEDIA["video"].frames)
    assert table["train", "video"]["sha256"] == hashlib.sha256(frames).digest()
    assert table["train", "audio"]["sha256"] == hashlib.sha256(MEDIA["audio"].samples.tobytes()).digest()


def test_what_can_be_looked_at_has_a_thumbnail(table: dict[tuple[str, str], dict[str, object]]) -> None:
    assert table["test", "vision"]["thumbnail"] == table["test", "video"]["thumbnail"] == thumbnail(RED).tobytes()
    assert len(table["test", "depth"]["thumbnail"]) == 12 * 12 * 3
    assert table["test", "audio"]["thumbnail"] is table["test", "imu"]["thumbnail"] is None
