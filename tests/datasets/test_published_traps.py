"""What any published layout may have beside what it should."""

import os
import time
from pathlib import Path

import pytest

from feature_cache.datasets.base import Item
from feature_cache.datasets.llvip import Llvip
from feature_cache.datasets.nyudv2 import NyuDepthV2
from feature_cache.datasets.published import published_splits
from feature_cache.datasets.ucf101 import Ucf101
from feature_cache.errors import MediaError
from tests.datasets.opened import colour_of, empty, picture


@pytest.mark.parametrize("name", ["Thumbs.db", ".DS_Store", "._010001.jpg", "010003.jpg.part", ".010003.jpg.part"])
def test_stray_files_are_no_items(tmp_path: Path, name: str) -> None:
    for split in ("train", "test"):
        for side in ("visible", "infrared"):
            picture(tmp_path / "llvip/LLVIP" / side / split / "010001.jpg")
            (tmp_path / "llvip/LLVIP" / side / split / name).write_bytes(b"x")
            (tmp_path / "llvip/LLVIP" / side / split / "nested").mkdir()
    for folder in ("train", "val", "test"):
        (tmp_path / "ucf101/UCF101" / folder / "Yo").mkdir(parents=True)
        for path in (f"Yo/{folder}.avi", f"Yo/{name}", f"Yo/{folder}.avi.part", name):
            (tmp_path / "ucf101/UCF101" / folder / path).write_bytes(b"x")
    assert [item.id for split in ("train", "test") for item in Llvip(tmp_path).items(split)] == ["010001"] * 2
    assert [item.id for split in ("train", "test") for item in Ucf101(tmp_path).items(split)] == [
        "Yo_train", "Yo_test", "Yo_val",
    ]  # fmt: skip


def test_a_thousand_equal_ids_take_no_quadratic_time() -> None:
    started = time.process_time()
    items = published_splits((Item("frame", "") for _ in range(30_000)), [])["train"]
    assert len({item.id for item in items}) == 30_000 and items[-1].id == "frame~9999"
    assert time.process_time() - started < 5


def test_an_empty_folder_is_named(tmp_path: Path) -> None:
    empty(tmp_path / "ucf101/UCF101/train/Zoo/a.txt")
    with pytest.raises(MediaError, match="train/Zoo has no .avi files"):
        Ucf101(tmp_path)
    (tmp_path / "nyu-d-2/raw_data/train").mkdir(parents=True)
    with pytest.raises(MediaError, match="raw_data/train has no folders"):
        NyuDepthV2(tmp_path)


def test_a_file_name_that_is_not_unicode_has_an_id_that_is(tmp_path: Path) -> None:
    for split in ("train", "test"):
        for folder in ("visible", "infrared"):
            path = tmp_path / "llvip/LLVIP" / folder / split
            picture(path / "plain.jpg").rename(path / os.fsdecode(b"caf\xe9.jpg"))
    (item,) = Llvip(tmp_path).items("train")
    assert item.id == "caf?"
    assert colour_of(item, "thermal") == (200, 0, 0)
