"""Broken media raise when they are opened and not before; odd ones open."""

import itertools
import shutil
from pathlib import Path

import numpy as np
import pytest

from feature_cache.datasets import PAPER, REGISTRY
from feature_cache.datasets.base import DepthMap, Item, Video, Waveform
from feature_cache.registry import resolve
from tests.broken_media import BROKEN, CAPTIONS, ODD, Spoiled, break_media
from tests.datasets.test_paper_datasets import digest
from tests.raw_datasets import write_raw_datasets

SHARE, EACH = 0.05, 8


def all_items(root: Path) -> dict[tuple[str, str, str], Item]:
    datasets = [resolve(REGISTRY, "dataset", name)(root) for name in PAPER]
    return {(d.name, split, item.id): item for d in datasets for split in ("train", "test") for item in d.items(split)}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_raw_datasets(tmp_path_factory.mktemp("whole"), items_per_split=EACH)


@pytest.fixture(scope="module")
def spoiled(whole: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Spoiled]]:
    root = shutil.copytree(whole, tmp_path_factory.mktemp("spoiled") / "media")
    return root, break_media(root, SHARE)


def key(medium: Spoiled) -> tuple[str, str, str]:
    return medium.dataset, medium.split, medium.id


def test_the_asked_for_share_is_broken_and_every_way_of_being_odd_occurs(
    whole: Path, spoiled: tuple[Path, list[Spoiled]]
) -> None:
    _, media = spoiled
    assert len(set(map(key, media))) == len(media)
    broken = [medium.way for medium in media if medium.broken]
    assert len(broken) == -(-len(all_items(whole)) * 5 // 100) >= 3
    assert broken == list(itertools.islice(itertools.cycle(BROKEN), len(broken)))
    assert {medium.way for medium in media if not medium.broken} == {*ODD, *CAPTIONS}


def test_listings_are_those_of_the_whole_media(whole: Path, spoiled: tuple[Path, list[Spoiled]]) -> None:
    root, _ = spoiled
    assert [*all_items(root)] == [*all_items(whole)]


def test_broken_media_raise_and_odd_ones_open(spoiled: tuple[Path, list[Spoiled]]) -> None:
    root, media = spoiled
    items = all_items(root)
    for medium in media:
        if medium.broken:
            with pytest.raises((OSError, ValueError)):
                items[key(medium)].open(medium.modality)
        else:
            digest(items[key(medium)].open(medium.modality))


@pytest.mark.parametrize("way", BROKEN)
def test_every_way_of_being_broken_raises(way: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.broken_media.BROKEN", {way: BROKEN[way]})
    monkeypatch.setattr("tests.broken_media.ODD", {})
    medium = break_media(write_raw_datasets(tmp_path), share=0.001)[0]
    with pytest.raises((OSError, ValueError)):
        all_items(tmp_path)[key(medium)].open(medium.modality)


def test_odd_media_are_as_odd_as_they_say(spoiled: tuple[Path, list[Spoiled]]) -> None:
    root, media = spoiled
    items = all_items(root)
    opened = {medium.way: items[key(medium)].open(medium.modality) for medium in media if not medium.broken}
    rate, short = opened["sound of another sample rate"], opened["sound of 0.2 s"]
    assert isinstance(rate, Waveform) and rate.rate == 8_000
    # An MP3 has silence around the sound.
    assert isinstance(short, Waveform) and 3_200 <= len(short.samples) < 3_200 + 2 * 2_304
    for way in ("mono sound", "stereo sound", "5.1 sound"):
        sound = opened[way]
        assert isinstance(sound, Waveform) and sound.samples.ndim == 1 and np.abs(sound.samples).max() > 0.4
    one, brief = opened["video of one frame"], opened["video of 0.2 s"]
    assert isinstance(one, Video) and len(one) == 1
    assert isinstance(brief, Video) and len(brief) / brief.rate == pytest.approx(0.2)
    ways = ("grey picture", "picture of 16 bits", "picture with transparency", "picture with a palette")
    assert [opened[way].mode for way in ways] == ["L", "I;16", "RGBA", "P"]  # type: ignore[union-attr]
    depth = opened["depth map of 8 bits"]
    assert isinstance(depth, DepthMap) and np.isfinite(depth.depth).all()
    assert [opened[way] for way in CAPTIONS] == list(CAPTIONS.values())


def test_the_others_are_untouched(whole: Path, spoiled: tuple[Path, list[Spoiled]]) -> None:
    root, media = spoiled
    harmed = set(map(key, media))
    before, after = all_items(whole), all_items(root)
    compared = 0
    for name in ("esc50", "nyudv2", "vggsound_s", "llvip"):
        for place in [place for place in before if place[0] == name and place not in harmed]:
            compared += 1
            assert all(
                digest(before[place].open(modality)) == digest(after[place].open(modality))
                for modality in before[place].media
            )
    assert compared > 50


def test_the_same_seed_spoils_the_same(whole: Path, spoiled: tuple[Path, list[Spoiled]], tmp_path: Path) -> None:
    _, media = spoiled
    assert break_media(shutil.copytree(whole, tmp_path / "again"), SHARE) == media
    assert break_media(shutil.copytree(whole, tmp_path / "other"), SHARE, seed=1) != media


def test_too_few_items_are_reported(whole: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="No item is left for .*items_per_split"):
        break_media(shutil.copytree(whole, tmp_path / "all"), share=1)
