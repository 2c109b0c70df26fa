from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from feature_cache.datasets.base import Item
from feature_cache.datasets.pocket.spoken import VOICES, Spoken
from feature_cache.manifest import SPLITS
from tests.datasets.tiny_media import EMOJI


@pytest.fixture(scope="module")
def items(tiny_media: Path) -> dict[str, Item]:
    dataset = Spoken(tiny_media)
    return {item.caption: item for split in SPLITS for item in dataset.items(split)}


def test_every_name_is_spoken_whether_or_not_it_is_drawn(items: dict[str, Item]) -> None:
    left_out = ("People & Body", "Flags", "Symbols")
    assert set(items) == {name for name, group in EMOJI.values() if group not in left_out}


def test_voices_take_turns(items: dict[str, Item]) -> None:
    voices = Counter(item.media["speech"].args[1] for item in items.values())
    assert set(voices) == set(VOICES) and max(voices.values()) - min(voices.values()) <= 1


def test_a_longer_name_takes_longer_and_both_can_be_heard(items: dict[str, Item]) -> None:
    short, long = items["key"].open("speech"), items["grinning face"].open("speech")
    assert short.rate == long.rate == 16_000
    assert len(short.samples) < len(long.samples)
    assert min(np.abs(short.samples).max(), np.abs(long.samples).max()) > 0.05


def test_a_name_of_the_same_thing_is_in_the_same_split_as_its_picture(tiny_media: Path) -> None:
    from feature_cache.datasets.pocket.emoji import EmojiPictures

    pictures, spoken = EmojiPictures(tiny_media), Spoken(tiny_media)
    for split in SPLITS:
        drawn = {item.id for item in pictures.items(split)}
        elsewhere = {item.id for other in SPLITS if other != split for item in spoken.items(other)}
        assert drawn.isdisjoint(elsewhere)
