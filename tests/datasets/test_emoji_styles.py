from pathlib import Path

import numpy as np
import pytest

from feature_cache.datasets.pocket.emoji_styles import SIDE, EmojiStyles
from feature_cache.datasets.splits import caption_key, split_of
from feature_cache.manifest import SPLITS
from tests.datasets.tiny_media import EMOJI


@pytest.fixture(scope="module")
def dataset(tiny_media: Path) -> EmojiStyles:
    return EmojiStyles(tiny_media)


def test_training_has_two_styles_of_every_class_and_the_third_is_divided(dataset: EmojiStyles) -> None:
    drawn = {
        split: sorted((item.label, item.id.rpartition("-")[2]) for item in dataset.items(split)) for split in SPLITS
    }
    classes = range(len(dataset.classes))
    assert drawn["train"] == sorted((label, style) for label in classes for style in ("noto", "flat"))
    assert sorted(drawn["validation"] + drawn["test"]) == [(label, "twemoji") for label in classes]


def test_classes_are_the_names_in_training_one_for_each_kind_without_people(dataset: EmojiStyles) -> None:
    keys = [caption_key(label.text) for label in dataset.classes]
    expected = {
        caption_key(name) for name, group in EMOJI.values() if group not in ("People & Body", "Flags", "Symbols")
    } - {"unicorn"}  # which is not drawn
    assert len(set(keys)) == len(keys) > 0
    assert set(keys) == {key for key in expected if split_of(key) == "train"}


def test_a_vector_drawing_is_rendered_on_white(dataset: EmojiStyles) -> None:
    flat = next(item for item in dataset.items("train") if item.id.endswith("flat")).open("vision")
    expected = np.full((SIDE, SIDE, 3), 255)
    expected[:, : SIDE // 2] = [255, 0, 0]
    np.testing.assert_array_equal(np.asarray(flat), expected)


def test_a_file_with_variation_selectors_in_its_name_is_found(dataset: EmojiStyles) -> None:
    assert {"2764-noto", "2764-flat"} <= {item.id for item in dataset.items("train")}
