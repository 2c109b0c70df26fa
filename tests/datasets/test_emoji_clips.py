from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from feature_cache.datasets.base import Item
from feature_cache.datasets.pocket.emoji_clips import EmojiClips, is_animated, read_clip
from feature_cache.manifest import SPLITS
from tests.datasets.tiny_media import FILES


@pytest.fixture(scope="module")
def items(tiny_media: Path) -> dict[str, Item]:
    dataset = EmojiClips(tiny_media)
    return {item.id: item for split in SPLITS for item in dataset.items(split)}


def test_only_what_moves_is_a_clip(items: dict[str, Item]) -> None:
    single_pictures = {FILES[2], FILES[5], FILES[8], FILES[-1]}
    assert set(items) == set(FILES) - single_pictures - {"1f1eb-1f1f7"}  # a flag


def test_frames_are_from_the_middle_of_equal_stretches(items: dict[str, Item]) -> None:
    frames = items[FILES[0]].open("video").frames
    greys = [int(np.asarray(frame)[0, 0, 0]) for frame in frames]  # frame i of 12 is 20 i grey
    assert greys == [20 * i for i in (1, 3, 5, 7, 9, 11)]
    assert {frame.mode for frame in frames} == {"RGB"}


def test_the_still_is_another_drawing(items: dict[str, Item]) -> None:
    assert np.asarray(items[FILES[0]].open("vision"))[1, 1].tolist() == [0, 0, 200]


@pytest.mark.parametrize("count", [1, 2, 5, 12, 13])
def test_a_short_clip_repeats_frames(tmp_path: Path, count: int) -> None:
    frames = [Image.new("RGB", (4, 4), (10 * i + 1,) * 3) for i in range(count)]
    frames[0].save(tmp_path / "a.webp", save_all=True, append_images=frames[1:], lossless=True)
    greys = [int(np.asarray(frame)[0, 0, 0]) for frame in read_clip(tmp_path / "a.webp").frames]
    assert greys == sorted(greys) and len(greys) == 6
    assert is_animated(tmp_path / "a.webp") == (count > 1)


def test_a_truncated_clip_is_an_error_when_it_is_opened(tmp_path: Path) -> None:
    frames = [Image.new("RGB", (40, 40), (10 * i,) * 3) for i in range(8)]
    frames[0].save(tmp_path / "a.webp", save_all=True, append_images=frames[1:], lossless=True)
    data = (tmp_path / "a.webp").read_bytes()
    (tmp_path / "a.webp").write_bytes(data[: len(data) // 2])
    with pytest.raises(OSError):
        read_clip(tmp_path / "a.webp")
