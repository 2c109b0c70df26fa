from pathlib import Path

import numpy as np
import pytest

from feature_cache.datasets.base import SPLITS, Item
from feature_cache.datasets.emoji import Emoji
from feature_cache.errors import MediaError
from tests.datasets.tiny_media import EMOJI, FILES, WITHOUT_PICTURE, write_emoji


@pytest.fixture(scope="module")
def items(tiny_media: Path) -> dict[str, Item]:
    dataset = Emoji(tiny_media)
    return {item.caption: item for split in SPLITS for item in dataset.items(split)}


def test_flags_and_emoji_without_a_picture_are_left_out(items: dict[str, Item]) -> None:
    expected = {name for emoji, (name, group) in EMOJI.items() if group != "Flags" and emoji != WITHOUT_PICTURE}
    assert set(items) == expected


def test_a_picture_is_found_without_the_variation_selector_in_its_name(items: dict[str, Item]) -> None:
    assert items["red heart"].id == "2764"


def test_pictures_are_shown_on_white(items: dict[str, Item]) -> None:
    pixels = np.asarray(items["pizza"].open("vision"))
    expected = np.full((8, 8, 3), 255)
    expected[4, 4] = [10 * FILES.index("1f355"), 0, 0]
    np.testing.assert_array_equal(pixels, expected)


def test_a_half_transparent_pixel_is_half_white(tmp_path: Path) -> None:
    from PIL import Image

    from feature_cache.datasets.pictures import on_white

    Image.new("RGBA", (1, 1), (0, 100, 200, 51)).save(tmp_path / "x.png")
    # alpha 51 / 255 = 0.2: 0.2 · colour + 0.8 · 255
    assert on_white(tmp_path / "x.png").getpixel((0, 0)) == (204, 224, 244)


def test_members_of_one_family_share_a_split(tiny_media: Path) -> None:
    dataset = Emoji(tiny_media)
    homes = {split for split in SPLITS for item in dataset.items(split) if "cook" in item.caption}
    assert len(homes) == 1


def test_the_class_text_is_what_people_would_say(items: dict[str, Item], tiny_media: Path) -> None:
    label = Emoji(tiny_media).classes[items["pizza"].label]
    assert (label.name, label.text) == ("Food & Drink", "food and drink")


def test_names_without_any_picture_are_an_error(tmp_path: Path) -> None:
    write_emoji(tmp_path)
    for path in tmp_path.rglob("*.webp"):
        path.unlink()
    with pytest.raises(MediaError, match=r"None of the emoji in .* has a picture in .*make pocket-media"):
        Emoji(tmp_path)
