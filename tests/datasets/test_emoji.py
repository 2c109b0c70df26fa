from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from feature_cache.datasets.base import Item
from feature_cache.datasets.pocket.emoji import EmojiPictures
from feature_cache.datasets.pocket.pictures import on_white
from feature_cache.errors import MediaError
from feature_cache.manifest import SPLITS
from tests.datasets.tiny_media import EMOJI, FILES, WITHOUT_PICTURE, write_emoji

LEFT_OUT = ("Flags", "Symbols")


@pytest.fixture(scope="module")
def items(tiny_media: Path) -> dict[str, Item]:
    dataset = EmojiPictures(tiny_media)
    return {item.caption: item for split in SPLITS for item in dataset.items(split)}


def test_flags_symbols_and_emoji_without_a_picture_are_left_out(items: dict[str, Item]) -> None:
    expected = {
        name for emoji, (name, group) in EMOJI.items() if group not in ("Flags", "Symbols") and emoji != WITHOUT_PICTURE
    }
    assert set(items) == expected


def test_a_picture_is_found_without_the_variation_selector_in_its_name(items: dict[str, Item]) -> None:
    assert items["red heart"].id == "2764"


def test_pictures_are_shown_on_white(items: dict[str, Item]) -> None:
    pixels = np.asarray(items["pizza"].open("vision"))
    expected = np.full((8, 8, 3), 255)
    expected[4, 4] = [10 * FILES.index("1f355"), 0, 0]
    np.testing.assert_array_equal(pixels, expected)


def test_a_half_transparent_pixel_is_half_white() -> None:
    # alpha 51 / 255 = 0.2: 0.2 · colour + 0.8 · 255
    assert on_white(Image.new("RGBA", (1, 1), (0, 100, 200, 51))).getpixel((0, 0)) == (204, 224, 244)


def test_members_of_one_family_share_a_split(tiny_media: Path) -> None:
    dataset = EmojiPictures(tiny_media)
    homes = {split for split in SPLITS for item in dataset.items(split) if "cook" in item.caption}
    assert len(homes) == 1


def test_the_text_of_a_group_is_what_people_would_say(items: dict[str, Item], tiny_media: Path) -> None:
    label = EmojiPictures(tiny_media).open_classes[items["pizza"].open_label]
    assert (label.name, label.text) == ("Food & Drink", "food and drink")


def test_names_without_any_picture_are_an_error(tmp_path: Path) -> None:
    write_emoji(tmp_path)
    for path in tmp_path.rglob("*.webp"):
        path.unlink()
    with pytest.raises(MediaError, match=r"assets has no \*.webp: delete .*make pocket-media"):
        EmojiPictures(tmp_path)


def test_pictures_of_no_emoji_in_the_list_are_an_error(tmp_path: Path) -> None:
    write_emoji(tmp_path)
    for number, path in enumerate(tmp_path.rglob("*.webp")):
        path.rename(path.with_stem(f"{number:04d}"))
    with pytest.raises(MediaError, match=r"assets has no picture of any emoji in .*make pocket-media"):
        EmojiPictures(tmp_path)


@pytest.mark.parametrize(
    "content", [None, "", '{"😀": ', "[]", '{"😀": 5}', '{"😀": {"name": "grinning face"}}', "\xff"]
)
def test_a_damaged_list_of_emoji_is_an_error_that_names_it(tmp_path: Path, content: str | None) -> None:
    write_emoji(tmp_path)
    [path] = tmp_path.rglob("data-by-emoji.json")
    path.unlink()
    if content is not None:
        path.write_text(content, encoding="latin-1" if content == "\xff" else "utf-8")
    with pytest.raises(
        MediaError, match=r"data-by-emoji.json is not the list of emoji .*delete .*unicode-emoji-json and"
    ):
        EmojiPictures(tmp_path)
